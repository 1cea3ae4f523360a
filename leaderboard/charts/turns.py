"""Scores along the dialogue: a curve for each model over the turns, and how many were scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import number_x, number_y
from leaderboard.charts.labels import pixels, shortened

_HEIGHT, _TABLE = 260.0, 20.0
_LABEL, _TITLE = 28, 60
_MOST_TURNS = 24
#: More bands than these hide one another: then each point gets a bar of its own.
_MOST_BANDS = 2
#: How far apart the bars of neighbouring series stand, in turns.
_APART = 0.09


@dataclass(frozen=True, slots=True)
class TurnPoint:
    """The mean over `n` replies at `turn` (from 1), with its interval; None is not known."""

    turn: int
    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class TurnSeries:
    """A model's points, in any order; a turn that is missing breaks the curve."""

    label: str
    points: Sequence[TurnPoint]


def turn_curve(
    series: Sequence[TurnSeries], low: float, high: float, y_title: str, *, label: str
) -> str:
    """Draw 1 to 6 `series` on an axis from `low` to `high` that `y_title` names.

    Below it stands how many replies each point is the mean of. Intervals are cut at the axis's
    ends. Raises ValueError for other counts of series or turns (1 to 24), for a turn that occurs
    twice or lies outside of them, and for a mean that is not on the axis.
    """
    drawing.check_count("series", len(series), drawing.MOST_SERIES)
    drawing.check_range(low, high)
    rows = [row for n, one in enumerate(series) for row in _rows(n, one, len(series), low, high)]
    last = max((point.turn for one in series for point in one.points), default=1)
    drawing.check_count("turns", last, _MOST_TURNS)
    labels = [shortened(one.label, _LABEL) for one in series]
    left = max(*map(pixels, labels), 60.0) + 66
    width = drawing.WIDTH - left - 16
    spans = [row for row in rows if row["low"] is not None]
    few = len(series) <= _MOST_BANDS
    return drawing.render(
        _layers,
        low,
        high,
        last,
        data={
            "frame": [{"turn": 1, "mean": low}],
            "bands": spans if few else [],
            "bars": [] if few else spans,
            "points": [row for row in rows if row["mean"] is not None],
            "key": [_key_row(n, text, left) for n, text in enumerate(labels)],
            "counts": [
                row for n, one in enumerate(series) for row in _counts(n, one, width / last)
            ],
            "titles": [*_titles(y_title, left, width)],
        },
        size=(width, _HEIGHT),
        margins=(left, 34, 16, 62 + _TABLE * len(series)),
        label=label,
    )


def _rows(n: int, one: TurnSeries, of: int, low: float, high: float) -> Iterator[dict[str, Any]]:
    piece, before = 0, 0
    for point in sorted(one.points, key=lambda point: point.turn):
        if point.turn <= before:
            raise ValueError(f"turn {point.turn} occurs twice or is before the first")
        mean = drawing.on_axis(point.mean, low, high)
        piece += mean is None or point.turn > before + 1
        before = point.turn
        span = None if mean is None else drawing.cut(point.low, point.high, (low, high))
        yield {
            "series": n,
            "piece": piece,
            "at": before + (0 if of <= _MOST_BANDS else (n - (of - 1) / 2) * _APART),
            "mean": mean,
            "low": span and span[0],
            "high": span and span[1],
        }


def _counts(n: int, one: TurnSeries, step: float) -> Iterator[dict[str, Any]]:
    for point in one.points:
        yield drawing.said((point.turn - 0.5) * step, _table_y(n), str(point.n))


def _table_y(n: int) -> float:
    return _HEIGHT + 62 + n * _TABLE


def _key_row(n: int, text: str, left: float) -> dict[str, Any]:
    return drawing.key_row(n, text, 8 - left, _table_y(n))


def _titles(y_title: str, left: float, width: float) -> Iterator[dict[str, Any]]:
    yield drawing.said(-36, -20, shortened(y_title, _TITLE))
    yield drawing.said(width / 2 - 12, _HEIGHT + 36, "Turn")
    yield drawing.said(8 - left, _HEIGHT + 36, "Replies scored")


def _layers(low: float, high: float, last: int) -> list[alt.Chart]:
    return [
        _frame(low, high, last),
        *_marks(),
        *drawing.key("key"),
        drawing.words("counts", align="center", color=drawing.MUTED, fontSize=drawing.SMALL),
        drawing.words("titles"),
    ]


def _frame(low: float, high: float, last: int) -> alt.Chart:
    turns = alt.Axis(values=list(range(1, last + 1)), grid=False, format="d")
    scores = alt.Axis(tickCount=5, domain=False, ticks=False)
    across = alt.Scale(domain=[0.5, last + 0.5], nice=False, zero=False)
    up = alt.Scale(domain=[low, high], nice=False, zero=False)
    return drawing.frame("frame").encode(
        x=number_x("turn", scale=across, axis=turns),
        y=number_y("mean", scale=up, axis=scores),
    )


def _marks() -> list[alt.Chart]:
    color, shape = drawing.by_series(alt.Color), drawing.by_series(alt.Shape)
    at, mean, low = number_x("at"), number_y("mean"), number_y("low")
    piece = alt.Detail("piece", type="nominal")
    return [
        drawing.over("bands")
        .mark_area(fillOpacity=0.16)
        .encode(x=at, y=low, y2="high", fill=drawing.by_series(alt.Fill), detail=piece),
        drawing.over("bars")
        .mark_rule(strokeWidth=1.5, opacity=0.7)
        .encode(x=at, y=low, y2="high", color=color),
        drawing.over("points")
        .mark_line(strokeWidth=2, strokeJoin="round")
        .encode(
            x=at,
            y=mean,
            color=color,
            strokeDash=drawing.by_series(alt.StrokeDash),
            detail=piece,
        ),
        drawing.over("points")
        .mark_point(filled=True, size=45, opacity=1)
        .encode(x=at, y=mean, color=color, shape=shape),
    ]
