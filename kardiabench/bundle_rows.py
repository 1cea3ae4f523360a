"""The lines of a bundle's members and their schema: figures of a turn, and texts where it has any.

What is read was written by somebody else, so every field has its kind and its bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,  # pydantic wants this one before Python 3.12
)

from typing_extensions import TypedDict

from kardiabench.emotions import EMOTIONS
from kardiabench.records import Dimension, GoldSource, ReplyStatus, Usage, VerdictStatus
from kardiabench.results import JudgeResult, TurnResult
from kardiabench.scoring import JUDGED
from kardiabench.spans import SPAN_NAMES

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

Span = Literal["understanding", "reasoning", "emotion", "response"]

#: Names of dialogues, personas and judges are words; none is a path or a tag.
WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
_TURN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/[0-9]{1,6}$"
_PROBLEM = rf"^(order|(missing|unclosed|nested|stray|repeated|empty):({'|'.join(SPAN_NAMES)}))$"
#: What a server calls the end of a reply, and what kind of error there was.
_NAME = r"^[A-Za-z0-9_.-]{1,40}$"
_OTHER = "other"
_NO_USAGE = Usage()
_USAGE = tuple(figure.name for figure in fields(Usage))
#: More calls, tokens, dollars or seconds are nobody's figures.
_MOST = 1e12


class TurnNote(NamedTuple):
    """What a bundle has of a turn beside its result: how it ended, and the words of each span."""

    finish_reason: str | None
    words: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class TurnText:
    """What was said about one turn.

    `spans` has the four spans, None where one is missing. `raw` is the whole reply, only where it
    is malformed. `evidence` is by judge, then by dimension or `judge`.
    """

    turn_id: str
    spans: Mapping[str, str | None]
    raw: str | None
    evidence: Mapping[str, Mapping[str, str]]


class BadRow(ValueError):  # noqa: N818 - it is the row that is bad
    """A line that is no row of a bundle: why, in a few words."""


def word_counts(spans: Mapping[str, str | None]) -> dict[str, int | None]:
    """The words of each span, None where there is none."""
    return {name: None if span is None else len(span.split()) for name, span in spans.items()}


def is_turn_id(text: str) -> bool:
    """Whether `text` may name a turn: a dialogue that is a word, and the place in it."""
    return re.fullmatch(_TURN, text) is not None


def token(text: str | None) -> str | None:
    """`text` where it is a short word, as such names are; else `other`."""
    return text if text is None or re.fullmatch(_NAME, text) else _OTHER


def out_of_bounds(turn: TurnResult) -> str | None:
    """Where a turn has a figure that no bundle may have, as `usage.cost`; None for nowhere."""
    if not 0 <= turn.latency <= _MOST:
        return "latency"
    usages = {f"verdicts.{name}.usage": v.usage for name, v in turn.verdicts.items()}
    for where, usage in ({"usage": turn.usage} | usages).items():
        for key in _USAGE if usage != _NO_USAGE else ():
            value = getattr(usage, key)
            if value is not None and not 0 <= value <= _MOST:
                return f"{where}.{key}"
    return None


# --- writing --------------------------------------------------------------------------------------


def turn_row(turn_id: str, turn: TurnResult, note: TurnNote) -> dict[str, Any]:
    """The line of `turns.jsonl` for a turn."""
    return {
        "turn_id": turn_id,
        "persona_id": turn.persona_id,
        "gold_emotion": turn.gold_emotion,
        "gold_source": turn.gold_source,
        "digest": turn.digest,
        "status": turn.status,
        **({"error_kind": token(turn.error_kind)} if turn.error_kind else {}),
        "predicted": turn.predicted,
        "problems": list(turn.problems),
        **_usage_part(turn.usage),
        "latency": turn.latency,
        "finish_reason": token(note.finish_reason),
        "words": dict(note.words),
        "verdicts": {name: _verdict_row(v) for name, v in sorted(turn.verdicts.items())},
    }


def _verdict_row(verdict: JudgeResult) -> dict[str, Any]:
    row = {"status": verdict.status, "scores": verdict.scores, **_usage_part(verdict.usage)}
    return row | ({"parts": verdict.parts} if verdict.parts else {})


def _usage_part(usage: Usage) -> dict[str, Any]:
    """Left out where nothing was used, as by judges that ask no model."""
    return {} if usage == _NO_USAGE else {"usage": asdict(usage)}


# --- reading --------------------------------------------------------------------------------------


def _schema() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    from pydantic import ConfigDict, Field, TypeAdapter, with_config

    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    word = Annotated[str, Field(pattern=WORD)]
    turn = Annotated[str, Field(pattern=_TURN)]
    name = Annotated[str, Field(pattern=_NAME)]
    emotion = Literal[EMOTIONS]  # type: ignore[valid-type] # the labels of the one list
    count = Annotated[int, Field(ge=0, le=_MOST)]
    amount = Annotated[float, Field(ge=0, le=_MOST)]
    scores = Annotated[list[float | None], Field(max_length=100)]
    text = Annotated[str, Field(max_length=1_000_000)]

    @with_config(strict)
    class UsageRow(TypedDict):
        calls: count
        prompt_tokens: count
        completion_tokens: count
        reasoning_tokens: count
        cached_tokens: count
        cost: amount | None

    @with_config(strict)
    class VerdictRow(TypedDict):
        status: VerdictStatus
        scores: scores
        usage: NotRequired[UsageRow]
        parts: NotRequired[Annotated[list[scores], Field(max_length=1000)]]

    @with_config(strict)
    class Row(TypedDict):
        turn_id: turn
        persona_id: word
        gold_emotion: emotion
        gold_source: GoldSource
        digest: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
        status: ReplyStatus
        error_kind: NotRequired[name]
        predicted: emotion | None
        problems: Annotated[list[Annotated[str, Field(pattern=_PROBLEM)]], Field(max_length=100)]
        usage: NotRequired[UsageRow]
        latency: amount
        finish_reason: name | None
        words: dict[Span, count | None]
        verdicts: dict[word, VerdictRow]

    @with_config(strict)
    class TextRow(TypedDict):
        turn_id: turn
        spans: dict[Span, text | None]
        raw: text | None
        evidence: dict[word, dict[Annotated[str, Field(max_length=100)], text]]

    return TypeAdapter(Row), TypeAdapter(TextRow)


@cache
def _adapters() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    return _schema()


def read_turn(
    line: bytes, dimensions: Mapping[str, Sequence[Dimension]]
) -> tuple[str, TurnResult, TurnNote]:
    """A turn's id, result and note; raises `BadRow`."""
    row = _validated(_adapters()[0], line)
    turn = TurnResult(
        persona_id=row["persona_id"],
        gold_emotion=row["gold_emotion"],
        gold_source=row["gold_source"],
        digest=row["digest"],
        status=row["status"],
        error_kind=row.get("error_kind", ""),
        predicted=row["predicted"],
        problems=tuple(row["problems"]),
        usage=_usage(row),
        latency=row["latency"],
        verdicts={
            judge: _verdict(verdict, judge, dimensions.get(judge))
            for judge, verdict in row["verdicts"].items()
        },
    )
    return row["turn_id"], turn, TurnNote(row["finish_reason"], row["words"])


