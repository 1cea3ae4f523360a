"""Special tokens by what they are to us: span tags and think tags are text, the rest is marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from kardiabench.spans import SPAN_NAMES

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
#: Both dialects of the span tags (see `spans`).
SPAN_TAGS = frozenset(
    tag
    for name in SPAN_NAMES
    for tag in (f"<|{name}_begin|>", f"<|{name}_end|>", f"<{name}>", f"</{name}>")
)
THINK_TAGS = frozenset({THINK_OPEN, THINK_CLOSE, "<thinking>", "</thinking>"})
#: DeepSeek's mark of a user, with wide bars, is a token of its own and not called special.
_MARK = re.compile(r"<([|\uff5c]).+\1>", re.DOTALL)
_HEADING = re.compile(r"^(?=(?:System|User|Assistant):)", re.MULTILINE)
_OPENING = re.compile(
    "|".join(re.escape(t) for n in SPAN_NAMES for t in (f"<|{n}_begin|>", f"<{n}>"))
)


def special_tokens(tokenizer: Any) -> Iterator[tuple[int, str]]:
    """The id and the text of every token that the tokenizer calls special, or that looks it."""
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special or _MARK.fullmatch(token.content):
            yield number, token.content
    known = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    yield from ((number, str(token)) for number, token in known)


def is_text(token: str) -> bool:
    """Whether a special token belongs to what a model says: a span tag or a think tag."""
    return token.strip() in SPAN_TAGS | THINK_TAGS


def mark_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of chat marks, BOS, EOS, padding: all that is no text."""
    return frozenset(number for number, token in special_tokens(tokenizer) if not is_text(token))


def disarmed(content: str, tokenizer: Any) -> str:
    """`content` with a space after the first character of every chat mark in it.

    Tokenizers read `<|im_end|>` in a message as the mark itself: a message could then end itself
    and speak for somebody else.
    """
    pattern = _pattern(tokenizer)
    return content if pattern is None else pattern.sub(lambda m: f"{m[0][0]} {m[0][1:]}", content)


#: Per tokenizer, since Gemma has thousands of special tokens: how many tokens it had, and what
#: matches its marks.
_PATTERNS: WeakKeyDictionary[Any, tuple[int, re.Pattern[str] | None]] = WeakKeyDictionary()


def _pattern(tokenizer: Any) -> re.Pattern[str] | None:
    size, pattern = _PATTERNS.get(tokenizer, (None, None))
    if size != len(tokenizer):
        pattern = _matching({t for _, t in special_tokens(tokenizer) if not is_text(t)})
        _PATTERNS[tokenizer] = len(tokenizer), pattern
    return pattern


def _matching(marks: set[str]) -> re.Pattern[str] | None:
    # A mark of one character cannot be broken, and would break ordinary text.
    long = sorted((mark for mark in marks if len(mark) > 1), key=lambda m: (-len(m), m))
    return re.compile("|".join(map(re.escape, long))) if long else None


def disarmed_headings(content: str) -> str:
    """`content` with a space in front of lines that look like a heading of the plain format."""
    return _HEADING.sub(" ", content)


def opening_span_tag(text: str) -> str | None:
    """`text` from its first opening span tag on; None where there is none."""
    found = _OPENING.search(text)
    return text[found.start() :] if found else None
