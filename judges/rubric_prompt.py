"""What the rubric judge says to its model: messages made from `rubric.j2` and one item.

They go from static to specific (rubric, profile and situation, history, response), so that the
calls of one dialogue share their beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from judges.rubric_schema import AnswerFormat
from judges.verdicts import clip
from kardiabench.fingerprints import digest
from kardiabench.records import Message, Turn, clean_text
from kardiabench.spans import parse_spans, strip_thinking

#: How much of an unreadable answer is sent back with the request to repair it.
MAX_ECHO = 4000
#: JSON leaves these as they are: terminals act on the first, some readers break lines at the rest.
_UNSEEN = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


class RubricPrompt:
    """The prompt for one form of answer and one scope (`response` or `reply`)."""

    def __init__(self, answer_format: AnswerFormat, scope: str) -> None:
        self._format = answer_format
        template = _template()
        rubric = template.system(answer_format=answer_format.instruction, scope=scope)
        self._system = Message("system", str(rubric).strip())

    @property
    def hash(self) -> str:
        """What decides the prompt beside the item: template source, scope and schema."""
        return digest([_source(), self._system.content, self._format.schema])

    def messages(self, turn: Turn, response: str) -> tuple[Message, ...]:
        """The messages that ask for a verdict on `response`, which may be empty."""
        data = _template().user(
            profile=turn.dialogue.profile,
            situation=turn.dialogue.situation,
            history=list(_spoken(turn)),
            response=response,
        )
        return (self._system, Message("user", str(data).strip()))

    def repair(
        self, messages: tuple[Message, ...], answer: str, problem: str
    ) -> tuple[Message, ...]:
        """The conversation continued: the unreadable answer, and what was wrong with it."""
        request = _template().repair(problem=problem, schema=self._format.schema)
        echo = clip(answer.strip(), MAX_ECHO) or "(empty answer)"
        return (*messages, Message("assistant", echo), Message("user", str(request).strip()))


def _spoken(turn: Turn) -> Iterator[Message]:
    """What the two said to one another: of the assistant's messages the response spans only."""
    for message in turn.history:
        if message.role == "assistant":
            yield Message("assistant", spoken_text(message.content))
        elif message.role == "user":
            yield message


@lru_cache(maxsize=1024)  # each message is in the history of every later turn
def spoken_text(content: str) -> str:
    """The response span of an assistant message; the whole where it is plain text."""
    spans = parse_spans(content)
    return strip_thinking(content).strip() if spans.dialect is None else spans.response or ""


def _json(value: str | Mapping[str, object]) -> str:
    text = clean_text(value) if isinstance(value, str) else value
    return json.dumps(text, ensure_ascii=False).translate(_UNSEEN)


@lru_cache(maxsize=1)
def _source() -> str:
    return (files("judges") / "rubric.j2").read_text("utf-8")


@lru_cache(maxsize=1)
def _template() -> Any:
    """The macros of the template. Nothing of an item is ever part of the template's source."""
    environment = Environment(
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is a prompt, not HTML; values go in as JSON
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = _json
    return environment.from_string(_source()).module
