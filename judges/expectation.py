"""From the chances of the tokens that a level could have been to the level's expectation.

A judge that hesitates between 3 and 4 says one of them; the mean over its distribution keeps what
it knows and has fewer ties (G-Eval, Liu et al. 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import accumulate

from judges.answers import Answer
from kardiabench.records import Completion, TokenChances

#: The level's digit; a quoted key inside evidence has its quotation marks escaped.
_SCORE = re.compile(r'(?<!\\)"score"\s*:\s*"?([1-5])')
_LEVEL = re.compile(r"\W*([1-5])\W*")
#: With less than this share on the five levels the token was no level at all.
LEAST_MASS = 0.5


def expected_levels(answer: Answer, completion: Completion) -> dict[str, float] | None:
    """The expected level of every dimension, in [1, 5].

    None where the completion has no chances, where they do not spell its text, or where the token
    of a level does not stand alone.
    """
    spelt, ends = _spelt(completion.chances)
    start = spelt.rfind(answer.source.encode())
    found = list(_SCORE.finditer(answer.source))
    if start < 0 or not completion.chances or len(found) != len(answer.scores):
        return None
    levels: dict[str, float] = {}
    for name, match in zip(answer.scores, found, strict=True):
        place = start + len(answer.source[: match.start(1)].encode())
        token = next(at for at, end in enumerate(ends) if end > place)
        level = _expectation(completion.chances[token])
        if level is None:
            return None
        levels[name] = level
    return levels


def _spelt(chances: Sequence[TokenChances]) -> tuple[bytes, list[int]]:
    """All tokens as bytes, and where each ends; a token may be a piece of a character."""
    pieces = [one.token.encode("utf-8", "surrogateescape") for one in chances]
    return b"".join(pieces), list(accumulate(map(len, pieces)))


def _expectation(chances: TokenChances) -> float | None:
    shares: dict[int, float] = {}
    for token, log_probability in chances.top:
        match = _LEVEL.fullmatch(token)
        if match:
            level = int(match[1])
            shares[level] = shares.get(level, 0.0) + math.exp(log_probability)
    mass = sum(shares.values())
    if mass < LEAST_MASS:
        return None
    mean = sum(level * share for level, share in shares.items()) / mass
    return min(5.0, max(1.0, mean))
