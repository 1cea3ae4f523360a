"""The pictures on a run's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kardiabench.emotions import EMOTIONS
from kardiabench.stats import Floats, estimate
from leaderboard.columns import Columns
from leaderboard.extract import Scores
from leaderboard.metrics import ACCURACY, COMPOSITE
from leaderboard.views import FlagView, Metric

#: Exchanges that the curve shows; KardiaBench's dialogues have at most 10.
_MOST_TURNS = 24
_LEAST_AXES, _MOST_AXES = 3, 12
_MOST_ROWS = 60
_RUBRIC = "Rubric, mean scaled to 0\u20131"


@dataclass(frozen=True, slots=True)
class Point:
    """A metric at one place of the dialogues: mean, its interval, and of how many replies."""

    turn: int
    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Sketch:
    """What the pictures of a run show: small, so that another process can draw them.

    `axes` are the rubric's dimensions with their ranges and means; `confusion` has 32 rows of 33
    counts; `curves` are points by label; `flags` are questions with turns flagged and judged.
    """

    name: str
    axes: Sequence[tuple[str, float, float, float | None]]
    confusion: Sequence[Sequence[int]]
    curves: Mapping[str, Sequence[Point]]
    flags: Sequence[tuple[str, int, int]]


def sketch(
    name: str,
    columns: Columns,
    metrics: Sequence[Metric],
    scores: Mapping[str, Scores],
    asked: Sequence[FlagView],
) -> Sketch:
    """What the pictures of the run show; parts for which it has no figures are empty."""
    curves = {label: list(_points(columns, values)) for label, values in _curves(columns, metrics)}
    return Sketch(
        name=name,
        axes=[(m.label, m.low, m.high, scores[m.key].mean) for m in radar_axes(metrics)],
        confusion=_confusion(columns),
        curves={label: points for label, points in curves.items() if points},
        flags=[(f.dimension.replace("_", " "), len(f.turns), f.scored) for f in asked],
    )


def draw(shown: Sketch) -> dict[str, str]:
    """SVG by name: those for which there are figures."""
    drawn = {
        "radar": _draw_radar(shown),
        "confusion": _draw_confusion(shown),
        "turns": _draw_turns(shown),
        "flags": _draw_flags(shown),
    }
    return {key: svg for key, svg in drawn.items() if svg is not None}


def radar_axes(metrics: Sequence[Metric]) -> list[Metric]:
    """The rubric's dimensions; empty where they make no polygon."""
    rubric = [metric for metric in metrics if metric.kind == "rubric"]
    return rubric[:_MOST_AXES] if len(rubric) >= _LEAST_AXES else []


def _confusion(columns: Columns) -> list[list[int]]:
    given = columns.answered
    if not given.any():
        return []
    matrix = np.zeros((len(EMOTIONS), len(EMOTIONS) + 1), dtype=np.int64)
    np.add.at(matrix, (columns.gold[given], columns.predicted[given]), 1)
    counts: list[list[int]] = matrix.tolist()
    return counts


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


def _points(columns: Columns, values: Floats) -> Iterator[Point]:
    for index in range(min(int(columns.index.max(initial=-1)) + 1, _MOST_TURNS)):
        here = columns.index == index
        found = estimate(values[here], columns.persona[here])
        if found.mean is not None:
            mean = min(found.mean, 1.0)
            yield Point(index + 1, mean, found.low, found.high, found.scored)


def _draw_radar(shown: Sketch) -> str | None:
    from leaderboard.charts.radar import Axis, Series, radar

    values = [mean for *_, mean in shown.axes]
    if all(value is None for value in values):
        return None
    axes = [Axis(label, low, high) for label, low, high, _ in shown.axes]
    label = f"Radar chart of the rubric scores of {shown.name}"
    return radar(axes, [Series(shown.name, values)], label=label)


def _draw_confusion(shown: Sketch) -> str | None:
    from leaderboard.charts.confusion import confusion

    if not shown.confusion:
        return None
    label = f"Heat map of gold emotions and those that {shown.name} named"
    return confusion(shown.confusion, EMOTIONS, "(none)", label=label)


def _draw_turns(shown: Sketch) -> str | None:
    from leaderboard.charts.turns import TurnPoint, TurnSeries, turn_curve

    series = [
        TurnSeries(label, [TurnPoint(p.turn, p.mean, p.low, p.high, p.n) for p in points])
        for label, points in shown.curves.items()
    ]
    if not series:
        return None
    label = f"Scores of {shown.name} by the number of the exchange in its dialogue"
    return turn_curve(series, 0.0, 1.0, "Score, scaled to 0\u20131", label=label)


def _draw_flags(shown: Sketch) -> str | None:
    from leaderboard.charts.flags import FlagRow, flags

    rows = [FlagRow(*row) for row in shown.flags[:_MOST_ROWS]]
    if not rows:
        return None
    return flags(rows, label=f"Share of the turns of {shown.name} that each question flags")
