"""Intervals for how well emotions were named, with the persona as the unit.

Macro-F1 and a label's recall are no means of persona means. Their spread is seen by leaving out
one persona at a time (the delete-one-cluster jackknife: Efron 1982; Rao and Wu 1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kardiabench.emotions import EMOTIONS
from kardiabench.stats import Codes, Floats

_LABELS = len(EMOTIONS)
#: Pseudo-values that spread no more than this are equal: what is left is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its interval: None for fewer than two personas, and where it has no width."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of a label's `support` replies that named it, over the `personas` that have it."""

    value: float
    low: float | None
    high: float | None
    support: int
    personas: int


@dataclass(frozen=True, slots=True)
class ClassificationIntervals:
    """Macro-F1 and recall by label, for the labels that occur in the gold data.

    The values are `stats.classification`'s. `pseudo_values` (K,) are the jackknife's of macro-F1,
    by rising persona code: their spread is its standard error, so two models' can be compared
    like persona means.
    """

    macro_f1: Interval
    recall: dict[str, Recall]
    pseudo_values: Floats


def classification_intervals(
    gold: Codes, predicted: Codes, personas: Codes, level: float = 0.95
) -> ClassificationIntervals | None:
    """The intervals of `predicted` against `gold`, each of shape (n,); None for no replies.

    Codes are places in `EMOTIONS`; a prediction of 32 named none. Raise `ValueError` for others.
    """
    if not len(gold):
        return None
    counts = _counts(gold, predicted, personas)
    value = float(macro_f1(counts.sum(axis=0)))
    pseudo = _pseudo_values(value, counts)
    return ClassificationIntervals(
        macro_f1=_interval(value, pseudo, level),
        recall=_recalls(counts, level),
        pseudo_values=pseudo,
    )


def macro_f1(counts: NDArray[np.int64]) -> Floats:
    """The mean F1 of the labels that occur, from counts (..., 3, 32) of hits, gold, predicted."""
    hits, gold, predicted = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    f1 = 2 * hits / np.maximum(gold + predicted, 1)
    present = gold > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(present, f1, 0.0).sum(axis=-1) / present.sum(axis=-1))


def _counts(gold: Codes, predicted: Codes, personas: Codes) -> NDArray[np.int64]:
    """Hits, gold and predicted by persona and label: (K, 3, 32)."""
    if gold.min() < 0 or gold.max() >= _LABELS or predicted.min() < 0 or predicted.max() > _LABELS:
        raise ValueError(f"codes of labels must be 0 to {_LABELS - 1}, or {_LABELS} for none")
    present, persona = np.unique(personas, return_inverse=True)
    hit = np.where(gold == predicted, gold, _LABELS)
    shape = len(present), _LABELS + 1
    tables = [
        np.bincount(persona * shape[1] + labels, minlength=shape[0] * shape[1]).reshape(shape)
        for labels in (hit, gold, predicted)
    ]
    return np.stack(tables, axis=1)[:, :, :_LABELS].astype(np.int64)


def _pseudo_values(value: float, counts: NDArray[np.int64]) -> Floats:
    """K value - (K - 1) value without persona k; NaN for one persona."""
    number = len(counts)
    left = macro_f1(counts.sum(axis=0) - counts)
    return number * value - (number - 1) * left


def _interval(value: float, pseudo: Floats, level: float) -> Interval:
    number = len(pseudo)
    spread = float(pseudo.std(ddof=1)) if number > 1 else 0.0
    if spread <= _ROUNDING:
        return Interval(value, None, None)
    margin = _quantile(number - 1, level) * spread / math.sqrt(number)
    return Interval(value, max(value - margin, 0.0), min(value + margin, 1.0))


def _recalls(counts: NDArray[np.int64], level: float) -> dict[str, Recall]:
    found = {}
    for label in np.flatnonzero(counts[:, 1].sum(axis=0)):
        hits, support = counts[:, 0, label], counts[:, 1, label]
        having = support > 0
        found[EMOTIONS[label]] = _recall(hits[having], support[having], level)
    return found


def _recall(hits: NDArray[np.int64], support: NDArray[np.int64], level: float) -> Recall:
    """Of the personas that have the label, each with some `support`.

    A t interval about the jackknife's error misses shares near 0 and 1, so it is Wilson's with the
    effective sample size that this error amounts to, and the quantile of t (after Korn and
    Graubard 1998 and Dean and Pagano 2015).
    """
    number, total = len(support), int(support.sum())
    value = float(hits.sum() / total)
    if number < 2:
        return Recall(value, None, None, total, number)
    left = (hits.sum() - hits) / (total - support)
    variance = (number - 1) / number * float(((left - left.mean()) ** 2).sum())
    even = value in {0.0, 1.0}  # nothing shows how personas differ: each counts as one reply
    size = number if even else min(value * (1 - value) / max(variance, 1e-12), total)
    low, high = _wilson(value, size, _quantile(number - 1, level))
    return Recall(value, low, high, total, number)


def _wilson(value: float, size: float, quantile: float) -> tuple[float, float]:
    """Wilson's (1927) interval of a share of `size` independent replies."""
    reach = quantile**2 / size
    centre = (value + reach / 2) / (1 + reach)
    margin = math.sqrt(reach * value * (1 - value) + reach**2 / 4) / (1 + reach)
    return max(centre - margin, 0.0), min(centre + margin, 1.0)


def _quantile(df: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))
