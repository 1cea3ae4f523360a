"""Somebody's words as a label: one line, no longer than there is room for, no trick characters.

Widths are counted in columns, as a terminal does: most characters take one, East Asian wide ones
two. Pictures are laid out by them and not by measured text, since the reader's font isn't known.
"""

from __future__ import annotations

import unicodedata

#: The width of a column in pixels at the charts' font size: a little more than a mean letter.
COLUMN = 6.7
#: A character that is no text: controls, surrogates, the unassigned, and private ones.
_NO_TEXT = frozenset({"Cc", "Cs", "Cn", "Co"})
#: They turn the direction of what follows, or are not seen at all.
_FORMAT = frozenset({"Cf"})
_REPLACEMENT, _ELLIPSIS = "\ufffd", "\u2026"


def shortened(text: str, columns: int) -> str:
    """`text` on one line of at most `columns` (>= 3): what is too long loses its middle.

    White space becomes one blank, format characters go (a right-to-left override among them), and
    what is no text at all becomes U+FFFD.
    """
    line = "".join(map(_shown, " ".join(text.split())))
    if columns_of(line) <= columns:
        return line
    tail = (columns - 1) // 3
    head = _fitting(line, columns - 1 - tail)
    return f"{head.rstrip()}{_ELLIPSIS}{_fitting(line[::-1], tail)[::-1].lstrip()}"


def columns_of(text: str) -> int:
    """How many columns `text` takes."""
    return sum(map(_columns, text))


def pixels(text: str) -> float:
    """About how many pixels `text` takes at the charts' font size."""
    return columns_of(text) * COLUMN


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category in _FORMAT:
        return ""
    return _REPLACEMENT if category in _NO_TEXT else character


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(line: str, columns: int) -> str:
    """The longest beginning of `line` that takes no more than `columns`."""
    for size, character in enumerate(line):
        columns -= _columns(character)
        if columns < 0:
            return line[:size]
    return line
