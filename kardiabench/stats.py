"""Statistics of clustered scores and of a 32-way classification. Pure functions on arrays.

Turns of one persona are not independent: with turns taken as independent, two in three comparisons
of equal models look significant. So a persona is the unit: every mean is the mean of persona
means, and its interval is a t interval on K - 1 degrees of freedom over the K persona means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kardiabench.emotions import EMOTIONS

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

#: The column of the confusion matrix for replies that named no emotion.
NO_LABEL = "(none)"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over turns that are clustered by persona.

    `mean` is the mean of persona means and `low`..`high` its 95% t interval on `personas` - 1
    degrees of freedom, None for fewer than two personas; `pooled` is the plain mean over turns.
    `scored` of `total` turns have a value, and `coverage` is their quotient.
    """

    mean: float | None
    low: float | None
    high: float | None
    pooled: float | None
    personas: int
    scored: int
    total: int

    @property
    def coverage(self) -> float:
        """The share of turns that have a value."""
        return self.scored / self.total if self.total else 0.0


def cluster_means(values: Floats, clusters: Codes) -> Floats:
    """The mean of each cluster that has a value, by rising code; NaN values are missing."""
    present = ~np.isnan(values)
    count = np.bincount(clusters[present])
    total = np.bincount(clusters[present], weights=values[present])
    return np.asarray(total[count > 0] / count[count > 0], dtype=np.float64)


def estimate(values: Floats, clusters: Codes, level: float = 0.95) -> Estimate:
    """The mean of `values` (shape (n,), NaN where missing) by persona (shape (n,), codes >= 0)."""
    scored = int(np.count_nonzero(~np.isnan(values)))
    if scored == 0:
        return Estimate(None, None, None, None, 0, 0, len(values))
    means = cluster_means(values, clusters)
    centre = float(means.mean())
    low, high = t_interval(means, level)
    pooled = float(np.nanmean(values))
    return Estimate(centre, low, high, pooled, len(means), scored, len(values))


def t_interval(means: Floats, level: float = 0.95) -> tuple[float | None, float | None]:
    """The t interval of the mean of independent `means`; (None, None) for fewer than two."""
    if len(means) < 2:
        return None, None
    from scipy.special import stdtrit  # a fifth of the import time of scipy.stats

    quantile = float(stdtrit(len(means) - 1, 0.5 + level / 2))
    margin = quantile * float(means.std(ddof=1)) / math.sqrt(len(means))
    centre = float(means.mean())
    return centre - margin, centre + margin


def holm_adjusted(p: Floats) -> Floats:
    """The p values after Holm (1979) over those that are no NaN.

    As statsmodels' `multipletests` has them, which runs the garbage collector: .1 s each time.
    """
    adjusted, order = np.full(len(p), np.nan), np.argsort(p)  # NaN last
    order = order[: np.count_nonzero(~np.isnan(p))]
    steps = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


@dataclass(frozen=True, slots=True)
class Classification:
    """How well emotions were named, over `n` replies.

    `macro_f1` is the mean of F1 over the labels that occur in the gold data; `recall` has those
    labels too; `support` counts them. `confusion[i][j]` counts gold label i answered with label j,
    labels in the order of `EMOTIONS`, the last column being replies that named none.
    """

    n: int
    accuracy: float
    macro_f1: float
    recall: dict[str, float]
    support: dict[str, int]
    confusion: list[list[int]]


def classification(gold: Sequence[str], predicted: Sequence[str | None]) -> Classification | None:
    """Score `predicted` labels (None: no label named) against `gold`; None for no replies."""
    if not gold:
        return None
    places = {label: place for place, label in enumerate(EMOTIONS)}
    rows = np.array([places[label] for label in gold], dtype=np.int64)
    columns = np.array([places.get(label or "", len(EMOTIONS)) for label in predicted])
    size = len(EMOTIONS), len(EMOTIONS) + 1
    matrix = np.bincount(rows * size[1] + columns, minlength=size[0] * size[1]).reshape(size)
    hits, support, named = matrix.diagonal(), matrix.sum(axis=1), matrix[:, :-1].sum(axis=0)
    present = np.flatnonzero(support)
    recall = hits[present] / support[present]
    f1 = 2 * hits[present] / (support[present] + named[present])
    return Classification(
        n=len(gold),
        accuracy=int(hits.sum()) / len(gold),
        macro_f1=float(f1.mean()),
        recall={EMOTIONS[at]: float(value) for at, value in zip(present, recall, strict=True)},
        support={EMOTIONS[at]: int(support[at]) for at in present},
        confusion=matrix.tolist(),
    )
