"""Every pair of models compared, over the personas that both answered.

The unit is the persona, as in `kardiabench.stats`: a pair's data are the K differences of its
persona means, and turns only enter through these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kardiabench.flips import FLIPS, flip_test
from kardiabench.power import effect_size
from kardiabench.stats import Codes, Floats, holm_adjusted

Bools = NDArray[np.bool_]

#: Differences whose SD, and means that, are no more than this are rounding, as in `effects`.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PairTable:
    """Every pair of the models `names`, first < second; arrays of shape (pairs,), NaN: undefined.

    `mean` is the mean over the `personas` that both models have of first minus second, `low` and
    `high` its 95% t interval on personas - 1 degrees of freedom, `p` that of the paired t test,
    two-sided, `p_holm` the same after Holm (1979) over all pairs that could be tested. `p_flip` is
    the sign-flip test's (Fisher 1935) on the same differences: it checks `p` without assuming
    that they are normal. `mde` is the true difference that this test finds with 80% power at 5%,
    given the SD seen; `mde_holm` at Holm's first step, 5% / pairs tested. Where all differences are
    equal there is no interval and no `mde`, and both p are the exact ones of flipping signs, or
    NaN where the models are equal.
    """

    names: tuple[str, ...]
    first: Codes
    second: Codes
    mean: Floats
    low: Floats
    high: Floats
    p: Floats
    p_flip: Floats
    p_holm: Floats
    personas: Codes
    mde: Floats
    mde_holm: Floats


def pairs(means: Floats, names: Sequence[str], flips: int = FLIPS, seed: int = 0) -> PairTable:
    """Compare all models by their persona means, of shape (M, K), NaN where there is no score.

    Beyond 12 personas `p_flip` is a Monte Carlo estimate from `flips` flips, the same for all
    pairs (0: leave it out). Raise `ValueError` where `names` are not M.
    """
    if len(names) != len(means):
        raise ValueError(f"{len(names)} names for {len(means)} rows of means")
    return pairs_of(means[:, None] - means[None], names, flips, seed)


def pairs_of(cube: Floats, names: Sequence[str], flips: int = FLIPS, seed: int = 0) -> PairTable:
    """`pairs` from persona means of differences, (M, M, K): first model minus second; NaN: none.

    For models that have not scored the same turns: a difference is then of the turns that both
    have. Only the half above the diagonal is read. Raise `ValueError` where `names` are not M.
    """
    if len(names) != len(cube):
        raise ValueError(f"{len(names)} names for {len(cube)} models")
    first, second = np.triu_indices(len(cube), k=1)
    differences = cube[first, second]
    size, mean, sd = moments(differences)
    p = t_test(size, mean, sd)
    tested = int(np.count_nonzero(~np.isnan(p)))
    margin = _margin(size, sd)
    return PairTable(
        names=tuple(names),
        first=first.astype(np.int64),
        second=second.astype(np.int64),
        mean=mean,
        low=mean - margin,
        high=mean + margin,
        p=p,
        p_flip=np.where(np.isnan(p), np.nan, flip_test(differences, flips, seed)),
        p_holm=holm_adjusted(p),
        personas=size,
        mde=_detectable(size, sd, 0.05),
        mde_holm=_detectable(size, sd, 0.05 / max(tested, 1)),
    )


def better(table: PairTable, alpha: float = 0.05) -> Bools:
    """Whether model i scored significantly higher than model j: of shape (M, M)."""
    found = np.zeros((len(table.names), len(table.names)), dtype=np.bool_)
    significant = table.p_holm < alpha
    found[table.first, table.second] = significant & (table.mean > 0)
    found[table.second, table.first] = significant & (table.mean < 0)
    return found


def moments(differences: Floats) -> tuple[Codes, Floats, Floats]:
    """How many there are in each row of (pairs, K), their mean, and SD; NaN: undefined.

    An SD that is rounding is 0.
    """
    present = ~np.isnan(differences)
    size = present.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, differences, 0.0).sum(axis=1) / size
        squares = np.where(present, (differences - mean[:, None]) ** 2, 0.0).sum(axis=1)
        sd = np.where(size > 1, np.sqrt(squares / (size - 1)), np.nan)
    return size.astype(np.int64), mean, np.where(sd <= _ROUNDING, 0.0, sd)


def t_test(size: Codes, mean: Floats, sd: Floats) -> Floats:
    """The two-sided p of no difference, from `moments`; see `PairTable` for an SD of 0."""
    from scipy.special import stdtr

    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stdtr(size - 1, -np.abs(mean) / (sd / np.sqrt(size)))
    exact = np.where(np.abs(mean) <= _ROUNDING, np.nan, 2 * 0.5**size)
    return np.asarray(np.where(sd == 0, exact, p), dtype=np.float64)


def _margin(size: Codes, sd: Floats) -> Floats:
    from scipy.special import stdtrit

    with np.errstate(invalid="ignore", divide="ignore"):
        margin = stdtrit(size - 1.0, 0.975) * sd / np.sqrt(size)
    return np.asarray(np.where(sd > 0, margin, np.nan), dtype=np.float64)


def _detectable(size: Codes, sd: Floats, alpha: float) -> Floats:
    """`power.detectable` of each pair, solved once for each number of personas."""
    found = np.full(len(size), np.nan)
    for k in np.unique(size[sd > 0]):
        found[size == k] = effect_size(int(k), alpha)
    return np.where(sd > 0, found * sd, np.nan)
