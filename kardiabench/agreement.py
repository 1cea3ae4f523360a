"""Agreement between raters: pure functions on arrays, each over any number of tables at once.

A table of scores has shape (..., items) for one rater, (..., items, raters) for several; the axes
in front are bootstrap replicates. NaN is a missing rating. What is undefined (too few ratings, no
variance) is NaN. Scores may be half levels or any other numbers: nothing is rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kardiabench.stats import Floats

Flags = NDArray[np.bool_]

#: Sums of squares below this share of the scores' own are rounding errors: no variance.
_NOTHING = 1e-20


def weighted_kappa(a: Floats, b: Floats) -> Floats:
    """Cohen's kappa with quadratic weights (Cohen 1968) of two raters, each (..., items).

    1 - mean((a-b)^2) / (var a + var b + (mean a - mean b)^2), the expectation being that of
    independent raters with these marginals. NaN for fewer than two items that both rated, and
    where both gave one and the same score throughout.
    """
    a, b = _paired(a, b)
    offset = _mean(a) - _mean(b)
    expected = _variance(a) + _variance(b) + offset**2
    kappa = 1 - _divide(_mean((a - b) ** 2), expected)
    return _where((_count(a) >= 2) & ~(_is_constant(a) & _is_constant(b) & (offset == 0)), kappa)


def spearman(a: Floats, b: Floats) -> Floats:
    """Spearman's rank correlation of two raters, each (..., items); ties get their mean rank."""
    from scipy.stats import rankdata

    pair = (rankdata(x, axis=-1, nan_policy="omit") for x in _paired(a, b))
    return pearson(*pair)


