"""The 32 emotion labels of EmpatheticDialogues and how a model's word is matched to one."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

#: Rashkin et al. 2019, "Towards Empathetic Open-domain Conversation Models"; used by KardiaBench.
EMOTIONS: tuple[str, ...] = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring",
    "confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited",
    "faithful", "furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful",
    "lonely", "nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified",
    "trusting",
)  # fmt: skip

_KNOWN = frozenset(EMOTIONS)
_LONGEST = 200


def match_emotion(text: str) -> str | None:
    """The label that `text` names, or None.

    The match is exact after folding Unicode compatibility forms, case, white space and
    punctuation: ` **Anxious.** ` is `anxious`; `anxious, sad`, `anxiety` and `very anxious` are
    nothing.
    """
    return None if len(text) > _LONGEST else _match(text)  # the cache never keeps a long text


@lru_cache(maxsize=4096)
def _match(text: str) -> str | None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    label = " ".join("".join(map(_fold_character, folded)).split())
    return label if label in _KNOWN else None


def _fold_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""  # zero-width, direction and variation marks are not seen: they do not count
    return " " if category[0] in "PSZC" else character
