"""Rows of supervised fine-tuning: the prompt of an evaluation, then the gold reply's tokens.

They lie on the disk, in Arrow's stream format, and are read from there: the tokens of a data set
are never all in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.errors import DataError, PreflightError
from kardiabench.models.local.chat import Prompt
from kardiabench.models.local.marks import THINK_CLOSE, disarmed
from kardiabench.records import Turn
from kardiabench.spans import parse_spans, render_spans, strip_thinking
from trainer.texts import Texts

if TYPE_CHECKING:
    from datasets import Dataset

#: The label of a token that is not learnt.
IGNORED = -100
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Example:
    """A prompt's token ids and those of the reply to it, its end among them."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def input_ids(self) -> list[int]:
        """What the model reads."""
        return [*self.prompt, *self.reply]

    @property
    def labels(self) -> list[int]:
        """What it learns: the reply's tokens, `IGNORED` in place of the prompt's."""
        return [IGNORED] * len(self.prompt) + list(self.reply)


@dataclass
class GoldReplies:
    """Makes examples of turns, none longer than `max_length` tokens; counts those it leaves out.

    A turn is left out when its gold reply has not all four spans.
    """

    texts: Texts
    max_length: int
    left_out: int = 0

    def examples(self, turns: Iterable[Turn]) -> Iterator[Example]:
        """One example a turn, in order; raises `PreflightError` for a turn that is too long."""
        for turn in turns:
            gold = gold_text(turn)
            if gold is None:
                self.left_out += 1
            else:
                yield self._example(turn, gold)

    def _example(self, turn: Turn, gold: str) -> Example:
        gold = disarmed(gold, self.texts.format.tokenizer)
        # What a template writes ahead of the reply shortens it: this is the longest it can be.
        self.texts.max_prompt_tokens = self.max_length - len(self._tokens(THINK_CLOSE + gold)) - 1
        try:
            prompt = self.texts.prompt(turn)
        except PreflightError as error:
            if error.__cause__ is not None:  # the template's
                raise
            raise PreflightError(
                f"turn {turn.id}: its system prompt, last message and gold reply alone are longer "
                f"than max_length {self.max_length}; raise max_length"
            ) from error
        reply = self._tokens(_continued(prompt, gold, turn))
        return Example(prompt.ids, (*reply, self.texts.end_id))

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self.texts.format.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids


def gold_text(turn: Turn) -> str | None:
    """The gold reply with `<|…_begin|>` tags, or None where it has not all four spans."""
    spans = parse_spans(turn.gold)
    if not spans.complete:
        return None
    if spans.dialect == "pipe":
        return strip_thinking(turn.gold).strip()
    parts = (spans.understanding, spans.reasoning, spans.emotion, spans.response)
    return render_spans(*(part or "" for part in parts))


def write_rows(path: Path, examples: Iterable[Example]) -> Dataset:
    """Write the columns `input_ids` and `labels` to `path`, and read them from there.

    Raises `DataError` where there is no example.
    """
    import pyarrow as pa
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # rows of before may still be mapped from it
    schema = pa.schema(dict.fromkeys(("input_ids", "labels"), pa.list_(pa.int32())))
    with pa.ipc.new_stream(path, schema) as stream:
        remaining = iter(examples)
        while some := list(islice(remaining, _ROWS_AT_ONCE)):
            stream.write_batch(_record_batch(some, schema))
    rows = Dataset.from_file(str(path))
    if not len(rows):
        raise DataError("no turn has a gold reply with all four spans: there is nothing to learn")
    return rows


def _record_batch(examples: Sequence[Example], schema: Any) -> Any:
    import pyarrow as pa

    columns = {
        "input_ids": [example.input_ids for example in examples],
        "labels": [example.labels for example in examples],
    }
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _continued(prompt: Prompt, gold: str, turn: Turn) -> str:
    """What the model has to write: the gold reply less what the template has written already.

    A think block that the template opens is closed at once: gold replies have no thinking.
    """
    if prompt.opens_thinking:
        return f"{THINK_CLOSE}\n\n{gold}"
    if not prompt.prefill:
        return gold
    written = prompt.prefill.rstrip()
    if not gold.startswith(written):
        raise PreflightError(
            f"the chat template begins every reply with {written[:60]!r}, and the gold reply of "
            f"turn {turn.id} does not begin so; give the model another chat template"
        )
    return gold[len(written) :].lstrip()
