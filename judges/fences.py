"""How text from outside is shown to a judge: as data, within fences that it cannot forge.

A text is a JSON string, so it has no line breaks of its own; the lines around it carry a nonce
drawn at random for the one call, which nothing inside can know. What a reader would not see, and
what a tokenizer could take for a mark of its own, is written as an escape.
"""

from __future__ import annotations

import json
import re
import secrets

from kardiabench.records import clean_text

#: Longer texts are cut in their middle: replies are meant to have some thirty words.
MAX_TEXT = 8000

#: Format characters (Unicode Cf: zero-width, bidi, tags), control characters that JSON leaves as
#: they are, blanks that look like nothing, variation selectors beyond those of emoji, private use.
_UNSEEN = (
    "\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0d\ufeff"
    "\uffa0\ufff0-\ufffb\ue000-\uf8ff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_EMOJI = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
#: A joiner is part of many emoji, and hidden anywhere else.
_JOINER = f"(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}])"
#: `<|im_end|>`, `</s>`, `<think>`, `[INST]`: tokenizers read these even inside a message.
_MARKS = r"<(?=[A-Za-z/|!<\uff5c])|\[(?=/?[A-Z][A-Z_]*\])"
_ESCAPED = re.compile(f"[{_UNSEEN}]|{_JOINER}|{_MARKS}")


def new_nonce() -> str:
    """Twelve hexadecimal digits that no text can know beforehand."""
    return secrets.token_hex(6)


def quoted(text: str) -> str:
    """`text` as a JSON string on one line that shows everything there is in it."""
    return _ESCAPED.sub(_escape, json.dumps(clean_text(_cut(text)), ensure_ascii=False))


def _escape(match: re.Match[str]) -> str:
    """A JSON escape, two of them beyond the basic plane."""
    units = match[0].encode("utf-16-be")
    pairs = (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return "".join(f"\\u{unit:04x}" for unit in pairs)


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters left out…] {text[-half:]}"
