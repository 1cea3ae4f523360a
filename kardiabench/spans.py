"""The four spans of a reply: one parser for both dialects of tags.

KardiaBench writes `<|response_begin|>…<|response_end|>`; its dataset card also shows
`<response>…</response>`. A reply is read in one dialect only (the first wherever one of its
opening tags stands), so that tags of the other dialect inside a span stay text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

SPAN_NAMES: tuple[str, ...] = ("understanding", "reasoning", "emotion", "response")

Dialect = Literal["pipe", "xml"]

_NAMES = "|".join(SPAN_NAMES)
_PIPE = re.compile(rf"<\|({_NAMES})_(begin|end)\|>")
_XML = re.compile(rf"<(/?)({_NAMES})>")
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


@dataclass(slots=True)
class _Reading:
    """The state of one pass over the tags."""

    found: dict[str, str] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)
    open_name: str | None = None
    open_at: int = 0

    def begin(self, name: str, end_of_tag: int) -> None:
        self.finish()
        if name in self.begun:
            self.problems.add(f"repeated:{name}")
        self.begun.append(name)
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
    answer = strip_thinking(text)
    dialect, tags = _tags(answer)
    reading = _Reading()
    for name, is_begin, start, end in tags:
        if is_begin:
            reading.begin(name, end)
        else:
            reading.end(name, answer, start)
    reading.finish()
    found = reading.found
    return Spans(
        understanding=found.get("understanding"),
        reasoning=found.get("reasoning"),
        emotion=found.get("emotion"),
        response=found.get("response"),
        problems=_problems(reading),
        dialect=dialect,
    )


def render_spans(understanding: str, reasoning: str, emotion: str, response: str) -> str:
    """The four spans as KardiaBench writes them."""
    values = (understanding, reasoning, emotion, response)
    return "".join(
        f"<|{name}_begin|>{value}<|{name}_end|>"
        for name, value in zip(SPAN_NAMES, values, strict=True)
    )


def _tags(text: str) -> tuple[Dialect | None, list[tuple[str, bool, int, int]]]:
    pipe = [(m[1], m[2] == "begin", m.start(), m.end()) for m in _PIPE.finditer(text)]
    if any(is_begin for _, is_begin, _, _ in pipe):
        return "pipe", pipe
    xml = [(m[2], m[1] == "", m.start(), m.end()) for m in _XML.finditer(text)]
    if any(is_begin for _, is_begin, _, _ in xml):
        return "xml", xml
    return ("pipe", pipe) if pipe else ("xml", xml) if xml else (None, [])


def _problems(reading: _Reading) -> tuple[str, ...]:
    problems = set(reading.problems)
    for name in SPAN_NAMES:
        if name not in reading.begun and f"stray:{name}" not in problems:
            problems.add(f"missing:{name}")
        if reading.found.get(name) == "":
            problems.add(f"empty:{name}")
    firsts = list(dict.fromkeys(reading.begun))
    if firsts != [name for name in SPAN_NAMES if name in firsts]:
        problems.add("order")
    return tuple(sorted(problems))
