"""The pictures on a protocol's page: its ranked runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.charts.cost import CostPoint, cost_quality
from leaderboard.charts.intervals import IntervalRow, intervals
from leaderboard.charts.radar import Axis, Series, radar
from leaderboard.run_charts import radar_axes
from leaderboard.templating import marked
from leaderboard.views import Metric, RunView

_MOST_ROWS, _MOST_POLYGONS = 60, 6
_DRIFTED = "\N{DAGGER}"


def charts(runs: Sequence[RunView], metrics: Sequence[Metric], primary: str) -> dict[str, str]:
    """SVG by name: those for which the runs have figures. `runs` are in order, best first."""
    metric = next(metric for metric in metrics if metric.key == primary)
    shown = _foremost([run for run in runs if _mean(run, primary) is not None])
    drawn = {
        "intervals": _intervals(shown, metric),
        "radar": _radar(shown, metrics),
        "cost": _cost(shown, metric),
    }
    return {key: svg for key, svg in drawn.items() if svg is not None}


def _foremost(runs: Sequence[RunView]) -> list[RunView]:
    """As many as a picture takes: every floor, and the first of the others."""
    floors = [run for run in runs if run.kind == "floor"][:_MOST_ROWS]
    others = [run for run in runs if run.kind != "floor"][: _MOST_ROWS - len(floors)]
    chosen = {run.id for run in (*floors, *others)}
    return [run for run in runs if run.id in chosen]


def _name(run: RunView, metrics: Sequence[Metric]) -> str:
    """The run's name, with the mark of drift where one of `metrics` rests on a drifted judge."""
    drifted = any(marked(run, metric) for metric in metrics)
    return f"{run.name} {_DRIFTED}" if drifted else run.name


def _mean(run: RunView, key: str) -> float | None:
    figure = run.figures.get(key)
    return None if figure is None else figure.mean


def _intervals(runs: Sequence[RunView], metric: Metric) -> str | None:
    if not runs:
        return None
    rows = [
        IntervalRow(
            run.name,
            run.figures[metric.key].mean,
            run.figures[metric.key].low,
            run.figures[metric.key].high,
            group=run.kind,
            note=_DRIFTED if marked(run, metric) else "",
        )
        for run in runs
    ]
    label = f"{metric.label} of each model with its 95% interval"
    return intervals(rows, metric.label, metric.low, metric.high, label=label)


def _radar(runs: Sequence[RunView], metrics: Sequence[Metric]) -> str | None:
    """The best models, and the best floor."""
    chosen = radar_axes(metrics)
    models = [run for run in runs if run.kind != "floor"][: _MOST_POLYGONS - 1]
    floors = [run for run in runs if run.kind == "floor"][:1]
    series = [
        Series(_name(run, chosen), [_mean(run, m.key) for m in chosen])
        for run in (*models, *floors)
    ]
    if not chosen or not series:
        return None
    axes = [Axis(metric.label, metric.low, metric.high) for metric in chosen]
    return radar(axes, series, label="Radar chart of the rubric scores of the foremost models")


def _cost(runs: Sequence[RunView], metric: Metric) -> str | None:
    points = []
    for run in runs:
        figure, cost = run.figures[metric.key], run.cost_per_turn
        if cost is not None and figure.mean is not None:
            name = _name(run, [metric])
            points.append(CostPoint(name, cost, figure.mean, figure.low, figure.high))
    if not points:
        return None
    label = f"{metric.label} against the price of a turn in US dollars"
    return cost_quality(points, metric.label, label=label)
