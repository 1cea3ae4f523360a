"""Ranks that say no more than the data: shared ranks, and confidence intervals of ranks."""

from __future__ import annotations

import numpy as np

from kardiabench.flips import ROUNDING, p_of, signs_of
from kardiabench.pairs import Bools
from kardiabench.stats import Codes, Floats

#: The rank of a model that has no score.
NO_RANK = -1


def shared_ranks(better: Bools) -> list[int]:
    """1 + the number of models that are significantly better, from `pairs.better` (M, M)."""
    return [1 + int(above) for above in better.sum(axis=0)]


def rank_intervals(
    means: Floats,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    better: Bools | None = None,
) -> tuple[Codes, Codes]:
    """The lowest and the highest rank (1 is best) that each model's true mean may have.

    `means` are persona means, (M, K), NaN where there is no score. Each interval by itself holds
    the true rank with probability `level`: it leaves out only places behind models that are worse,
    and before models that are better, by simultaneous tests of this model's differences to all
    others (Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for Ranks"). So models that
    can't be told apart overlap, however many they are, and equal ones fully.

    These resample personas by flipping the signs of their differences (`kardiabench.flips`), a flip
    being the same for all rivals: a rival is worse or better where its t is beyond the largest t
    among all rivals in 1 - `level` of the `draws`. That is exact for few personas and many models,
    where a bootstrap isn't, nor percentiles of resampled ranks (docs/statistics.md). A model
    without a score gets `NO_RANK`.

    With `better` (M, M) from `pairs.better` the interval also holds every rank that these tests
    leave open, the shared rank among them: Holm's over many pairs are stricter.
    """
    return rank_intervals_of(means[:, None] - means[None], seed, draws, level, better=better)


def rank_intervals_of(
    cube: Floats,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    *,
    better: Bools | None = None,
) -> tuple[Codes, Codes]:
    """`rank_intervals` from persona means of differences, (M, M, K), as `pairs.pairs_of` has."""
    low, high = (np.full(len(cube), NO_RANK, dtype=np.int64) for _ in range(2))
    ranked = np.flatnonzero(~np.isnan(cube).all(axis=(1, 2)))
    signs = signs_of(cube.shape[2], draws, seed)
    for place in ranked:
        rivals = ranked[ranked != place]
        above, below = _apart(cube[rivals, place], signs, 1 - level)
        low[place], high[place] = 1 + above, len(ranked) - below
    if better is not None:
        among = better[np.ix_(ranked, ranked)]
        low[ranked] = np.minimum(low[ranked], 1 + among.sum(axis=0))
        high[ranked] = np.maximum(high[ranked], len(ranked) - among.sum(axis=1))
    return low, high


def _apart(differences: Floats, signs: Floats, alpha: float) -> tuple[int, int]:
    """How many rows of `differences` (rivals, K) are surely above 0, and how many below."""
    size = np.count_nonzero(~np.isnan(differences), axis=1)
    values = np.nan_to_num(differences, nan=0.0)
    values[np.abs(values) <= ROUNDING] = 0.0
    tested = (size > 1) & values.any(axis=1)
    if not tested.any():
        return 0, 0
    values, size = values[tested], size[tested, None]
    length = np.sqrt((values**2).sum(axis=1, keepdims=True))
    seen = _t(values.sum(axis=1, keepdims=True) / length, size)[:, 0]
    largest = np.sort(np.abs(_t(values @ signs / length, size)).max(axis=0))
    below = np.searchsorted(largest, np.abs(seen) * (1 - ROUNDING))
    significant = p_of(1 - below / len(largest), len(signs), signs) <= alpha + ROUNDING
    return int((significant & (seen > 0)).sum()), int((significant & (seen < 0)).sum())


def _t(unit: Floats, size: Codes) -> Floats:
    """The t of differences from their sum, divided by the root of their sum of squares.

    It is infinite where all are equal.
    """
    left = size - unit**2
    with np.errstate(divide="ignore"):
        return np.asarray(unit * np.sqrt((size - 1) / np.where(left > ROUNDING, left, 0.0)))
