"""The four spans of a reply: one parser for both dialects of tags.

KardiaBench writes `<|response_begin|>…<|response_end|>`; its dataset card also shows
`<response>…</response>`. A reply is read in one dialect only, so that tags of the other dialect
inside a span stay text: the first wherever it has an opening tag, unless only the second gives
four well-formed spans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SPAN_NAMES: tuple[str, ...] = ("understanding", "reasoning", "emotion", "response")

Dialect = Literal["pipe", "xml"]

_NAMES = "|".join(SPAN_NAMES)
_PIPE = re.compile(rf"<\|({_NAMES})_(begin|end)\|>")
_XML = re.compile(rf"<(/?)({_NAMES})>")
#: What nearly every reply is: four spans in order, and no other `<`.
_USUAL = re.compile(
    r"[^<]*".join(["", *(rf"<\|{n}_begin\|>([^<]*)<\|{n}_end\|>" for n in SPAN_NAMES), ""])
)
_THINK = re.compile(r"<(/?)think(?:ing)?>")


@dataclass(frozen=True, slots=True)
class Spans:
    """What was read from one reply.

    Each span is its text with outer white space removed, or None when it is missing, unclosed or
    broken into. `problems` holds `kind:span` words: `missing`, `unclosed`, `nested`, `stray` (an
    end without its beginning), `repeated`, `empty`, and `order` (no span: the spans are out of
    order), in a fixed order. No problems means four spans, complete, in order and not empty.
    """

    understanding: str | None = None
    reasoning: str | None = None
    emotion: str | None = None
    response: str | None = None
    problems: tuple[str, ...] = ()
    dialect: Dialect | None = None

    @property
    def complete(self) -> bool:
        """Whether the reply is well formed: the `format` judge's one question."""
        return not self.problems


class _Tag(NamedTuple):
    """One tag: the span that it begins or ends, and where it stands in the text."""

    name: str
    begins: bool
    start: int
    end: int


@dataclass(slots=True)
class _Reading:
    """The state of one pass over the tags."""

    found: dict[str, str] = field(default_factory=dict)
    #: The spans that began, in the order of their first tags; a dict, so that looking is O(1).
    begun: dict[str, None] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)
    open_name: str | None = None
    open_at: int = 0

    def begin(self, name: str, end_of_tag: int) -> None:
        self.finish()
        if name in self.begun:
            self.problems.add(f"repeated:{name}")
        self.begun[name] = None
        self.open_name, self.open_at = name, end_of_tag

    def end(self, name: str, text: str, start_of_tag: int) -> None:
        if name == self.open_name:
            self.found.setdefault(name, text[self.open_at : start_of_tag].strip())
            self.open_name = None
        elif name in self.broken:  # it was open when another span began inside it
            self.broken.discard(name)
            self.problems.discard(f"unclosed:{name}")
            self.problems.add(f"nested:{name}")
        else:
            self.problems.add(f"stray:{name}")

    def finish(self) -> None:
        """Give up the span that is open, if any: it was never closed."""
        if self.open_name is not None:
            self.broken.add(self.open_name)
            self.problems.add(f"unclosed:{self.open_name}")
            self.open_name = None


def strip_thinking(text: str) -> str:
    """`text` without its thinking: `<think>…</think>` blocks wherever they stand.

    A block that was cut off is removed to the end of the text. An end without a beginning (chat
    templates put the opening tag into the prompt) removes everything before it. Linear time.
    """
    kept: list[str] = []
    position, depth_open = 0, False
    for tag in _THINK.finditer(text):
        closing = tag.group(1) == "/"
        if closing and not depth_open:
            kept.clear()
        elif not closing and not depth_open:
            kept.append(text[position : tag.start()])
        depth_open = not closing
        if closing:
            position = tag.end()
    if not depth_open:
        kept.append(text[position:])
    return "".join(kept)


def parse_spans(text: str) -> Spans:
    """Read the four spans of `text`, thinking removed first. Linear in the length of `text`."""
    usual = _USUAL.fullmatch(text)
    if usual:
        understanding, reasoning, emotion, response = (value.strip() for value in usual.groups())
        if understanding and reasoning and emotion and response:
            return Spans(understanding, reasoning, emotion, response, dialect="pipe")
    return parse_any(text)


def parse_any(text: str) -> Spans:
    """`parse_spans` without its short way for what most replies are."""
    answer = strip_thinking(text)
    pipe, xml = _pipe_tags(answer), _xml_tags(answer)
    begun_pipe, begun_xml = any(tag.begins for tag in pipe), any(tag.begins for tag in xml)
    if begun_pipe and begun_xml:
        first, second = _read(answer, "pipe", pipe), _read(answer, "xml", xml)
        return second if second.complete and not first.complete else first
    if begun_pipe or (pipe and not begun_xml):
        return _read(answer, "pipe", pipe)
    return _read(answer, "xml", xml) if xml else _read(answer, None, [])


def render_spans(understanding: str, reasoning: str, emotion: str, response: str) -> str:
    """The four spans as KardiaBench writes them."""
    values = (understanding, reasoning, emotion, response)
    return "".join(
        f"<|{name}_begin|>{value}<|{name}_end|>"
        for name, value in zip(SPAN_NAMES, values, strict=True)
    )


def _pipe_tags(text: str) -> list[_Tag]:
    return [_Tag(m[1], m[2] == "begin", m.start(), m.end()) for m in _PIPE.finditer(text)]


def _xml_tags(text: str) -> list[_Tag]:
    return [_Tag(m[2], m[1] == "", m.start(), m.end()) for m in _XML.finditer(text)]


def _read(text: str, dialect: Dialect | None, tags: Sequence[_Tag]) -> Spans:
    reading = _Reading()
    for tag in tags:
        if tag.begins:
            reading.begin(tag.name, tag.end)
        else:
            reading.end(tag.name, text, tag.start)
    reading.finish()
    found = {name: reading.found.get(name) for name in SPAN_NAMES}
    return Spans(**found, problems=_problems(reading), dialect=dialect)


def _problems(reading: _Reading) -> tuple[str, ...]:
    problems = set(reading.problems)
    for name in SPAN_NAMES:
        if name not in reading.begun and f"stray:{name}" not in problems:
            problems.add(f"missing:{name}")
        if reading.found.get(name) == "":
            problems.add(f"empty:{name}")
    if list(reading.begun) != [name for name in SPAN_NAMES if name in reading.begun]:
        problems.add("order")
    return tuple(sorted(problems))
