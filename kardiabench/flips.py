"""Tests by flipping signs: if nothing differs, each persona's difference could as well be minus it.

Nothing else is assumed, so these are exact for any number of personas (Fisher 1935). Models that
have equal means but fail in different ways are not "nothing differs": for them it is approximate.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from kardiabench.stats import Floats

#: Up to so many personas all sign flips are enumerated; beyond, so many are drawn.
EXACT, FLIPS = 12, 9999
#: Sums that differ by less than this share are equal: what is left is rounding.
ROUNDING = 1e-9
#: Sign-flipped sums held at a time: they should stay in a core's cache.
_CELLS = 60_000


def flip_test(differences: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """The two-sided p of each row of (pairs, K), NaN missing, when signs are flipped at random.

    Exact where a row has no more than `EXACT` values; else (b + 1) / (flips + 1), b of the `flips`
    being as far from 0 as what was seen (Phipson and Smyth 2010).
    """
    size = np.count_nonzero(~np.isnan(differences), axis=1)
    p = np.full(len(differences), np.nan)
    small = (size >= 2) & (size <= EXACT)
    p[small] = _p(_first(differences[small], EXACT), flips, seed)
    large = size > EXACT
    if flips and large.any():
        p[large] = _p(differences[large], flips, seed)
    return p


def _p(differences: Floats, flips: int, seed: int) -> Floats:
    number = differences.shape[1]
    signs = signs_of(number, flips, seed)
    return p_of(_as_far(differences, signs), number, signs)


def _first(differences: Floats, number: int) -> Floats:
    """What is present in each row moved to the front, cut to `number` columns."""
    order = np.argsort(np.isnan(differences), axis=1, kind="stable")
    return np.take_along_axis(differences, order[:, :number], axis=1)


def _as_far(differences: Floats, signs: Floats) -> Floats:
    """The share of the flips, (K, flips), whose sum is as far from 0; missing ones weigh 0."""
    values = np.nan_to_num(differences, nan=0.0)
    seen = np.abs(values.sum(axis=1))
    bound = seen - ROUNDING * np.maximum(np.abs(values).sum(axis=1), 1.0)
    found = np.empty(len(values))
    rows = max(1, _CELLS // signs.shape[1])
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        far = np.abs(values[part] @ signs) >= bound[part, None]
        found[part] = np.count_nonzero(far, axis=1) / signs.shape[1]
    return found


def signs_of(number: int, flips: int, seed: int) -> Floats:
    """Columns of +-1, (number, flips): all that there are for `EXACT` personas or fewer."""
    return _all_signs(number) if number <= EXACT else _drawn_signs(number, flips, seed)


def p_of(share: Floats, number: int, signs: Floats) -> Floats:
    """The p of a `share` of the `signs` of `number` personas that are as far from 0."""
    if number <= EXACT:
        return share
    flips = signs.shape[1]
    return np.asarray((np.round(share * flips) + 1) / (flips + 1), dtype=np.float64)


@cache
def _all_signs(number: int) -> Floats:
    """(number, 2^(number-1)): the first sign is +, as |sum| is the same for its mirror image."""
    bits = np.arange(2 ** max(number - 1, 0))[None, :] >> np.arange(number)[::-1, None] & 1
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


@cache
def _drawn_signs(number: int, flips: int, seed: int) -> Floats:
    drawn = np.random.default_rng([seed, number]).integers(0, 2, (number, flips))
    return np.asarray(1.0 - 2.0 * drawn, dtype=np.float64)
