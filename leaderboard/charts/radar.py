"""The radar chart of the papers: a polygon for each model over the dimensions of the rubric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import pixels_x, pixels_y
from leaderboard.charts.labels import shortened

_RADIUS, _TOP = 150.0, 44.0
_CENTRE = (drawing.WIDTH / 2, _TOP + _RADIUS)
_RINGS = 4
_MOST_AXES = 12
_LABEL, _KEY = 28, 46
#: The areas of more polygons than these make mud.
_MOST_AREAS = 3


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension: `low` is drawn in the centre, `high` on the rim."""

    label: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """A model: one value an axis, in the axis's range; None is missing and breaks the polygon."""

    label: str
    values: Sequence[float | None]


def radar(axes: Sequence[Axis], series: Sequence[Series], *, label: str) -> str:
    """Draw 1 to 6 `series` over 3 to 12 `axes`.

    Raises ValueError for other counts, and for a value outside its axis's range.
    """
    drawing.check_count("axes", len(axes), _MOST_AXES, least=3)
    drawing.check_count("series", len(series), drawing.MOST_SERIES)
    shares = [_shares(axes, one) for one in series]
    corners = [row for n, values in enumerate(shares) for row in _corners(n, values)]
    below = 2 * _RADIUS + 2 * _TOP
    return drawing.render(
        _layers,
        data={
            "rings": list(_rings(len(axes))),
            "spokes": [_spoke(n, len(axes)) for n in range(len(axes))],
            "names": [row for n in range(len(axes)) for row in _names(n, axes)],
            "ticks": list(_ticks(axes)),
            "corners": corners,
            "areas": [row for row in corners if row["closed"] and len(series) <= _MOST_AREAS],
            "points": [row for row in corners if not row["again"]],
            "key": [_key_row(n, one.label, below) for n, one in enumerate(series)],
        },
        size=(drawing.WIDTH, below + 22 * math.ceil(len(series) / 2)),
        margins=(0, 0, 0, 0),
        label=label,
    )


def _shares(axes: Sequence[Axis], one: Series) -> list[float | None]:
    return [_share(axis, value) for axis, value in zip(axes, one.values, strict=True)]


def _share(axis: Axis, value: float | None) -> float | None:
    """Where `value` lies between the centre (0) and the rim (1)."""
    drawing.check_range(axis.low, axis.high)
    value = drawing.on_axis(value, axis.low, axis.high)
    return None if value is None else (value - axis.low) / (axis.high - axis.low)


def _place(n: int, of: int, share: float) -> tuple[float, float]:
    """Axis `n` of `of`, clockwise from the top, in pixels."""
    angle = 2 * math.pi * n / of
    out = share * _RADIUS
    return _CENTRE[0] + out * math.sin(angle), _CENTRE[1] - out * math.cos(angle)


def _corners(series: int, shares: Sequence[float | None]) -> Iterator[dict[str, Any]]:
    """The corners of a polygon, in pieces where values are missing, the first corner twice."""
    closed, piece = None not in shares, 0
    for order, share in enumerate([*shares, shares[0]]):
        if share is None:
            piece += 1
            continue
        x, y = _place(order, len(shares), share)
        again = order == len(shares)
        part = {"series": series, "piece": piece, "order": order}
        yield {**part, "x": x, "y": y, "closed": closed, "again": again}


def _rings(axes: int) -> Iterator[dict[str, Any]]:
    for ring in range(1, _RINGS + 1):
        for n in range(axes + 1):
            x, y = _place(n, axes, ring / _RINGS)
            yield {"ring": ring, "order": n, "x": x, "y": y}


def _spoke(n: int, axes: int) -> dict[str, float]:
    x, y = _place(n, axes, 1)
    return {"x": _CENTRE[0], "y": _CENTRE[1], "x2": x, "y2": y}


def _names(n: int, axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """The label of an axis outside of the rim; under it its range, unless the ticks say it."""
    x, y = _place(n, len(axes), 1 + 14 / _RADIUS)
    side = math.sin(2 * math.pi * n / len(axes))
    align = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
    axis, alike = axes[n], _alike(axes)
    up = math.cos(2 * math.pi * n / len(axes))
    lift = max(0.0, 6 * up) if alike else 7 * (1 + up)
    yield {**drawing.said(x, y - lift, shortened(axis.label, _LABEL)), "align": align, "size": 12}
    if not alike:
        span = f"{axis.low:g}\u2013{axis.high:g}"
        yield {**drawing.said(x, y - lift + 14, span), "align": align, "size": 11}


def _alike(axes: Sequence[Axis]) -> bool:
    return len({(axis.low, axis.high) for axis in axes}) == 1


def _ticks(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """The values of the rings, beside the first axis, where all axes have the same."""
    if not _alike(axes):
        return
    low, high = axes[0].low, axes[0].high
    for ring in range(_RINGS + 1):
        value = low + (high - low) * ring / _RINGS
        x, y = _place(0, len(axes), ring / _RINGS)
        yield drawing.said(x - 5, y, f"{value:g}")


def _key_row(n: int, label: str, top: float) -> dict[str, Any]:
    x = 24 + n % 2 * drawing.WIDTH / 2
    return drawing.key_row(n, shortened(label, _KEY), x, top + 12 + 22 * (n // 2))


def _layers() -> list[alt.Chart]:
    return [*_web(), *_polygons(), *drawing.key("key")]


def _web() -> list[alt.Chart]:
    x, y = pixels_x(), pixels_y()
    name = {"align": alt.ExprRef("datum.align"), "fontSize": alt.ExprRef("datum.size")}
    return [
        drawing.over("rings")
        .mark_line(color=drawing.GRID, strokeWidth=1)
        .encode(x=x, y=y, detail=alt.Detail("ring", type="nominal"), order=_order()),
        drawing.over("spokes").mark_rule(color=drawing.GRID).encode(x=x, y=y, x2="x2", y2="y2"),
        drawing.words("names", **name),
        drawing.words("ticks", align="right", color=drawing.MUTED, fontSize=drawing.SMALL),
    ]


def _polygons() -> list[alt.Chart]:
    x, y = pixels_x(), pixels_y()
    parts = {"detail": alt.Detail("piece", type="nominal"), "order": _order()}
    color, shape = drawing.by_series(alt.Color), drawing.by_series(alt.Shape)
    return [
        drawing.over("areas")
        .mark_line(filled=True, fillOpacity=0.07, strokeWidth=0)
        .encode(x=x, y=y, fill=drawing.by_series(alt.Fill), order=_order()),
        drawing.over("corners")
        .mark_line(strokeWidth=2, strokeJoin="round")
        .encode(x=x, y=y, color=color, strokeDash=drawing.by_series(alt.StrokeDash), **parts),
        drawing.over("points")
        .mark_point(filled=True, size=45, opacity=1)
        .encode(x=x, y=y, color=color, shape=shape),
    ]


def _order() -> alt.Order:
    return alt.Order("order", type="quantitative")
