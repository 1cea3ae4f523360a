"""Win rates of one model over another, by persona, and what order and length do to them.

A score is the preference for model A on one case, in [0, 1]: 1 it is better, .5 a tie, 0 worse;
NaN is missing. Swapping the models mirrors everything here: 1 - score, - words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from kardiabench.stats import Codes, Estimate, Floats, cluster_means, estimate

#: A spread below this is rounding.
_NOTHING = 1e-9
#: Two parameters need three cases, and lengths that differ by more than this after scaling.
_FEWEST, _SAME = 3, 0.01
#: Log odds beyond these are a regression that runs away.
_FARTHEST = 12.0
_NO_SPREAD = "all personas have the same mean"
_EXACT = "the regression fits every persona exactly"
_ALMOST = "length all but parts the cases that A won from those that B won"
_TOO_FEW = ("no case has a score", "only one persona has a score")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many cases model A won (a score above .5), tied and lost."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Share:
    """A mean of persona means with its t interval; what of it is None is undefined: see `why`."""

    estimate: Estimate
    why: str | None


@dataclass(frozen=True, slots=True)
class WinRate(Share):
    """A share with a test against one half.

    `p` is two-sided, of the paired t test over personas on K - 1 degrees of freedom.
    """

    p: float | None


@dataclass(frozen=True, slots=True)
class Orders:
    """What the two orders said, over the `cases` in which both were judged.

    They `agree` in so many cases; else the place decided, the `first` or the `second`, or one
    order was a tie (`half`). `consistency` is the share that agrees. `first_shown` is the
    preference for whatever was shown first, ties a half: .5 is a judge without position bias.
    """

    cases: int
    agree: int
    first: int
    second: int
    half: int
    consistency: Share
    first_shown: WinRate


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """The win rate to be expected at equal lengths, with a 95% interval; `p` against one half.

    `slope` is the change of the log odds for one unit of tanh(words / SD of words). `extrapolated`
    says that one model's replies were never the shorter, so that equal length is the edge of, or
    outside, what was seen. What is None is undefined, and `why` says so.
    """

    rate: float | None
    low: float | None
    high: float | None
    p: float | None
    slope: float | None
    extrapolated: bool
    why: str | None


def outcomes(scores: Floats) -> Outcomes:
    """Count wins, ties and losses among `scores` (shape (n,))."""
    wins, losses = np.count_nonzero(scores > 0.5), np.count_nonzero(scores < 0.5)
    return Outcomes(int(wins), int(np.count_nonzero(scores == 0.5)), int(losses))


def share(values: Floats, personas: Codes) -> Share:
    """The mean of `values` (shape (n,)) by persona (shape (n,), codes >= 0).

    It has no interval where all personas have the same mean: a t interval would have no width.
    """
    found = estimate(values, personas)
    if found.personas < 2:
        return Share(found, _TOO_FEW[found.personas])
    if _error(values, personas) < _NOTHING:
        return Share(replace(found, low=None, high=None), _NO_SPREAD)
    return Share(found, None)


def win_rate(scores: Floats, personas: Codes) -> WinRate:
    """The win rate of `scores`, as `share`, and its test."""
    found = share(scores, personas)
    if found.why is not None or found.estimate.mean is None:
        return WinRate(found.estimate, found.why, None)
    t = (found.estimate.mean - 0.5) / _error(scores, personas)
    return WinRate(found.estimate, None, _two_sided(t, found.estimate.personas))


def orders(first: Floats, second: Floats, personas: Codes) -> Orders:
    """Compare the scores with model A shown first and shown second (each of shape (n,))."""
    both = ~(np.isnan(first) | np.isnan(second))
    one, two = np.sign(first - 0.5), np.sign(second - 0.5)
    agree = both & (one == two)
    by_first, by_second = both & (one > two) & (one * two < 0), both & (one < two) & (one * two < 0)
    counts = [int(np.count_nonzero(which)) for which in (both, agree, by_first, by_second)]
    return Orders(
        cases=counts[0],
        agree=counts[1],
        first=counts[2],
        second=counts[3],
        half=counts[0] - sum(counts[1:]),
        consistency=share(np.where(both, agree.astype(np.float64), np.nan), personas),
        first_shown=win_rate((first + 1.0 - second) / 2, personas),
    )


def length_controlled(scores: Floats, personas: Codes, words: Floats) -> LengthControlled:
    """The win rate of `scores` at `words` = 0, the words of A's reply less those of B's.

    After Dubois et al. 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475), its length part: a
    fractional logistic regression of the score on an intercept and tanh(words / SD of words),
    whose intercept is the log odds at equal length. Personas weigh alike, as in `win_rate`; the
    covariance is robust to clusters of personas, the interval a t interval on K - 1 degrees of
    freedom on the scale of log odds. All of shape (n,). Where no two replies differ in length it
    is the plain win rate.
    """
    seen = ~np.isnan(scores)
    data = _Data(scores[seen], _recoded(personas[seen]), words[seen])
    plain = win_rate(data.scores, data.personas)
    if plain.estimate.personas < 2:
        return _undefined(plain.why or "", data)
    if not data.words.any():
        found = plain.estimate
        return LengthControlled(found.mean, found.low, found.high, plain.p, None, False, plain.why)
    why = _not_estimable(data)
    return _fitted(data) if why is None else _undefined(why, data)


class _Data(NamedTuple):
    """The cases that have a score."""

    scores: Floats
    personas: Codes
    words: Floats

    @property
    def extrapolated(self) -> bool:
        return len(self.words) > 0 and bool((self.words.min() >= 0) != (self.words.max() <= 0))


def _undefined(why: str, data: _Data) -> LengthControlled:
    return LengthControlled(None, None, None, None, None, data.extrapolated, why)


def _not_estimable(data: _Data) -> str | None:
    """Why the regression has no unique finite answer, if it has none.

    It has one unless a line in the words parts the cases that A has some share in from those that
    B has some share in (Albert and Anderson 1984), a fractional score being of both kinds.
    """
    scores, words = data.scores, data.words
    if len(words) < _FEWEST:
        return f"there are fewer than {_FEWEST} cases"
    if np.ptp(words) == 0 or np.ptp(_scaled(words)) < _SAME:
        return "the difference in words is nearly the same in every case, so it explains nothing"
    for_a, for_b = words[scores > 0], words[scores < 1]
    if not len(for_a) or not len(for_b):
        return f"model {'B' if len(for_b) else 'A'} won every case"
    if for_b.max() <= for_a.min() or for_a.max() <= for_b.min():
        return "length alone parts the cases that A won from those that B won"
    return None


def _fitted(data: _Data) -> LengthControlled:
    fit = fit_lengths(*data)
    if fit is None:
        return _undefined(_ALMOST, data)
    from scipy.special import expit, stdtrit

    log_odds, slope, error, personas = fit
    rate = float(expit(log_odds))
    if error < _NOTHING:
        return LengthControlled(rate, None, None, None, slope, data.extrapolated, _EXACT)
    margin = float(stdtrit(personas - 1, 0.975)) * error
    return LengthControlled(
        rate=rate,
        low=float(expit(log_odds - margin)),
        high=float(expit(log_odds + margin)),
        p=_two_sided(log_odds / error, personas),
        slope=slope,
        extrapolated=data.extrapolated,
        why=None,
    )


def _scaled(words: Floats) -> Floats:
    return np.asarray(np.tanh(words / words.std(ddof=1)), dtype=np.float64)


class Fit(NamedTuple):
    """Log odds at equal length, slope, the standard error of the former, and the personas."""

    log_odds: float
    slope: float
    error: float
    personas: int


def fit_lengths(scores: Floats, personas: Codes, words: Floats) -> Fit | None:
    """Regress `scores` on `words`, which vary; None where that does not settle."""
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    design = np.column_stack([np.ones(len(words)), _scaled(words)])
    sizes = np.bincount(personas)
    weights = (len(scores) / (len(sizes) * sizes))[personas]
    clusters: Mapping[str, Any] = {"groups": personas}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is looked at below
        model = GLM(scores, design, family=Binomial(), var_weights=weights)
        try:
            fit = model.fit(maxiter=100, cov_type="cluster", cov_kwds=clusters)
        except np.linalg.LinAlgError:  # it ran away until nothing was left to invert
            return None
    log_odds, slope, error = float(fit.params[0]), float(fit.params[1]), float(fit.bse[0])
    settled = fit.converged and abs(log_odds) < _FARTHEST  # false for a NaN
    if not settled or not math.isfinite(slope + error):
        return None
    return Fit(log_odds, slope, error, len(sizes))


def _error(values: Floats, personas: Codes) -> float:
    """The standard error of the mean of persona means."""
    means = cluster_means(values, personas)
    return float(means.std(ddof=1)) / math.sqrt(len(means))


def _recoded(personas: Codes) -> Codes:
    """Codes from 0 without gaps."""
    return np.unique(personas, return_inverse=True)[1].astype(np.int64)


def _two_sided(t: float, personas: int) -> float:
    from scipy.special import stdtr

    return 2 * float(stdtr(personas - 1, -abs(t)))
