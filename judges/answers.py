"""The form of a model's answer: one object writes the instruction and reads the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from judges.forms import copied, skeleton
from judges.verdicts import clip
from kardiabench.spans import strip_thinking

#: Raised when the same answer comes to be read in another way; part of every judge's identity that
#: reads by these rules. 2: a form whose placeholders were not filled in is no answer.
READER_VERSION = "2"
MAX_EVIDENCE = 300
#: Longer answers are not read, and no more braces than this are tried: reading stays bounded.
MAX_ANSWER = 100_000
MAX_ATTEMPTS = 256
#: The key under which an answer repeats the nonce of the call.
NONCE = "nonce"
_COPIED = "the placeholder of the form was copied, nothing was filled in"
_LEVEL_TEXT = re.compile(r"[1-5](?:\.0{1,9})?")


def _level(value: object) -> object:
    """`"4"`, `"4.0"` and `4.0` are 4; everything else is left for the schema to refuse."""
    if isinstance(value, str) and _LEVEL_TEXT.fullmatch(value.strip()):
        return int(value.strip()[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "a truth value" if isinstance(value, bool) else value


def _word(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip().lower() if isinstance(value, str) else value


def _quote(value: object) -> object:
    if value is None:
        return ""
    return clip(value.strip(), MAX_EVIDENCE) if isinstance(value, str) else value


Evidence = Annotated[str, BeforeValidator(_quote)]


class Part(Protocol):
    """One thing that is asked: short evidence, and the value that it leads to."""

    @property
    def evidence(self) -> str:
        """A short quote."""

    @property
    def value(self) -> float:
        """The answer as a number."""


class Rating(BaseModel):
    """One dimension: the evidence first, then the level that it leads to."""

    model_config = ConfigDict(extra="forbid")

    evidence: Evidence = Field(description="quote")
    score: Annotated[Literal[1, 2, 3, 4, 5], BeforeValidator(_level)]

    @property
    def value(self) -> float:
        """The level, 1 to 5."""
        return float(self.score)


class Finding(BaseModel):
    """One yes/no question about what a response does wrong."""

    model_config = ConfigDict(extra="forbid")

    evidence: Evidence = Field(description="quote")
    answer: Annotated[Literal["yes", "no"], BeforeValidator(_word)]

    @property
    def value(self) -> float:
        """1 for `no`, nothing wrong; 0 for `yes`."""
        return float(self.answer == "no")


class Choice(BaseModel):
    """Which of two responses is better."""

    model_config = ConfigDict(extra="forbid")

    evidence: Evidence = Field(description="what decides, in a few words")
    better: Annotated[Literal["first", "second", "tie"], BeforeValidator(_word)]

    @property
    def value(self) -> float:
        """1 for the first, 0 for the second, a half for neither."""
        return {"first": 1.0, "tie": 0.5, "second": 0.0}[self.better]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read: a number and a short quote for every thing that was asked.

    `source` is the JSON object as it stands in the text.
    """

    scores: Mapping[str, float]
    evidence: Mapping[str, str]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An answer that could not be read, and what was wrong with it."""

    problem: str


class AnswerFormat:
    """The answer to what is asked: its JSON schema, its instruction and its reader.

    `parts` are the things asked, in order. `bound` answers begin with the nonce of their call; the
    schema is the same for every call, so that providers prepare it once. `schema` is what strict
    modes accept: nothing optional, nothing additional, no references.
    """

    def __init__(self, parts: Mapping[str, type[BaseModel]], *, bound: bool = True) -> None:
        nonce: dict[str, Any] = {NONCE: (str, Field(description="the nonce of this call"))}
        fields: dict[str, Any] = {name: (part, ...) for name, part in parts.items()}
        config = ConfigDict(extra="forbid")
        self.bound = bound
        whole = (nonce if bound else {}) | fields
        self._model = create_model("JudgeAnswer", __config__=config, **whole)
        self.names = tuple(parts)
        written = self._model.model_json_schema()
        self.schema: dict[str, Any] = _inlined(written, written.get("$defs", {}))

    def instruction(self, nonce: str = "") -> str:
        """The shape of the answer on one line, written from the schema, with the call's nonce."""
        known = {NONCE: json.dumps(nonce)} if self.bound else {}
        return skeleton(self.schema, known)

    def parse(self, text: str, nonce: str = "") -> Answer | Unreadable:
        """Read the answer of the call with `nonce`; never raises.

        Thinking, code fences and prose around the JSON object are passed over, and so is every
        object without the nonce: whoever wrote it, it was not the judge's answer to this call. One
        that copies the form, its placeholders not filled in, is none either. An answer that holds
        several valid objects with different scores is unreadable: none counts.
        """
        if len(text) > MAX_ANSWER:
            return Unreadable(f"the answer is longer than {MAX_ANSWER} characters")
        whole = self._read_whole(text, nonce)
        return whole or self._read_within(strip_thinking(text), nonce)

    def _read_whole(self, text: str, nonce: str) -> Answer | None:
        """The answer when the text is JSON alone: tags inside its strings are not thinking."""
        start = text.find("{")
        if start < 0 or text[:start].strip():
            return None
        value, end = _decode(text, start)
        reading = self._validate(value, text[start:end], nonce) if value is not None else None
        return reading if isinstance(reading, Answer) and not text[end:].strip() else None

    def _read_within(self, text: str, nonce: str) -> Answer | Unreadable:
        readings = [self._validate(*found, nonce) for found in json_objects(text)]
        good = [reading for reading in readings if isinstance(reading, Answer)]
        if any(reading.scores != good[0].scores for reading in good):
            return Unreadable(f"the answer holds {len(good)} verdicts that disagree")
        if good:
            return good[0]
        bad = [reading for reading in readings if isinstance(reading, Unreadable)]
        return bad[-1] if bad else Unreadable("there is no complete JSON object in it")

    def _validate(self, value: dict[str, Any], source: str, nonce: str) -> Answer | Unreadable:
        try:
            answer = self._model.model_validate(value, extra="ignore")
        except ValidationError as error:
            return Unreadable(_explained(error))
        if self.bound and getattr(answer, NONCE).strip() != nonce:
            return Unreadable("nonce: it is not the nonce of this call")
        if places := list(copied(self.schema, value)):
            return Unreadable(f"{', '.join(places[:5])}: {_COPIED}")
        parts: dict[str, Part] = {name: getattr(answer, name) for name in self.names}
        return Answer(
            scores={name: part.value for name, part in parts.items()},
            evidence={name: part.evidence for name, part in parts.items()},
            source=source,
        )


def json_objects(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The outermost JSON objects in `text`, each with its source; few braces are tried."""
    position = text.find("{")
    for _ in range(MAX_ATTEMPTS):
        if position < 0:
            return
        value, end = _decode(text, position)
        if value is not None:
            yield value, text[position:end]
        position = text.find("{", end)


def _decode(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    """The JSON object at `start` and where it ends, or None and the next place to look."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start + 1
    return value, end


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError when a key is repeated, for then it says two things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("repeated key")
    return found


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_without_repeats)


def _explained(error: ValidationError) -> str:
    """What was wrong, by place; never the value itself."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    places = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
    return clip("; ".join(places), 500)


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema with references replaced by what they point to, and without titles."""
    if isinstance(node, list):
        return [_inlined(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    kept = {key: part for key, part in node.items() if key not in {"title", "$defs"}}
    if kept.get("type") == "object":
        kept.pop("description", None)
    return {key: _inlined(part, definitions) for key, part in kept.items()}
