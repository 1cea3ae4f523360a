"""The smallest difference that a paired t test over clusters would find."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from kardiabench.stats import Floats

#: Points of the Gauss-Legendre rule; the power at the answer is right to five digits.
_POINTS = 400


def detectable(sd: float, k: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest true mean of `k` differences that a two-sided t test finds with `power`.

    `sd` is the standard deviation of the differences (of persona means, in the metric's units),
    known in the planning and estimated in the test. None for fewer than two clusters.
    """
    return None if k < 2 else sd * effect_size(k, alpha, power)


@cache
def effect_size(k: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """`detectable` in standard deviations, for k >= 2; solved once for each set of arguments.

    Raise `ValueError` unless 0 < alpha < power < 1.
    """
    if k < 2 or not 0 < alpha < power < 1:
        raise ValueError(f"no effect size for k={k}, alpha={alpha}, power={power}")
    from scipy.optimize import brentq

    upper = 1.0
    while attained(upper, k, alpha) < power:
        upper *= 2
    found = brentq(lambda size: attained(size, k, alpha) - power, 0.0, upper, xtol=1e-12)
    return float(found)


def attained(size: float, k: int, alpha: float = 0.05) -> float:
    """The power of the two-sided t test of `k` differences, their true mean being `size` SDs.

    Given the sample's SD, in units of the true one, the mean is normal: so the power is a normal
    probability averaged over the SD's chi distribution. This holds at the tiny `alpha` of Holm's
    first step among many pairs, where the noncentral t of SciPy gives NaN, and the solver of
    statsmodels with it values that are wrong.
    """
    from scipy.special import ndtr, stdtrit

    deviations, weights = _sample_deviations(k - 1)
    shift, bound = size * math.sqrt(k), -float(stdtrit(k - 1, alpha / 2)) * deviations
    return float(weights @ (ndtr(shift - bound) + ndtr(-shift - bound)))


@cache
def _sample_deviations(df: int) -> tuple[Floats, Floats]:
    """Sample SDs on `df` degrees of freedom where the true one is 1, and their weights."""
    from scipy.special import gammaincinv

    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    quantiles = gammaincinv(df / 2, (points + 1) / 2)
    return np.sqrt(2 * quantiles / df), weights / 2
