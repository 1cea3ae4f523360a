"""The schema of a dataset row, and how a row becomes a dialogue and its turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from kardiabench.contracts import RawRow
from kardiabench.emotions import EMOTIONS, match_emotion
from kardiabench.errors import DataError, did_you_mean
from kardiabench.fingerprints import digest
from kardiabench.records import Dialogue, Message, Role, Turn
from kardiabench.spans import parse_spans

_PERSONA_DIGITS = 12


class MessageRow(BaseModel):
    """One message of a row; other fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Role
    content: str


class DialogueRow(BaseModel):
    """One row as KardiaBench has it; other fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    person: str
    mbti: str
    emotion: str
    situation: str
    anon_username: str | None = None
    messages: list[MessageRow] = Field(min_length=1)


class BadRow(DataError):  # noqa: N818 - the design names it so
    """A row that breaks the schema: `FILE line N, field messages[3].role: reason`.

    `field` is empty when the row as a whole is at fault. `hint` ends the sentence in brackets.
    """

    def __init__(self, raw: RawRow, field: str, reason: str, *, hint: str = "") -> None:
        self.raw = raw
        self.file = raw.file
        self.line = raw.line
        self.field = field
        self.reason = reason
        at = f", field {field}" if field else ""
        super().__init__(f"{place(raw)}{at}: {reason}" + (f" ({hint})" if hint else ""))

    def hinted(self, hint: str) -> BadRow:
        """The same error with what to do about it."""
        return BadRow(self.raw, self.field, self.reason, hint=hint)


class _Flaw(Exception):  # noqa: N818 - caught in this file
    """What is wrong with a row, before it is known where the row stands."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def place(raw: RawRow) -> str:
    """Where a row stands, for people: `test.jsonl line 3`, `Jhcircle/KardiaBench test, row 3`."""
    return f"{raw.file}{',' if raw.counted == 'row' else ''} {raw.counted} {raw.line}"


def read_row(raw: RawRow) -> Dialogue:
    """The dialogue that `raw` is; raises `BadRow` when it breaks the schema."""
    if raw.problem is not None:
        raise BadRow(raw, "", raw.problem)
    try:
        row = _validated(raw.value)
        _check_texts(row)
        _check_messages(row.messages)
        emotion = _label(row.emotion, "emotion")
        _check_gold_spans(row.messages)
    except _Flaw as flaw:
        raise BadRow(raw, flaw.field, flaw.reason) from None
    return _dialogue(row, emotion)


def turns_of(dialogue: Dialogue) -> tuple[Turn, ...]:
    """The turns of `dialogue` in order: one for every assistant message."""
    replies = [at for at, message in enumerate(dialogue.messages) if message.role == "assistant"]
    return tuple(_turn(dialogue, index, end) for index, end in enumerate(replies))


def persona_id(profile: str) -> str:
    """`p` and 12 hexadecimal digits; profiles that differ in white space alone share one."""
    return "p" + digest(" ".join(profile.split()), _PERSONA_DIGITS)


def _turn(dialogue: Dialogue, index: int, end: int) -> Turn:
    gold = dialogue.messages[end].content
    span = parse_spans(gold).emotion
    own = match_emotion(span) if span is not None else None
    return Turn(
        dialogue=dialogue,
        index=index,
        end=end,
        gold=gold,
        gold_emotion=own or dialogue.emotion,
        gold_source="span" if own else "dialogue",
    )


def _dialogue(row: DialogueRow, emotion: str) -> Dialogue:
    content = {
        "person": row.person,
        "situation": row.situation,
        "emotion": emotion,
        "messages": [[message.role, message.content] for message in row.messages],
    }
    return Dialogue(
        id="d" + digest(content),
        persona_id=persona_id(row.person),
        profile=row.person,
        mbti=row.mbti,
        emotion=emotion,
        situation=row.situation,
        messages=tuple(Message(message.role, message.content) for message in row.messages),
    )


def _validated(value: object) -> DialogueRow:
    if not isinstance(value, dict):
        raise _Flaw("", f"is {_kind(value)}, not an object")
    try:
        return DialogueRow.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _Flaw(_path(first["loc"]), _reason(first)) from None


def _path(location: Sequence[int | str]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


_REASONS = {
    "missing": "is missing",
    "too_short": "is empty",
}
_WANTED = {
    "string_type": "text",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _reason(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind in _WANTED:
        return f"is {_kind(value)}, not {_WANTED[kind]}"
    if kind == "literal_error":
        return f"is {_shown(value)}, not 'system', 'user' or 'assistant'"
    return _REASONS.get(kind, error["msg"])


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _shown(value: object) -> str:
    """`value` as it can stand in a sentence: quoted, on one line, not long."""
    if not isinstance(value, str):
        return _kind(value)
    return repr(value if len(value) <= 40 else value[:39] + "…")


def _check_texts(row: DialogueRow) -> None:
    fields = {
        "person": row.person,
        "mbti": row.mbti,
        "emotion": row.emotion,
        "situation": row.situation,
    }
    for at, message in enumerate(row.messages):
        fields[f"messages[{at}].content"] = message.content
    for field, text in fields.items():
        _check_text(field, text)


def _check_text(field: str, text: str) -> None:
    if "\0" in text:
        raise _Flaw(field, "has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Flaw(field, "has a lone surrogate, which is not a character") from None


def _check_messages(messages: Sequence[MessageRow]) -> None:
    """Check that the messages are an optional system prompt, then user and assistant in turn."""
    start = 1 if messages[0].role == "system" else 0
    wanted: Literal["user", "assistant"] = "user"
    for at, message in enumerate(messages[start:], start):
        if message.role != wanted:
            raise _Flaw(f"messages[{at}].role", _out_of_turn(message.role, first=at == start))
        if not message.content.strip():
            raise _Flaw(f"messages[{at}].content", "is empty")
        wanted = "assistant" if wanted == "user" else "user"
    if len(messages) == start:
        raise _Flaw("messages", "has a system prompt and nothing else")
    if wanted == "assistant":
        raise _Flaw("messages", "ends with a user message that has no reply")


def _out_of_turn(role: Role, *, first: bool) -> str:
    if role == "system":
        return "is 'system', which may only be the first message"
    if first:
        return "is 'assistant', but the user speaks first"
    return f"is {role!r} for the second time in a row"


def _check_gold_spans(messages: Sequence[MessageRow]) -> None:
    """Check that gold replies have all four spans, well formed, or no tags at all."""
    for at, message in enumerate(messages):
        if message.role != "assistant":
            continue
        spans = parse_spans(message.content)
        field = f"messages[{at}].content"
        if spans.dialect is None:
            continue
        if spans.problems:
            raise _Flaw(field, " and ".join(map(_span_problem, spans.problems)))
        _label(spans.emotion or "", field)


_SPAN_PROBLEMS = {
    "missing": "the {} span is missing",
    "unclosed": "the {} span is not closed",
    "nested": "the {} span has another span inside",
    "stray": "the {} span ends without having begun",
    "repeated": "the {} span is there twice",
    "empty": "the {} span is empty",
    "order": "the spans are out of order",
}


def _span_problem(problem: str) -> str:
    kind, _, name = problem.partition(":")
    return _SPAN_PROBLEMS[kind].format(name)


def _label(text: str, field: str) -> str:
    label = match_emotion(text)
    if label is None:
        nearest = did_you_mean(text[:40].strip().lower(), EMOTIONS)
        hint = f": {nearest}" if nearest.startswith("did") else ""
        raise _Flaw(field, f"emotion {_shown(text)} is none of the 32 labels{hint}")
    return label
