"""The form of the rubric judge's answer: one object writes the instruction and reads the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from judges.verdicts import clip
from kardiabench.spans import strip_thinking

MAX_EVIDENCE = 300
#: Longer answers are not read, and no more braces than this are tried: reading stays bounded.
MAX_ANSWER = 100_000
MAX_ATTEMPTS = 256
_LEVEL_TEXT = re.compile(r"[1-5](?:\.0{1,9})?")


def _level(value: object) -> object:
    """`"4"`, `"4.0"` and `4.0` are 4; everything else is left for the schema to refuse."""
    if isinstance(value, str) and _LEVEL_TEXT.fullmatch(value.strip()):
        return int(value.strip()[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "a truth value" if isinstance(value, bool) else value


def _quote(value: object) -> object:
    if value is None:
        return ""
    return clip(value.strip(), MAX_EVIDENCE) if isinstance(value, str) else value


class Rating(BaseModel):
    """One dimension: the evidence first, then the level that it leads to."""

    model_config = ConfigDict(extra="forbid")

    evidence: Annotated[str, BeforeValidator(_quote)] = Field(
        description="short quote, or 'missing: ...'"
    )
    score: Annotated[Literal[1, 2, 3, 4, 5], BeforeValidator(_level)]


@dataclass(frozen=True, slots=True)
class Ratings:
    """An answer that was read: a level 1 to 5 and a short quote for every dimension."""

    scores: Mapping[str, int]
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An answer that could not be read, and what was wrong with it."""

    problem: str


class AnswerFormat:
    """The answer for some dimensions: its JSON schema, its instruction and its reader.

    `schema` is what strict modes accept: nothing optional, nothing additional, no references.
    """

    def __init__(self, names: Sequence[str]) -> None:
        fields: dict[str, Any] = dict.fromkeys(names, (Rating, ...))
        config = ConfigDict(extra="forbid")
        self._model = create_model("RubricAnswer", __config__=config, **fields)
        self._names = tuple(names)
        written = self._model.model_json_schema()
        self.schema: dict[str, Any] = _inlined(written, written.get("$defs", {}))

    @property
    def instruction(self) -> str:
        """The shape of the answer, as a skeleton written from the schema."""
        return _skeleton(self.schema)

    def parse(self, text: str) -> Ratings | Unreadable:
        """Read an answer; never raises.

        Thinking, code fences and prose around the JSON object are passed over. An answer that
        holds several valid objects with different scores is unreadable: none of them counts.
        """
        if len(text) > MAX_ANSWER:
            return Unreadable(f"the answer is longer than {MAX_ANSWER} characters")
        whole = self._read_whole(text)
        return whole or self._read_within(strip_thinking(text))

    def _read_whole(self, text: str) -> Ratings | None:
        """The ratings when the text is JSON alone: tags inside its strings are not thinking."""
        start = text.find("{")
        if start < 0 or text[:start].strip():
            return None
        value, end = _decode(text, start)
        reading = self._validate(value) if value is not None else None
        return reading if isinstance(reading, Ratings) and not text[end:].strip() else None

    def _read_within(self, text: str) -> Ratings | Unreadable:
        readings = [self._validate(value) for value in json_objects(text)]
        good = [reading for reading in readings if isinstance(reading, Ratings)]
        if any(reading.scores != good[0].scores for reading in good):
            return Unreadable(f"the answer holds {len(good)} verdicts that disagree")
        if good:
            return good[0]
        return readings[-1] if readings else Unreadable("there is no complete JSON object in it")

    def _validate(self, value: dict[str, Any]) -> Ratings | Unreadable:
        try:
            answer = self._model.model_validate(value, extra="ignore")
        except ValidationError as error:
            return Unreadable(_explained(error))
        ratings: dict[str, Rating] = {name: getattr(answer, name) for name in self._names}
        return Ratings(
            scores={name: rating.score for name, rating in ratings.items()},
            evidence={name: rating.evidence for name, rating in ratings.items()},
        )


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects that stand in `text`; at most `MAX_ATTEMPTS` braces are tried."""
    position = text.find("{")
    for _ in range(MAX_ATTEMPTS):
        if position < 0:
            return
        value, end = _decode(text, position)
        if value is not None:
            yield value
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


def _skeleton(schema: Mapping[str, Any], indent: str = "") -> str:
    if "enum" in schema:
        return f"<{' | '.join(map(str, schema['enum']))}>"
    if schema.get("type") != "object":
        return json.dumps(f"<{schema.get('description', schema.get('type'))}>")
    if indent:
        parts = (f'"{key}": {_skeleton(part, indent)}' for key, part in _properties(schema))
        return "{" + ", ".join(parts) + "}"
    lines = (f'  "{key}": {_skeleton(part, "  ")}' for key, part in _properties(schema))
    return "{\n" + ",\n".join(lines) + "\n}"


def _properties(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from schema["properties"].items()
