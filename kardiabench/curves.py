"""From a judge's scores to people's: one isotonic curve a dimension, and what it leaves over.

The curve is fitted on all items; what is said of it comes from items that it had not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kardiabench.agreement import weighted_kappa
from kardiabench.errors import KardiaBenchError
from kardiabench.stats import Codes, Floats, cluster_means, estimate

#: With fewer items the curve is a story about these items.
LEAST_ITEMS = 50
FOLDS = 5


class TooFewItemsError(KardiaBenchError):
    """There are too few items that both people and the judge rated."""


def fit_curve(
    judge: Floats, people: Floats, clusters: Codes | None, low: float, high: float, *, seed: int = 0
) -> dict[str, Any]:
    """The calibration of one dimension as JSON.

    `judge` and `people` (the raters' mean) have shape (items,), NaN where missing; `clusters` are
    the items' personas, None where unknown. Folds and errors go by cluster where there are any.
    Raises `TooFewItemsError` for fewer than 50 items that have both.
    """
    here = ~(np.isnan(judge) | np.isnan(people))
    n = int(np.count_nonzero(here))
    if n < LEAST_ITEMS:
        raise TooFewItemsError(
            f"{n} items were rated by both people and the judge, and a calibration needs "
            f"{LEAST_ITEMS}; rate more"
        )
    groups = _groups(None if clusters is None else clusters[here], n)
    x, y = judge[here], people[here]
    unseen = _cross_fitted(x, y, groups, (low, high), seed)
    fitted = _fit(x, y, (low, high))
    return {
        "x": [float(value) for value in fitted.X_thresholds_],
        "y": [float(value) for value in fitted.y_thresholds_],
        "low": low,
        "high": high,
        "items": n,
        "rectifier": _rectifier(y - unseen, groups),
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
    calibrated: Floats, personas: Codes, rectifier: Mapping[str, Any], level: float = 0.95
) -> dict[str, Any]:
    """The mean that people would give, with its prediction-powered interval, as JSON.

    The mean of persona means of `calibrated` (shape (turns,), NaN where missing) plus the mean of
    the rectifier, people less cross-fitted prediction on the rated items; t with
    Welch-Satterthwaite degrees of freedom. Angelopoulos et al. 2023 (prediction-powered
    inference), Zrnic and Candes 2024 (cross-prediction). Their variances add, as if the two were
    independent: where the rated items are of the same personas as the turns they are not, and the
    interval is too narrow. None where it is undefined: no score at all; no interval for fewer than
    two personas.
    """
    found = estimate(calibrated, personas)
    shift = float(rectifier["mean"])
    low = high = None
    mean = None if found.mean is None else found.mean + shift
    if mean is not None and found.personas > 1:
        margin = _margin(calibrated, personas, rectifier, level)
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
    calibrated: Floats, personas: Codes, rectifier: Mapping[str, Any], level: float
) -> float:
    from scipy.special import stdtrit

    means = cluster_means(calibrated, personas)
    own, other = float(means.var(ddof=1)) / len(means), float(rectifier["standard_error"]) ** 2
    if own + other == 0:
        return 0.0
    parts = own**2 / (len(means) - 1) + other**2 / float(rectifier["df"])
    df = (own + other) ** 2 / parts
    return float(stdtrit(df, 0.5 + level / 2)) * math.sqrt(own + other)


def _groups(clusters: Codes | None, n: int) -> Codes:
    """The clusters where there are at least two of them, else every item by itself."""
    if clusters is None or len(np.unique(clusters)) < 2:
        return np.arange(n, dtype=np.int64)
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def _rectifier(left: Floats, groups: Codes) -> dict[str, Any]:
    means = cluster_means(left, groups)
    return {
        "mean": float(means.mean()),
        "standard_error": float(means.std(ddof=1)) / math.sqrt(len(means)),
        "df": len(means) - 1,
        "clusters": len(means),
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
