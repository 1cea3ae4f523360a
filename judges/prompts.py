"""The judges' templates: messages made from them, with values that are never template source."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from judges.fences import quoted
from judges.verdicts import clip
from kardiabench.fingerprints import digest
from kardiabench.records import Message, Turn
from kardiabench.spans import parse_spans, strip_thinking

#: What all templates share: fences and the request to repair an answer.
SHARED = "fenced.j2"
#: How much of an unreadable answer is sent back with the request to repair it.
MAX_ECHO = 4000


def template(name: str) -> Any:
    """The macros of a template. Nothing of an item is ever part of the template's source."""
    return _environment().get_template(name).module


def source_digest(name: str) -> str:
    """A digest of a template and of what it shares with the others."""
    return digest([_source(name), _source(SHARED)])


def person_and_talk(macros: Any, turn: Turn, **texts: str) -> tuple[str, str]:
    """The fenced beginning that all calls of a dialogue share, and the rest of this call's.

    `texts` go to the template's `user` macro beside `history`, the conversation so far.
    """
    dialogue = turn.dialogue
    person = macros.person(profile=dialogue.profile, situation=dialogue.situation)
    talk = macros.user(history=list(spoken(turn)), **texts)
    return str(person).strip() + "\n", str(talk).strip()


def two_messages(system: str, shared: str, own: str) -> tuple[Message, ...]:
    """What is sent: the instrument, and one item whose beginning its dialogue shares."""
    first = Message("system", system, shared=len(system))
    return first, Message("user", shared + own, shared=len(shared))


def repair(
    messages: tuple[Message, ...], answer: str, problem: str, form: str
) -> tuple[Message, ...]:
    """The conversation continued: the unreadable answer, and what was wrong with it."""
    request = template(SHARED).repair(problem=problem, form=form)
    echo = clip(answer.strip(), MAX_ECHO) or "(empty answer)"
    return (*messages, Message("assistant", echo), Message("user", str(request).strip()))


def spoken(turn: Turn) -> Iterator[Message]:
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


@lru_cache(maxsize=16)
def _source(name: str) -> str:
    return (files("judges") / name).read_text("utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is a prompt, not HTML; values go in as JSON
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = quoted
    return environment
