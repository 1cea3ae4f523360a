"""From a judge's scores to people's: one isotonic curve a dimension, and what it leaves over.

The curve is fitted on all items; what is said of it comes from items that it had not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kardiabench.agreement import weighted_kappa
from kardiabench.errors import KardiaBenchError
from kardiabench.stats import Codes, Floats, cluster_means, estimate

#: With fewer items the curve is a story about these items.
LEAST_ITEMS = 50
FOLDS = 5


class TooFewItemsError(KardiaBenchError):
    """There are too few items that both people and the judge rated."""


def fit_curve(
    judge: Floats,
    people: Floats,
    clusters: NDArray[Any] | None,
    low: float,
    high: float,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The calibration of one dimension as JSON.

    `judge` and `people` (the raters' mean) have shape (items,), NaN where missing; `clusters` are
    the items' personas by name or code, None where unknown. Folds and errors go by cluster where
    there are any. Raises `TooFewItemsError` for fewer than 50 items that have both.
    """
    here = ~(np.isnan(judge) | np.isnan(people))
    n = int(np.count_nonzero(here))
    if n < LEAST_ITEMS:
        raise TooFewItemsError(
            f"{n} items were rated by both people and the judge, and a calibration needs "
            f"{LEAST_ITEMS}; rate more"
        )
    groups, names = _groups(None if clusters is None else clusters[here], n)
    x, y = judge[here], people[here]
    unseen = _cross_fitted(x, y, groups, (low, high), seed)
    fitted = _fit(x, y, (low, high))
    return {
        "x": [float(value) for value in fitted.X_thresholds_],
        "y": [float(value) for value in fitted.y_thresholds_],
        "low": low,
        "high": high,
        "items": n,
        "rectifier": _rectifier(y - unseen, groups, names),
        "cross_fitted": {
            "mse_raw": float(np.mean((x - y) ** 2)),
            "mse": float(np.mean((unseen - y) ** 2)),
            "offset_raw": float(np.mean(x - y)),
            "offset": float(np.mean(unseen - y)),
            "kappa_raw": _number(weighted_kappa(x, y)),
            "kappa": _number(weighted_kappa(unseen, y)),
        },
        **({"note": "judge gives one score only"} if np.ptp(x) == 0 else {}),
    }


def apply_curve(curve: Mapping[str, Any], scores: Floats) -> Floats:
    """`scores` on people's scale; NaN stays NaN, what is beyond the curve's ends is at them."""
    return np.asarray(np.interp(scores, curve["x"], curve["y"]), dtype=np.float64)


def calibrated_estimate(
    calibrated: Floats,
    personas: Codes,
    rectifier: Mapping[str, Any],
    level: float = 0.95,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The mean that people would give, with its prediction-powered interval, as JSON.

    The mean of persona means of `calibrated` (shape (turns,), NaN where missing) plus the mean of
    the rectifier, people less cross-fitted prediction on the rated items. Their variances add, and
    twice their covariance over the personas that both have: `names` are those of the codes in
    `personas`, and the rectifier has its own by name. t with Welch-Satterthwaite degrees of
    freedom, or the fewer of both where personas are shared. Angelopoulos et al. 2023
    (prediction-powered inference), Zrnic and Candes 2024 (cross-prediction). None where it is
    undefined: no score at all; no interval for fewer than two personas.
    """
    found = estimate(calibrated, personas)
    shift = float(rectifier["mean"])
    low = high = None
    mean = None if found.mean is None else found.mean + shift
    if mean is not None and found.personas > 1:
        margin = _margin(_by_code(calibrated, personas), rectifier, level, names)
        low, high = mean - margin, mean + margin
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "rectifier": shift,
        "personas": found.personas,
        "scored": found.scored,
    }


def _margin(
    means: Mapping[int, float], rectifier: Mapping[str, Any], level: float, names: Sequence[str]
) -> float:
    from scipy.special import stdtrit

    n, m = len(means), int(rectifier["clusters"])
    own = float(np.var([*means.values()], ddof=1)) / n
    other = float(rectifier["standard_error"]) ** 2
    known: Mapping[str, float] = rectifier.get("by_persona") or {}
    shared = [
        (mean, known[names[code]])
        for code, mean in means.items()
        if code < len(names) and names[code] in known
    ]
    total = own + other
    if len(shared) > 1:
        covariance = float(np.cov(np.array(shared).T, ddof=1)[0, 1])
        total += 2 * len(shared) * covariance / (n * m)
    if total <= 0:
        return 0.0
    df = min(n - 1, m - 1) if shared else _welch(own, n - 1, other, float(rectifier["df"]))
    return float(stdtrit(df, 0.5 + level / 2)) * math.sqrt(total)


def _welch(own: float, own_df: float, other: float, other_df: float) -> float:
    """Welch-Satterthwaite degrees of freedom of a sum of two variances, not both 0."""
    return (own + other) ** 2 / (own**2 / own_df + other**2 / other_df)


def _by_code(values: Floats, clusters: Codes) -> dict[int, float]:
    """The mean of each cluster that has a value, by code."""
    present = np.unique(clusters[~np.isnan(values)])
    means = cluster_means(values, clusters)
    return dict(zip(map(int, present), map(float, means), strict=True))


def _groups(clusters: NDArray[Any] | None, n: int) -> tuple[Codes, Sequence[str]]:
    """The clusters and their names where there are at least two, else every item by itself."""
    if clusters is None or len(np.unique(clusters)) < 2:
        return np.arange(n, dtype=np.int64), ()
    names, groups = np.unique(clusters, return_inverse=True)
    return groups.astype(np.int64), tuple(map(str, names))


def _rectifier(left: Floats, groups: Codes, names: Sequence[str]) -> dict[str, Any]:
    means = cluster_means(left, groups)
    by_persona = dict(zip(names, map(float, means), strict=True)) if names else {}
    return {
        "mean": float(means.mean()),
        "standard_error": float(means.std(ddof=1)) / math.sqrt(len(means)),
        "df": len(means) - 1,
        "clusters": len(means),
        "by_persona": by_persona,
    }


def _cross_fitted(
    x: Floats, y: Floats, groups: Codes, scale: tuple[float, float], seed: int
) -> Floats:
    """For every item what a curve says that was fitted without the item's fold."""
    unseen = np.empty(len(x))
    for fold in _folds(groups, seed):
        unseen[fold] = _fit(x[~fold], y[~fold], scale).predict(x[fold])
    return unseen


def _folds(groups: Codes, seed: int) -> Iterator[np.ndarray]:
    """Masks of the items of each fold: whole groups, dealt out in a seeded order."""
    number = int(groups.max()) + 1
    order = np.random.default_rng(seed).permutation(number)
    folds = min(FOLDS, number)
    for fold in range(folds):
        yield np.isin(groups, order[fold::folds])


def _fit(x: Floats, y: Floats, scale: tuple[float, float]) -> Any:
    from sklearn.isotonic import IsotonicRegression

    low, high = scale
    return IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(x, y)


def _number(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)