def pearson(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation over the items that both have; NaN where one does not vary."""
    a, b = _paired(a, b)
    together = _mean(_centred(a) * _centred(b))
    value = _divide(together, np.sqrt(_variance(a) * _variance(b)))
    varies = ~(_is_constant(a) | _is_constant(b))
    return _where(varies & (_count(a) >= 2), np.clip(value, -1.0, 1.0))


def slope(values: Floats, predictor: Floats) -> Floats:
    """The least squares slope of `values` on `predictor`; NaN where the predictor is constant."""
    values, predictor = _paired(values, predictor)
    rise = _divide(_mean(_centred(values) * _centred(predictor)), _variance(predictor))
    return _where(~_is_constant(predictor) & (_count(values) >= 2), rise)


def mean_difference(a: Floats, b: Floats) -> Floats:
    """The mean of a - b over the items that both have."""
    return _mean(a - b)


def share_at_least(scores: Floats, bound: float) -> Floats:
    """The share of the scores that there are that reach `bound`."""
    return _mean(np.where(np.isnan(scores), np.nan, scores >= bound))


def ordinal_alpha(table: Floats) -> Floats:
    """Krippendorff's alpha for ordinal data (Krippendorff 2011), ratings may be missing.

    The ordinal distance of two values is the difference of their mean ranks among all pairable
    ratings, so this is alpha for interval data of those ranks. NaN where no item has two ratings
    and where all that do have one and the same.
    """
    from scipy.stats import rankdata

    ratings = _count(table)
    pairable = np.where(np.expand_dims(ratings >= 2, -1), table, np.nan)
    flat = pairable.reshape(*table.shape[:-2], -1)
    ranks = _centred(rankdata(flat, axis=-1, nan_policy="omit")).reshape(table.shape)
    within = _divide(np.nansum(_centred(ranks) ** 2, axis=-1) * ratings, ratings - 1)
    observed = _divide(np.nansum(within, axis=-1), _count(flat))
    expected = _divide(np.nansum(ranks**2, axis=(-2, -1)), _count(flat) - 1)
    return _where(~_is_constant(flat), 1 - _divide(observed, expected))


def icc(table: Floats) -> tuple[Floats, Floats]:
    """ICC(C,1), consistency, and ICC(A,1), absolute agreement, of one rating.

    Two-way layout (McGraw and Wong 1996), over the items that every rater rated. NaN for fewer
    than two of these or two raters, and where neither items nor residuals vary.
    """
    complete: Flags = np.asarray(~np.isnan(table).any(axis=-1))
    n, k = np.asarray(complete.sum(axis=-1), dtype=np.float64), table.shape[-1]
    rows, columns, rest, total = _sums_of_squares(np.where(complete[..., None], table, np.nan))
    row = _divide(rows, n - 1)
    column = _divide(columns, np.full_like(n, k - 1))
    error = _divide(rest, (n - 1) * (k - 1))
    consistent = row + (k - 1) * error
    absolute = consistent + _divide(k * (column - error), n)
    varies = (n >= 2) & (k >= 2) & (rows + rest > _NOTHING * total)
    return (
        _where(varies, _divide(row - error, consistent)),
        _where(varies & (absolute > _NOTHING * total), _divide(row - error, absolute)),
    )


def icc_consistency(table: Floats) -> Floats:
    """The first of `icc`."""
    return icc(table)[0]


def icc_agreement(table: Floats) -> Floats:
    """The second of `icc`."""
    return icc(table)[1]


def left_out_kappas(judge: Floats, table: Floats, others: Floats) -> tuple[Floats, Floats]:
    """How well a person and the judge agree with the other people: two mean weighted kappas.

    Each rater is left out in turn; the first number compares that rater, the second the judge,
    with the median of the others (`median_of_others`), on the items that the judge and that rater
    both scored. Both are means over the raters for whom both are defined.
    """
    place = np.isnan(table) | np.isnan(others)
    judged = np.where(place, np.nan, judge[..., None])
    people = weighted_kappa(np.where(np.isnan(judged), np.nan, table).mT, others.mT)
    machine = weighted_kappa(judged.mT, others.mT)
    undefined = np.isnan(people) | np.isnan(machine)
    return (
        _mean(np.where(undefined, np.nan, people)),
        _mean(np.where(undefined, np.nan, machine)),
    )


def median_of_others(table: Floats) -> Floats:
    """For each rating, the median of the other raters' of that item; the shape of `table`.

    NaN where the rater or everybody else gave none.
    """
    columns = [row_median(np.delete(table, rater, axis=-1)) for rater in range(table.shape[-1])]
    return np.where(np.isnan(table), np.nan, np.stack(columns, axis=-1))


def row_median(table: Floats) -> Floats:
    """The median over the last axis of the ratings that there are; half levels are kept."""
    if table.shape[-1] == 0:
        return np.full(table.shape[:-1], np.nan)
    ordered = np.sort(table, axis=-1)  # NaN last
    count = np.count_nonzero(~np.isnan(table), axis=-1)
    middle = np.stack([np.maximum(count - 1, 0) // 2, count // 2], axis=-1)
    low_high = np.take_along_axis(ordered, middle.clip(max=table.shape[-1] - 1), axis=-1)
    return _where(count > 0, low_high.mean(axis=-1))


def row_mean(table: Floats) -> Floats:
    """The mean over the last axis of the ratings that there are."""
    return _mean(table)


def mean_correlation(scores: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Halo: the mean Pearson correlation between dimensions, of two raters, and its difference.

    Each is (..., items, dimensions). Pairs of dimensions count where both raters' correlation is
    defined, on the items that each has. NaN where no pair does.
    """
    first, second = np.triu_indices(scores.shape[-1], k=1)
    a = pearson(scores.mT[..., first, :], scores.mT[..., second, :])
    b = pearson(other.mT[..., first, :], other.mT[..., second, :])
    undefined = np.isnan(a) | np.isnan(b)
    mean_a, mean_b = (_mean(np.where(undefined, np.nan, x)) for x in (a, b))
    return mean_a, mean_b, mean_a - mean_b


def _paired(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Both, missing where one of them is."""
    missing = np.isnan(a) | np.isnan(b)
    return np.where(missing, np.nan, a), np.where(missing, np.nan, b)


def _count(x: Floats) -> Floats:
    return np.asarray(np.count_nonzero(~np.isnan(x), axis=-1), dtype=np.float64)


def _mean(x: Floats) -> Floats:
    return _divide(np.nansum(x, axis=-1), _count(x))


def _centred(x: Floats) -> Floats:
    return x - _mean(x)[..., None]


def _variance(x: Floats) -> Floats:
    return _mean(_centred(x) ** 2)


def _is_constant(x: Floats) -> Flags:
    """Whether there is one value throughout, or none: exact, where a variance is rounded."""
    low, high = (f.reduce(x, axis=-1, initial=np.nan) for f in (np.fmin, np.fmax))
    return ~np.asarray(low < high)


def _divide(a: Floats, b: Floats) -> Floats:
    """The quotient, NaN where `b` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(b, 0), np.nan, np.divide(a, b))


def _where(is_defined: Flags, value: Floats) -> Floats:
    return np.where(is_defined, value, np.nan)


def _sums_of_squares(table: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Of items, raters and residuals, and of the raw scores; incomplete items are all NaN."""
    items = table.mean(axis=-1)
    raters = _mean(table.mT)
    grand = _mean(items)
    n, k = _count(items), table.shape[-1]
    rest = table - items[..., None] - raters[..., None, :] + grand[..., None, None]
    return (
        k * np.nansum((items - grand[..., None]) ** 2, axis=-1),
        n * np.sum((raters - grand[..., None]) ** 2, axis=-1),
        np.nansum(rest**2, axis=(-2, -1)),
        np.nansum(table**2, axis=(-2, -1)),
    )
