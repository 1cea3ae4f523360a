"""The pictures on a run's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kardiabench.emotions import EMOTIONS
from kardiabench.stats import Floats, estimate
from leaderboard.charts.confusion import confusion
from leaderboard.charts.flags import FlagRow, flags
from leaderboard.charts.radar import Axis, Series, radar
from leaderboard.charts.turns import TurnPoint, TurnSeries, turn_curve
from leaderboard.columns import Columns
from leaderboard.extract import Scores
from leaderboard.metrics import ACCURACY, COMPOSITE
from leaderboard.views import FlagView, Metric

#: Exchanges that the curve shows; KardiaBench's dialogues have at most 10.
_MOST_TURNS = 24
_LEAST_AXES, _MOST_AXES = 3, 12
_RUBRIC = "Rubric, mean scaled to 0\u20131"


def charts(
    name: str,
    columns: Columns,
    metrics: Sequence[Metric],
    scores: Mapping[str, Scores],
    asked: Sequence[FlagView],
) -> dict[str, str]:
    """SVG by name: those for which the run has figures."""
    drawn = {
        "radar": _radar(name, metrics, scores),
        "confusion": _confusion(name, columns),
        "turns": _turns(name, columns, metrics),
        "flags": _flags(name, asked),
    }
    return {key: svg for key, svg in drawn.items() if svg is not None}


def radar_axes(metrics: Sequence[Metric]) -> list[Metric]:
    """The rubric's dimensions; empty where they make no polygon."""
    rubric = [metric for metric in metrics if metric.kind == "rubric"]
    return rubric[:_MOST_AXES] if len(rubric) >= _LEAST_AXES else []


def _radar(name: str, metrics: Sequence[Metric], scores: Mapping[str, Scores]) -> str | None:
    chosen = radar_axes(metrics)
    values = [scores[metric.key].mean for metric in chosen]
    if all(value is None for value in values):
        return None
    axes = [Axis(metric.label, metric.low, metric.high) for metric in chosen]
    return radar(axes, [Series(name, values)], label=f"Radar chart of the rubric scores of {name}")


def _confusion(name: str, columns: Columns) -> str | None:
    given = columns.answered
    if not given.any():
        return None
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS) + 1), dtype=np.int64)
    np.add.at(matrix, (columns.gold[given], columns.predicted[given]), 1)
    label = f"Heat map of gold emotions and those that {name} named"
    return confusion(matrix.tolist(), EMOTIONS, "(none)", label=label)


def _turns(name: str, columns: Columns, metrics: Sequence[Metric]) -> str | None:
    series = [
        TurnSeries(label, points)
        for label, values in _curves(columns, metrics)
        if (points := list(_points(columns, values)))
    ]
    if not series:
        return None
    label = f"Scores of {name} by the number of the exchange in its dialogue"
    return turn_curve(series, 0.0, 1.0, "Score, scaled to 0\u20131", label=label)


def _curves(columns: Columns, metrics: Sequence[Metric]) -> Iterator[tuple[str, Floats]]:
    """The composite, the accuracy and the mean of the rubric, each in 0..1."""
    known = {metric.key: metric for metric in metrics}
    for key in (COMPOSITE, ACCURACY):
        if key in known:
            yield known[key].label, columns.scores[key]
    rubric = [metric for metric in metrics if metric.kind == "rubric"]
    if rubric:
        scaled = [(columns.scores[m.key] - m.low) / (m.high - m.low) for m in rubric]
        yield _RUBRIC, np.mean(scaled, axis=0)


def _points(columns: Columns, values: Floats) -> Iterator[TurnPoint]:
    for index in range(min(int(columns.index.max(initial=-1)) + 1, _MOST_TURNS)):
        here = columns.index == index
        found = estimate(values[here], columns.persona[here])
        if found.mean is not None:
            low, high = found.low, found.high
            yield TurnPoint(index + 1, min(found.mean, 1.0), low, high, found.scored)


def _flags(name: str, asked: Sequence[FlagView]) -> str | None:
    rows = [FlagRow(f.dimension.replace("_", " "), len(f.turns), f.scored) for f in asked]
    if not rows:
        return None
    return flags(rows[:60], label=f"Share of the turns of {name} that each question flags")
