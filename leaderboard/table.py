"""The statistics of one protocol's runs: intervals, ranks, bounds, and every pair.

The formulas are `kardiabench`'s (docs/statistics.md); here they meet the runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from kardiabench.pairs import PairTable, better, pairs_of
from kardiabench.ranks import rank_intervals_of, shared_ranks
from kardiabench.stats import Codes, Floats
from leaderboard.extract import Extract
from leaderboard.together import Together
from leaderboard.turn_scores import TurnScores
from leaderboard.views import Figure, Metric

#: Coverage below which a run has no rank: what is missing could decide it.
MIN_COVERAGE = 0.9


@dataclass(frozen=True)
class Standing:
    """One metric over a protocol's runs. Arrays follow `Table.extracts`; -1 is no rank.

    `pairs` are all pairs, `ranked` those of ranked runs alone. Holm's p of these is over these, in
    both: runs without ranks must not change what is said of the others.
    """

    metric: Metric
    pairs: PairTable
    ranked: PairTable
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


def table_of(
    extracts: Sequence[Extract],
    turns: Sequence[TurnScores],
    min_coverage: float = MIN_COVERAGE,
) -> Table:
    """The table of runs of one protocol, at least one, with their scores turn by turn."""
    from threadpoolctl import threadpool_limits

    personas = sorted({persona for extract in extracts for persona in extract.personas})
    metrics = list(extracts[0].metrics)
    reasons = [why_unranked(extract, min_coverage) for extract in extracts]
    together = Together(turns)
    together.prepare()

    def standing(metric: Metric) -> Standing:
        return _standing(metric, _differences(metric, extracts, together, personas), reasons)

    # A metric a thread: BLAS's own threads wait for one another in loops, which on a busy machine
    # takes ten times as long as the work.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        standings = list(pool.map(standing, metrics))
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


def _differences(
    metric: Metric, extracts: Sequence[Extract], together: Together, personas: Sequence[str]
) -> Floats:
    """(runs, runs, personas): over the turns that both have; macro-F1 over each one's own."""
    if metric.kind != "f1":
        return together.differences(metric.key)
    values = np.array([_aligned(extract, metric.key, personas, "mean") for extract in extracts])
    return np.asarray(values[:, None] - values[None], dtype=np.float64)


def _standing(metric: Metric, differences: Floats, reasons: Sequence[str]) -> Standing:
    places = np.flatnonzero([not reason for reason in reasons])
    among = differences[np.ix_(places, places)]
    ranked = pairs_of(among, [str(place) for place in places])
    rank, low, high = (np.full(len(reasons), -1, dtype=np.int64) for _ in range(3))
    if len(places):
        above = better(ranked)
        rank[places] = shared_ranks(above)
        low[places], high[places] = rank_intervals_of(among, better=above)
        rank[low == -1] = -1
    if len(places) == len(reasons):
        return Standing(metric, ranked, ranked, rank, low, high)
    every = pairs_of(differences, [str(place) for place in range(len(reasons))])
    return Standing(metric, _with_ranked(every, ranked, places), ranked, rank, low, high)


def _with_ranked(every: PairTable, ranked: PairTable, places: Codes) -> PairTable:
    """`every` pair, with what depends on Holm's family from `ranked` for those that are there."""
    number = len(every.names)
    holm, mde = (np.full((number, number), np.nan) for _ in range(2))
    holm[every.first, every.second], mde[every.first, every.second] = every.p_holm, every.mde_holm
    at = places[ranked.first], places[ranked.second]
    holm[at], mde[at] = ranked.p_holm, ranked.mde_holm
    return replace(
        every,
        p_holm=holm[every.first, every.second],
        mde_holm=mde[every.first, every.second],
    )


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
