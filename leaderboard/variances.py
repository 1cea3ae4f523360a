"""Where the uncertainty of a run's means comes from, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kardiabench.results import Results
from kardiabench.variance import Components, Repeats, advice, components
from leaderboard.columns import Columns
from leaderboard.views import Metric, VarianceView


def variances_of(
    columns: Columns, results: Results, metrics: Sequence[Metric]
) -> list[VarianceView]:
    """The split of each metric that is a mean and varies at all."""
    found = [_variance(columns, results, m) for m in metrics if m.key in columns.scores]
    return [view for view in found if view is not None]


def _variance(columns: Columns, results: Results, metric: Metric) -> VarianceView | None:
    split = components(
        columns.scores[metric.key],
        columns.persona,
        columns.dialogue,
        repeats_of(results, metric.key),
    )
    told = advice(split) if split is not None else None
    if split is None or told is None or split.standard_error is None:
        return None
    return VarianceView(
        metric=metric.key,
        label=metric.label,
        standard_error=split.standard_error,
        parts=_shares(split),
        advice=[told.sentence],
    )


def _shares(split: Components) -> list[tuple[str, float]]:
    """What each part has of the squared standard error of the mean of persona means."""
    weights = {
        "persona": (split.persona, 1.0),
        "dialogue": (split.dialogue, split.dialogue_share),
        "turn": (split.turn, split.turn_share),
        "judge": (split.judge, split.turn_share / split.repeats),
    }
    errors = {name: level.variance * weight for name, (level, weight) in weights.items() if level}
    total = sum(errors.values())
    return [(name, error / total) for name, error in errors.items()] if total else []


def repeats_of(results: Results, key: str) -> Repeats | None:
    """What several samples of a verdict show of the judge; None where there are none."""
    found = [
        (judge, place)
        for judge, dimensions in results.dimensions.items()
        for place, dimension in enumerate(dimensions)
        if f"{judge}.{dimension.name}" == key
    ]
    if not found:
        return None
    judge, at = found[0]
    squares, free, counts = 0.0, 0, []
    for turn in results.turns.values():
        parts = turn.verdicts[judge].parts if judge in turn.verdicts else ()
        scores = [score for part in parts if (score := part[at]) is not None]
        if len(scores) > 1:
            squares += float(np.var(scores)) * len(scores)
            free += len(scores) - 1
            counts.append(len(scores))
    if not counts:
        return None
    return Repeats(variance=squares / free, repeats=float(np.mean(counts)), turns=len(counts))
