"""A forest plot: one row a model, its mean and its interval on one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import number_x, pixels_x, pixels_y
from leaderboard.charts.labels import pixels, shortened

#: The group that is drawn apart: baselines that every model should beat.
FLOOR = "floor"
_ROW, _TOP, _BOTTOM = 22.0, 16.0, 44.0
_LABEL, _NOTE, _TITLE = 30, 20, 70
_KINDS = ("model", FLOOR)


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A mean with the ends of its interval; what is None is not known, and not drawn."""

    label: str
    mean: float | None
    low: float | None
    high: float | None
    group: str = "model"
    note: str = ""


def intervals(
    rows: Sequence[IntervalRow], title: str, low: float, high: float, *, label: str
) -> str:
    """Draw 1 to 60 `rows`, in their order, on an axis from `low` to `high` that `title` names.

    An interval that goes on beyond the axis ends in an arrow. Raises ValueError for another number
    of rows, and for a mean that is not on the axis.
    """
    drawing.check_count("rows", len(rows), drawing.MOST_ROWS)
    drawing.check_range(low, high)
    drawn = [_drawn(n, row, low, high) for n, row in enumerate(rows)]
    height = _ROW * len(rows)
    left, right = _margins(drawn)
    width = drawing.WIDTH - left - right
    key = [*_key(height + 56)] if any(row.group == FLOOR for row in rows) else []
    return drawing.render(
        _layers,
        low,
        high,
        data={
            "frame": [{"mean": low}],
            "rows": [{"x": 0, "x2": width, "y": row["y"]} for row in drawn],
            "means": [row for row in drawn if row["mean"] is not None],
            "spans": [row for row in drawn if row["low"] is not None],
            "arrows": [arrow for row in drawn for arrow in _arrows(row)],
            "labels": drawing.column(-12, drawn, "text"),
            "numbers": drawing.column(width + 14, drawn, "number"),
            "notes": drawing.column(width + right - 6, drawn, "note"),
            "title": [drawing.said(width / 2, height + 34, shortened(title, _TITLE))],
            "key": key,
        },
        size=(width, height),
        margins=(left, _TOP, right, _BOTTOM + (24 if key else 0)),
        label=label,
    )


def _drawn(n: int, row: IntervalRow, low: float, high: float) -> dict[str, Any]:
    mean = drawing.on_axis(row.mean, low, high)
    span = None if mean is None else drawing.cut(row.low, row.high, (low, high))
    return {
        "y": (n + 0.5) * _ROW,
        "kind": FLOOR if row.group == FLOOR else "model",
        "mean": mean,
        "low": span and span[0],
        "high": span and span[1],
        "beyond": (row.low, row.high),
        "text": shortened(row.label, _LABEL),
        "number": _number(mean, span and (row.low, row.high)),
        "note": shortened(row.note, _NOTE),
    }


def _number(mean: float | None, span: tuple[float | None, ...] | None) -> str:
    if mean is None:
        return "no score"
    shown = _two(mean)
    return shown if span is None else f"{shown} [{_two(span[0])}, {_two(span[1])}]"


def _two(value: float | None) -> str:
    """Two digits behind the point; what rounds to zero has no sign."""
    return "\u2013" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


def _arrows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Where the interval goes on beyond the axis."""
    if row["low"] is None:
        return
    start, end = row["beyond"]
    sides = ((row["low"], -90, start < row["low"]), (row["high"], 90, end > row["high"]))
    for at, angle, goes_on in sides:
        if goes_on:
            yield {"at": at, "y": row["y"], "angle": angle, "kind": row["kind"]}


def _margins(drawn: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The room for the labels, and for the numbers and the notes."""
    labels, numbers, notes = (
        max(pixels(row[name]) for row in drawn) for name in ("text", "number", "note")
    )
    return labels + 20, numbers + 20 + (notes + 8 if notes else 0)


def _layers(low: float, high: float) -> list[alt.Chart]:
    return [*_frame(low, high), *_marks(), *_columns()]


def _columns() -> list[alt.Chart]:
    return [
        drawing.words("labels", align="right"),
        drawing.words("numbers"),
        drawing.words("notes", align="right", color=drawing.MUTED, fontSize=drawing.SMALL),
    ]


def _frame(low: float, high: float) -> list[alt.Chart]:
    """A line to guide the eye along each row, the axis and its title."""
    axis = alt.Axis(tickCount=5, grid=True, domain=False, ticks=False)
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    return [
        drawing.over("rows")
        .mark_rule(color=drawing.GRID, strokeDash=[1, 3])
        .encode(y=pixels_y(), x=pixels_x(), x2="x2"),
        drawing.frame("frame").encode(x=number_x("mean", scale=scale, axis=axis)),
        drawing.words("title", align="center"),
    ]


def _marks() -> list[alt.Chart]:
    y, color = pixels_y(), _kind(alt.Color, drawing.SERIES[0], drawing.MUTED)
    angle = alt.Angle("angle", type="quantitative", scale=None)
    span = drawing.over("spans").mark_rule(strokeWidth=2)
    arrow = drawing.over("arrows").mark_point(shape="triangle-up", filled=True, size=50, opacity=1)
    return [
        span.encode(x=number_x("low"), x2="high", y=y, color=color),
        arrow.encode(x=number_x("at"), y=y, color=color, angle=angle),
        _point("means", number_x("mean")),
        _point("key", pixels_x()),
        _key_words(),
    ]


def _point(name: str, x: alt.X) -> alt.Chart:
    """A full circle for a model, an empty diamond for a floor."""
    marks: alt.Chart = drawing.over(name).mark_point(size=55, strokeWidth=1.75, opacity=1)
    return marks.encode(
        x=x,
        y=pixels_y(),
        stroke=_kind(alt.Stroke, drawing.SERIES[0], drawing.MUTED),
        fill=_kind(alt.Fill, drawing.SERIES[0], drawing.PAPER),
        shape=_kind(alt.Shape, "circle", "diamond"),
    )


def _key(y: float) -> Iterator[dict[str, Any]]:
    for x, kind, text in ((0.0, "model", "model"), (80.0, FLOOR, "floor (baseline)")):
        yield {**drawing.said(x, y, text), "kind": kind, "after": x + 10}


def _key_words() -> alt.Chart:
    marks: alt.Chart = drawing.over("key").mark_text(
        align="left", baseline="middle", color=drawing.MUTED
    )
    return marks.encode(x=pixels_x("after"), y=pixels_y(), text=drawing.text())


def _kind(channel: type[Any], model: str, floor: str) -> Any:
    scale = alt.Scale(domain=list(_KINDS), range=[model, floor])
    return channel("kind", type="nominal", scale=scale, legend=None)
