"""How a judge agrees with people: every figure with a bootstrap interval over items.

A figure is `{"value", "low", "high", "reason"}`; what is undefined is None, and `reason` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kardiabench.agreement import (
    icc,
    left_out_kappas,
    mean_correlation,
    mean_difference,
    median_of_others,
    ordinal_alpha,
    row_mean,
    row_median,
    share_at_least,
    slope,
    spearman,
    weighted_kappa,
)
from kardiabench.stats import Floats

RESAMPLES = 2000
#: Numbers that are resampled at a time, so that memory stays small.
_CELLS = 2_000_000
#: With fewer defined replicates than this share there is no interval.
_MOST_DEFINED = 0.9
_ALONE = "there is one rater only"
#: Figures that compare raters with one another.
_OF_PEOPLE = frozenset({"alpha_people", "expert_ceiling", "kappa_left_out"})
#: Figures that stay defined where nobody varies.
_ALWAYS = frozenset({"offset", "ceiling_judge", "ceiling_people"})


@dataclass(frozen=True)
class Rated:
    """What is compared.

    `judge` has shape (items, dimensions), `people` (items, raters, dimensions), `words` (items,):
    the length of each response; all NaN where missing. `top` is the highest score of the scale.
    """

    dimensions: tuple[str, ...]
    judge: Floats
    people: Floats
    words: Floats
    top: float

    def take(self, items: np.ndarray) -> Rated:
        """The same for other items, as often as they are named; axes in front are kept."""
        return Rated(
            self.dimensions, self.judge[items], self.people[items], self.words[items], self.top
        )


def report(rated: Rated, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """All figures: per dimension, halo and length, with 95% percentile intervals."""
    found = _figures(rated)
    replicates = list(_replicates(rated, resamples, seed))
    drawn = {key: np.concatenate([one[key] for one in replicates]) for key in found}
    figures = {
        key: _figure(float(value), drawn[key], _why(key, rated)) for key, value in found.items()
    }
    return {
        "items": len(rated.judge),
        "raters": rated.people.shape[1],
        "resamples": resamples,
        "dimensions": {
            name: _counts(rated, at) | {"figures": _under(figures, name)}
            for at, name in enumerate(rated.dimensions)
        },
        "halo": _under(figures, ""),
    }


def _replicates(rated: Rated, resamples: int, seed: int) -> Iterator[dict[tuple[str, str], Floats]]:
    random, n = np.random.default_rng(seed), len(rated.judge)
    chunk = max(1, _CELLS // max(1, rated.people.size))
    for start in range(0, resamples, chunk):
        items = random.integers(0, n, (min(chunk, resamples - start), n))
        yield _figures(rated.take(items))


def _figures(rated: Rated) -> dict[tuple[str, str], Floats]:
    """Every figure by dimension (the empty text for halo) and name; leading axes are kept."""
    found: dict[tuple[str, str], Floats] = {}
    for at, name in enumerate(rated.dimensions):
        for key, value in _of_dimension(rated, at).items():
            found[name, key] = value
    if len(rated.dimensions) > 1:
        means = row_mean(rated.people.mT).copy()
        judge, people, excess = mean_correlation(rated.judge, means)
        found |= {("", "judge"): judge, ("", "people"): people, ("", "difference"): excess}
    return found


def _of_dimension(rated: Rated, at: int) -> dict[str, Floats]:
    judge, table = rated.judge[..., at], rated.people[..., at]
    mean, top = row_mean(table), rated.top
    pair = np.stack([judge, mean], axis=-1)
    consistency, agreement = icc(pair)
    person, machine = left_out_kappas(judge, table, median_of_others(table))
    length = np.log2(rated.words)
    steep, steep_people = slope(judge, length), slope(mean, length)
    return {
        "kappa": weighted_kappa(judge, row_median(table)),
        "spearman": spearman(judge, mean),
        "icc_consistency": consistency,
        "icc_agreement": agreement,
        "alpha_people": ordinal_alpha(table),
        "alpha_with_judge": ordinal_alpha(np.concatenate([table, judge[..., None]], axis=-1)),
        "expert_ceiling": person,
        "kappa_left_out": machine,
        "offset": mean_difference(judge, mean),
        "ceiling_judge": share_at_least(judge, top),
        "ceiling_people": share_at_least(table.reshape(*table.shape[:-2], -1), top),
        "length_slope_judge": steep,
        "length_slope_people": steep_people,
        "excess_length_slope": steep - steep_people,
    }


def _counts(rated: Rated, at: int) -> dict[str, Any]:
    people = ~np.isnan(rated.people[:, :, at])
    rated_items, judged = people.any(axis=1), ~np.isnan(rated.judge[:, at])
    both = int(np.count_nonzero(rated_items & judged))
    number = int(np.count_nonzero(rated_items))
    return {
        "rated": number,
        "judged": both,
        "coverage": both / number if number else 0.0,
        "raters": int(np.count_nonzero(people.any(axis=0))),
        "ratings": int(np.count_nonzero(people)),
    }


def _figure(value: float, drawn: Floats, why: str) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "reason": why}
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < _MOST_DEFINED * len(drawn) or not len(drawn):
        reason = "no interval: it is undefined in too many resamples"
        return {"value": value, "low": None, "high": None, "reason": reason}
    low, high = np.quantile(defined, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "reason": None}


def _under(figures: Mapping[tuple[str, str], dict[str, Any]], name: str) -> dict[str, Any]:
    return {key: figure for (owner, key), figure in figures.items() if owner == name}


def _why(key: tuple[str, str], rated: Rated) -> str:
    """The reason that figure `key` has if it turns out to be undefined."""
    name, figure = key
    if not name:
        return "no two dimensions vary for both"
    at = rated.dimensions.index(name)
    judge, table = rated.judge[:, at], rated.people[:, :, at]
    checks: Sequence[tuple[str, Callable[[], bool]]] = (
        (
            "the lengths of the responses are not known",
            lambda: "length" in figure and _void(rated.words),
        ),
        ("all responses are equally long", lambda: "length" in figure and _flat(rated.words)),
        (_ALONE, lambda: figure in _OF_PEOPLE and _raters(table) < 2),
        ("no item was rated by both the judge and people", lambda: _void(judge + row_mean(table))),
        ("the judge gives one score only", lambda: figure not in _ALWAYS and _flat(judge)),
        ("people give one score only", lambda: figure not in _ALWAYS and _flat(table)),
    )
    return next((why for why, holds in checks if holds()), "there are too few common ratings")


def _void(values: Floats) -> bool:
    return not np.isfinite(values).any()


def _flat(values: Floats) -> bool:
    found = values[~np.isnan(values)]
    return bool(len(found)) and bool(np.ptp(found) == 0)


def _raters(table: Floats) -> int:
    return int(np.count_nonzero((~np.isnan(table)).any(axis=0)))
