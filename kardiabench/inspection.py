"""What a local model is really sent for a turn, and whether a gold reply would survive it.

`kardiabench inspect-prompt` prints it; the preflight of every run on a local model looks at three
turns and stops where a template is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, takewhile
from typing import Any, NamedTuple

from kardiabench.dialogues import Dialogues
from kardiabench.emotions import match_emotion
from kardiabench.models.local.chat import ChatFormat, Prompt
from kardiabench.models.local.decoding import ReplyDecoder, completion_of
from kardiabench.models.local.marks import THINK_CLOSE, disarmed, is_text, special_tokens
from kardiabench.models.local.rooms import room_for
from kardiabench.records import Message, Turn
from kardiabench.spans import parse_spans

#: More unknown tokens than this share of a prompt: the tokenizer is not made for the language.
_MOST_UNKNOWN = 0.02
#: Of a character in UTF-8.
_MOST_BYTES = 4


class Piece(NamedTuple):
    """One token of a prompt. `kind`: `text`, `mark` (a chat mark) or `tag` (a special span tag)."""

    id: int
    text: str
    kind: str


@dataclass(frozen=True)
class Inspection:
    """A turn as a local model gets it, and its gold reply as it would be read back.

    `room` is how many tokens the reply may have, or why there are too few. `problems` are sentences
    on what is broken; none when all is well.
    """

    turn_id: str
    format: str
    thinking: bool | None
    prompt: Prompt
    pieces: tuple[Piece, ...]
    bos: int
    expected_bos: int
    context: int | None
    room: int | str
    gold_tokens: int
    gold_read: str
    problems: tuple[str, ...]


def inspect_turn(
    form: ChatFormat,
    decoder: ReplyDecoder,
    turn: Turn,
    messages: Sequence[Message],
    *,
    context: int | None,
    max_tokens: int,
) -> Inspection:
    """Look at the prompt that `messages` make for `turn`; raises `TemplateError` without one.

    `context` is the model's in tokens, None where it is not known; `max_tokens` the reply's most.
    """
    prompt = form.prompt(messages)
    gold_ids = _continued(form, prompt, turn.gold)
    gold = completion_of(decoder, prompt, gold_ids, "stop")
    tokenizer, bos = form.tokenizer, form.tokenizer.bos_token_id
    expected = int(form.begins_with_bos)
    found = 0 if bos is None else prompt.ids.count(bos)
    return Inspection(
        turn_id=turn.id,
        format=form.kind,
        thinking=form.thinking,
        prompt=prompt,
        pieces=tuple(_pieces(tokenizer, prompt.ids)),
        bos=found,
        expected_bos=expected,
        context=context,
        room=room_for(len(prompt.ids), max_tokens, context),
        gold_tokens=len(gold_ids),
        gold_read=gold.text,
        problems=(
            *_bos_problems(prompt.ids, bos, expected),
            *_content_problems(form, prompt, messages),
            *_gold_problems(turn.gold, gold.text),
        ),
    )


def probed_turns(dialogues: Dialogues) -> list[Turn]:
    """The first, the last turn of the first dialogue and the first of the second, if there are."""
    turns = list(islice(dialogues.turns(), 64))
    first = [turn for turn in turns if turn.dialogue.id == turns[0].dialogue.id]
    others = [turn for turn in turns if turn.dialogue.id != turns[0].dialogue.id]
    return [first[0], *first[1:][-1:], *others[:1]]


def _continued(form: ChatFormat, prompt: Prompt, reply: str) -> list[int]:
    """The ids of `reply` as they would follow the prompt: behind the thinking that it opens."""
    rest = reply.removeprefix(prompt.prefill.strip())
    if prompt.opens_thinking:
        rest = f"{THINK_CLOSE}\n\n{rest}"
    ids: list[int] = form.tokenizer(rest, add_special_tokens=False).input_ids
    return ids


def _pieces(tokenizer: Any, ids: Sequence[int]) -> Iterator[Piece]:
    special = dict(special_tokens(tokenizer))
    for is_special, group in groupby(ids, key=special.__contains__):
        run = list(group)
        texts = [special[number] for number in run] if is_special else _spelled(tokenizer, run)
        for number, text in zip(run, texts, strict=True):
            kind = "text" if not is_special else "tag" if is_text(text) else "mark"
            yield Piece(number, text, kind)


def _spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each of `ids` adds to their text; a character of several tokens comes with its last."""
    texts, start, done = [], 0, 0
    for end in range(1, len(ids) + 1):
        before, now = (
            tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False)
            for stop in (done, end)
        )
        if now.endswith("\N{REPLACEMENT CHARACTER}") and end < min(len(ids), done + _MOST_BYTES):
            texts.append("")
            continue
        texts.append(now[len(before) :])
        start, done = done, end
    return texts


def _bos_problems(ids: Sequence[int], bos: int | None, expected: int) -> Iterator[str]:
    """BOS twice at the beginning, or none.

    Further on it may well stand: Llama 2 begins every exchange with one, SmolLM every message, and
    for others it is the end token too.
    """
    found = 0 if bos is None else sum(1 for _ in takewhile(lambda number: number == bos, ids))
    if found > 1:
        yield f"the prompt begins with {found} BOS tokens: the chat template writes one too many"
    elif found < expected:
        yield "the prompt has no BOS token, and the tokenizer begins every text with one"


def _content_problems(
    form: ChatFormat, prompt: Prompt, messages: Sequence[Message]
) -> Iterator[str]:
    for place, message in enumerate(messages):
        said = disarmed(message.content, form.tokenizer).strip()
        if form.kind != "plain" and said not in prompt.text:
            yield (
                f"the template leaves out or changes message {place} ({message.role}): "
                f"{said[:40]!r}…"
            )
    tokenizer = form.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):
        return  # GPT-2's is all three
    lost = sum(number == unknown for number in prompt.ids)
    if lost > _MOST_UNKNOWN * len(prompt.ids):
        yield f"{lost} of the prompt's {len(prompt.ids)} tokens are unknown to the tokenizer"


def _gold_problems(gold: str, read: str) -> Iterator[str]:
    """Whether the spans of the gold reply are what they were, written in tokens and read back."""
    before, after = parse_spans(gold), parse_spans(read)
    if not before.complete:
        return
    if not after.complete:
        yield (
            "a gold reply loses its spans when it is decoded "
            f"({', '.join(after.problems)}): every reply of this model would score 0"
        )
    elif match_emotion(before.emotion or "") != match_emotion(after.emotion or ""):
        yield f"a gold reply's emotion {before.emotion!r} is read back as {after.emotion!r}"


def broken(inspections: Sequence[Inspection]) -> str | None:
    """One sentence on the first problem, or None."""
    for inspection in inspections:
        for problem in inspection.problems:
            return f"turn {inspection.turn_id}: {problem}"
    return None
