"""`inspect-prompt` for people: the prompt with its special tokens marked, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from kardiabench.report import plain

if TYPE_CHECKING:
    from rich.console import Console

    from kardiabench.inspection import Inspection, Piece

_STYLES = {"text": "", "mark": "reverse", "tag": "bold cyan"}


def show_inspection(seen: Inspection, console: Console, *, ids: bool = False) -> None:
    """Print `seen`; with `ids` every token in a line of its own with its id."""
    _show_tokens(seen.pieces, console) if ids else _show_text(seen.pieces, console)
    console.print()
    for name, value in _facts(seen):
        line = f"{name:<18}{plain(value)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print("\ngold reply, once decoded:", markup=False)
    console.print(plain(seen.gold_read), markup=False, highlight=False, soft_wrap=True)
    for problem in seen.problems:
        console.print(
            f"\nproblem: {plain(problem)}", markup=False, style="bold red", soft_wrap=True
        )


def _facts(seen: Inspection) -> list[tuple[str, str]]:
    marks = sum(piece.kind == "mark" for piece in seen.pieces)
    tags = sum(piece.kind == "tag" for piece in seen.pieces)
    room = f"{seen.room} tokens" if isinstance(seen.room, int) else seen.room
    switch = {None: "as the template has it", True: "on", False: "off"}[seen.thinking]
    opened = ", a block is open" if seen.prompt.opens_thinking else ""
    return [
        ("turn", seen.turn_id),
        ("format", _FORMATS[seen.format]),
        ("prompt", f"{len(seen.pieces)} tokens: {marks} chat marks, {tags} special span tags"),
        ("BOS", f"{seen.bos} (the tokenizer begins texts with {seen.expected_bos})"),
        ("thinking", switch + opened),
        ("prefill", repr(seen.prompt.prefill) if seen.prompt.prefill else "none"),
        ("context", "unknown" if seen.context is None else f"{seen.context} tokens"),
        ("room for the reply", " " + room),
        ("gold reply", f"{seen.gold_tokens} tokens"),
    ]


_FORMATS = {
    "template": "the model's chat template",
    "folded": "the model's chat template, the system prompt folded into the first user message",
    "plain": "headings (System:, User:, Assistant:), since the model has no chat template",
}


def _show_text(pieces: Sequence[Piece], console: Console) -> None:
    """The prompt as text: special tokens in reverse or colour; in a pipe they stand as they are."""
    from rich.text import Text

    text = Text()
    for kind, group in groupby(pieces, key=lambda piece: piece.kind):
        text.append(plain("".join(piece.text for piece in group)), style=_STYLES[kind])
    console.print(text, soft_wrap=True, highlight=False)


def _show_tokens(pieces: Sequence[Piece], console: Console) -> None:
    for piece in pieces:
        kind = "" if piece.kind == "text" else f"  {piece.kind}"
        console.print(
            f"{piece.id:>8}  {plain(ascii(piece.text))}{kind}", markup=False, highlight=False
        )
