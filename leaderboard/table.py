"""The statistics of one protocol's runs: intervals, ranks, bounds, and every pair.

The formulas are `kardiabench`'s (docs/statistics.md); here they meet the runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kardiabench.pairs import PairTable, better, pairs
from kardiabench.ranks import rank_intervals, shared_ranks
from kardiabench.stats import Codes, Floats
from leaderboard.extract import Extract
from leaderboard.views import Figure, Metric

#: Coverage below which a run has no rank: what is missing could decide it.
MIN_COVERAGE = 0.9


@dataclass(frozen=True)
class Standing:
    """One metric over a protocol's runs. Arrays follow `Table.extracts`; -1 is no rank."""

    metric: Metric
    pairs: PairTable
    rank: Codes
    rank_low: Codes
    rank_high: Codes


@dataclass(frozen=True)
class Table:
    """A protocol's runs with the standing of each metric, by key."""

    extracts: Sequence[Extract]
    why_unranked: Sequence[str]
    personas: Sequence[str]
    planned: Codes
    metrics: Sequence[Metric]
    standings: dict[str, Standing]

    def figure(self, place: int, key: str) -> Figure | None:
        """The metric `key` of the run at `place`; None where its judge did not run."""
        extract, standing = self.extracts[place], self.standings[key]
        scores = extract.scores.get(key)
        if scores is None:
            return None
        worst, best = self._bounds(place, standing.metric)
        rank, low, high = (
            int(ranks[place]) if ranks[place] > 0 else None
            for ranks in (standing.rank, standing.rank_low, standing.rank_high)
        )
        return Figure(
            mean=scores.mean, low=scores.low, high=scores.high,
            rank=rank, rank_low=low, rank_high=high, worst=worst, best=best,
            personas=scores.personas, scored=scores.total_scored, total=extract.planned,
        )  # fmt: skip

    def _bounds(self, place: int, metric: Metric) -> tuple[float | None, float | None]:
        """Where the mean of persona means could lie. None where the turns planned are not known."""
        extract = self.extracts[place]
        if metric.kind == "f1" or self.planned.sum() != extract.planned:
            return None, None
        total = _aligned(extract, metric.key, self.personas, "sum")
        scored = _aligned(extract, metric.key, self.personas, "scored")
        missing = self.planned - scored
        worst, best = (
            float(((total + missing * end) / self.planned).mean())
            for end in (metric.low, metric.high)
        )
        return worst, best


def table_of(extracts: Sequence[Extract], min_coverage: float = MIN_COVERAGE) -> Table:
    """The table of runs of one protocol; at least one."""
    from threadpoolctl import threadpool_limits

    personas = sorted({persona for extract in extracts for persona in extract.personas})
    metrics = list(extracts[0].metrics)
    reasons = [why_unranked(extract, min_coverage) for extract in extracts]
    # A metric a thread: BLAS's own threads wait for one another in loops, which on a busy machine
    # takes ten times as long as the work.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        standings = list(pool.map(lambda m: _standing(m, extracts, personas, reasons), metrics))
    return Table(
        extracts=extracts,
        why_unranked=reasons,
        personas=personas,
        planned=_planned(extracts, personas),
        metrics=metrics,
        standings={standing.metric.key: standing for standing in standings},
    )


def why_unranked(extract: Extract, min_coverage: float) -> str:
    """Why a run has no ranks; empty for one that has."""
    judges = extract.manifest["protocol"]["scorer"]["judges"]
    smoke = [name for name, judge in judges.items() if judge.get("smoke_test")]
    if smoke:
        return f"judged by {', '.join(smoke)}: a smoke test of the machinery, not a judgement"
    answered = sum(extract.turns)
    if answered < min_coverage * extract.planned:
        return f"not finished: {answered} of {extract.planned} turns have a reply"
    for metric in extract.metrics:
        covered = extract.scores[metric.key].total_scored if metric.key in extract.scores else 0
        if covered < min_coverage * extract.planned:
            share = covered / extract.planned
            return f"{metric.label} covers {share:.0%} of the turns, less than {min_coverage:.0%}"
    return ""


def _standing(
    metric: Metric, extracts: Sequence[Extract], personas: Sequence[str], reasons: Sequence[str]
) -> Standing:
    means = np.array([_aligned(extract, metric.key, personas, "mean") for extract in extracts])
    table = pairs(means, [extract.id for extract in extracts])
    ranked = np.flatnonzero([not reason for reason in reasons])
    rank, low, high = (np.full(len(extracts), -1, dtype=np.int64) for _ in range(3))
    if len(ranked):
        above = better(table)[np.ix_(ranked, ranked)]
        rank[ranked] = shared_ranks(above)
        low[ranked], high[ranked] = rank_intervals(means[ranked], better=above)
        rank[np.isnan(means).all(axis=1)] = -1
    return Standing(metric, table, rank, low, high)


def _aligned(extract: Extract, key: str, personas: Sequence[str], what: str) -> Floats:
    """The persona means, counts or sums of a metric in the order of `personas`.

    NaN (for counts and sums 0) where the run has none.
    """
    scores = extract.scores.get(key)
    empty = np.nan if what == "mean" else 0.0
    values = np.full(len(personas), empty)
    if scores is None:
        return values
    means = np.array([np.nan if mean is None else mean for mean in scores.means])
    scored = np.array(scores.scored, dtype=np.float64)
    column = {"mean": means, "scored": scored, "sum": np.where(scored > 0, means * scored, 0.0)}
    places = {persona: place for place, persona in enumerate(personas)}
    values[[places[persona] for persona in extract.personas]] = column[what]
    return values


def _planned(extracts: Sequence[Extract], personas: Sequence[str]) -> Codes:
    """Turns of each persona: the most that any run has answered."""
    places = {persona: place for place, persona in enumerate(personas)}
    planned = np.zeros(len(personas), dtype=np.int64)
    for extract in extracts:
        at = [places[persona] for persona in extract.personas]
        planned[at] = np.maximum(planned[at], extract.turns)
    return planned
