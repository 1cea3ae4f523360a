"""In which order the dimensions are rated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

ORDERS = ("shuffled", "fixed", "reversed")


def ordered(names: Sequence[str], order: str, seed: str) -> tuple[str, ...]:
    """`names` in the order asked for; `shuffled` draws one of the balanced orders by `seed`."""
    if order == "fixed":
        return tuple(names)
    if order == "reversed":
        return tuple(reversed(names))
    return random.Random(seed).choice(balanced_orders(tuple(names)))  # noqa: S311 (no secret)


@lru_cache(maxsize=64)
def balanced_orders(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Few orders in which each name has each place, and follows each other name, equally often.

    A Williams design (Williams 1949): n orders for an even number of names, 2n for an odd one. A
    provider has to prepare the schema of each order, so there should not be n! of them.
    """
    n = len(names)
    zigzag = [0, *(at // 2 + 1 if at % 2 == 0 else n - 1 - at // 2 for at in range(n - 1))]
    rows = [tuple(names[(place + step) % n] for place in zigzag) for step in range(n)]
    mirrored = [tuple(reversed(row)) for row in rows] if n % 2 else []
    return tuple(dict.fromkeys([*rows, *mirrored]))