def read_text(line: bytes) -> TurnText:
    """A turn's texts; raises `BadRow`."""
    row = _validated(_adapters()[1], line)
    return TurnText(row["turn_id"], row["spans"], row["raw"], row["evidence"])


def _validated(adapter: TypeAdapter[Any], line: bytes) -> Any:
    from pydantic import ValidationError

    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        raise BadRow(first_flaw(error)) from error


def first_flaw(error: ValidationError) -> str:
    """What pydantic says first, on one short line: `field: why`. Keys are somebody's text."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:100]
    line = f"{where}: {first['msg'][:150]}" if where else first["msg"][:200]
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)


def _verdict(
    row: Mapping[str, Any], judge: str, dimensions: Sequence[Dimension] | None
) -> JudgeResult:
    if dimensions is None:
        raise BadRow(f"the manifest has no judge {judge}")
    scores, parts = row["scores"], row.get("parts", ())
    for values in (scores, *parts):
        _check_scores(values, judge, dimensions)
    if row["status"] not in JUDGED and any(score is not None for score in scores):
        raise BadRow(f"{judge} has scores and the status {row['status']}")
    return JudgeResult(row["status"], tuple(scores), _usage(row), tuple(map(tuple, parts)))


def _check_scores(
    scores: Sequence[float | None], judge: str, dimensions: Sequence[Dimension]
) -> None:
    if len(scores) != len(dimensions):
        raise BadRow(f"{judge} has {len(scores)} scores for {len(dimensions)} dimensions")
    for score, dimension in zip(scores, dimensions, strict=True):
        if score is not None and not dimension.low <= score <= dimension.high:
            raise BadRow(
                f"{judge}.{dimension.name} {score:g} is not in "
                f"{dimension.low:g}..{dimension.high:g}"
            )


def _usage(row: Mapping[str, Any]) -> Usage:
    return Usage(**row["usage"]) if "usage" in row else _NO_USAGE
