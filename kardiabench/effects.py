"""Paired differences with clusters as the unit: the test behind every instrument check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from kardiabench.stats import Codes, Floats, cluster_means, estimate, holm_adjusted

Alternative = Literal["two-sided", "greater"]
SIGNIFICANCE = 0.05
#: Cluster means that differ by no more than this are equal: what is left is rounding.
_ROUNDING = 1e-9
_Name = TypeVar("_Name")


@dataclass(frozen=True, slots=True)
class Effect:
    """A mean difference over pairs.

    `mean` is the mean of the clusters' means and `low`..`high` its 95% t interval on `clusters` - 1
    degrees of freedom; `p` that of the t test of no difference, `p_holm` the same after Holm (1979)
    over the tests that were made together. None is what cannot be computed. `pairs` of `total` have
    both scores.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    clusters: int
    pairs: int
    total: int

    @property
    def significant(self) -> bool:
        """Whether it was tested, and `p_holm` is below .05."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANCE

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def effect(differences: Floats, clusters: Codes, side: Alternative = "two-sided") -> Effect:
    """The mean of `differences` (shape (n,), NaN where a pair is not whole) by cluster."""
    whole = estimate(differences, clusters)
    means = cluster_means(differences, clusters) if whole.scored else np.empty(0)
    return Effect(
        mean=whole.mean,
        low=whole.low,
        high=whole.high,
        p=_p_value(means, side),
        p_holm=None,
        clusters=whole.personas,
        pairs=whole.scored,
        total=whole.total,
    )


def holm(effects: Mapping[_Name, Effect]) -> dict[_Name, Effect]:
    """The effects with `p_holm`: the family-wise error of all that could be tested is 5%."""
    tested = [name for name, found in effects.items() if found.p is not None]
    adjusted = holm_adjusted(np.array([effects[name].p for name in tested], dtype=np.float64))
    return dict(effects) | {
        name: replace(effects[name], p_holm=float(p))
        for name, p in zip(tested, adjusted, strict=True)
    }


def _p_value(means: Floats, side: Alternative) -> float | None:
    """None for fewer than two means, and where every mean is 0: there is nothing to test."""
    if len(means) < 2:
        return None
    centre, deviation = float(means.mean()), float(means.std(ddof=1))
    if deviation <= _ROUNDING:
        return None if abs(centre) <= _ROUNDING else _sign_flip(centre, len(means), side)
    from scipy.special import stdtr

    t = centre / (deviation / len(means) ** 0.5)
    if side == "greater":
        return float(stdtr(len(means) - 1, -t))
    return float(2 * stdtr(len(means) - 1, -abs(t)))


def _sign_flip(centre: float, number: int, side: Alternative) -> float:
    """The exact sign-flip p of equal means, where t is infinite: one flip of all 2^K is as far."""
    extreme = 0.5**number
    if side == "two-sided":
        return 2 * extreme
    return extreme if centre > 0 else 1.0
