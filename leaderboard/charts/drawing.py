"""What all charts share: the theme, the pieces they are made of, and the way to SVG.

A chart is a Vega-Lite specification, built with Altair from fixed names and numbers only, and
compiled once. The data, and with them all of somebody's words, join it afterwards as named data
sets, which Vega treats as values: no label is ever part of an expression, a field's name or a
shorthand. Text stands where we put it, not where its measured width would have it, so that the
picture does not depend on this machine's fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import altair as alt

from kardiabench.svg import UnsafeSvgError, hardened
from leaderboard.charts.labels import shortened

__all__ = ["UnsafeSvgError", "hardened"]

#: Rows of a data set; the names of their fields are ours.
Rows = Sequence[Mapping[str, Any]]

INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
PAPER, ACCENT = "var(--paper)", "var(--accent)"
SERIES = tuple(f"var(--series-{n})" for n in range(1, 7))
HEAT = tuple(f"var(--heat-{n})" for n in range(10))
#: Series differ by dash and by shape too, for those who don't see the colours.
_DASHES: list[list[float]] = [[1, 0], [7, 3], [2, 2.5], [9, 3, 2, 3], [4, 4], [12, 3, 2, 3, 2, 3]]
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
FONT_SIZE, SMALL = 12, 11
#: All charts are as wide, so that a page that scales them shows letters of one size.
WIDTH = 760.0
MOST_SERIES, MOST_ROWS = len(SERIES), 60
_ROUNDING = 1e-9

_CONFIG: dict[str, Any] = {
    "aria": False,
    "background": None,
    "view": {"stroke": None, "fill": None},
    "axis": {
        "title": None,
        "domainColor": MUTED,
        "gridColor": GRID,
        "tickColor": MUTED,
        "tickSize": 4,
        "labelColor": MUTED,
        "labelFontSize": FONT_SIZE,
        "labelPadding": 4,
        # What follows would depend on measured text.
        "labelBound": False,
        "labelFlush": False,
        "labelLimit": 0,
        "labelOverlap": False,
    },
    "mark": {"color": INK},
    "text": {"fontSize": FONT_SIZE, "color": INK, "limit": 0},
}


#: What a chart is made of: layers over one another, given by a few numbers.
Layers = Callable[..., "list[alt.Chart]"]


def render(
    layers: Layers,
    *numbers: float,
    data: Mapping[str, Rows],
    size: tuple[float, float],
    margins: tuple[float, float, float, float],
    label: str,
) -> str:
    """The SVG of `layers(*numbers)`, which read `data` by name; `label` is for screen readers.

    `size` is that of the plot, `margins` the room around it (left, top, right, bottom), in pixels.
    """
    import vl_convert

    vega = _template(layers, *numbers)
    filled = [
        one if "source" in one else one | {"values": data[one["name"]]} for one in vega["data"]
    ]
    padding = dict(zip(("left", "top", "right", "bottom"), margins, strict=True))
    vega = vega | {"width": size[0], "height": size[1], "padding": padding, "data": filled}
    svg = vl_convert.vega_to_svg(vega, allowed_base_urls=[])
    return hardened(svg, label=shortened(label, 300))


@lru_cache(maxsize=64)
def _template(layers: Layers, *numbers: float) -> dict[str, Any]:
    """The chart in Vega, without its data: Altair and the compiler take longer than Vega."""
    import vl_convert

    # "none", or else the size would follow from measured text.
    chart = alt.layer(*layers(*numbers)).properties(autosize="none")
    spec = chart.to_dict() | {"config": _CONFIG}
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    vega: dict[str, Any] = vl_convert.vegalite_to_vega(spec, vl_version=version)
    return vega


def over(name: str) -> alt.Chart:
    """A layer that reads the data set `name`."""
    return alt.Chart(alt.NamedData(name))


def pixels_x(field: str = "x") -> alt.X:
    """A horizontal place that is in pixels already."""
    return alt.X(field, type="quantitative", scale=None)


def pixels_y(field: str = "y") -> alt.Y:
    """A vertical place that is in pixels already, from the top."""
    return alt.Y(field, type="quantitative", scale=None)


def words(name: str, **mark: Any) -> alt.Chart:
    """The `text` of each row of `name` at its `x` and `y`, in pixels."""
    look = {"align": "left", "baseline": "middle"} | mark
    marks: alt.Chart = over(name).mark_text(**look)
    return marks.encode(x=pixels_x(), y=pixels_y(), text=text())


def text(field: str = "text") -> alt.Text:
    """The text of a mark."""
    return alt.Text(field, type="nominal")


def column(x: float, rows: Rows, field: str) -> list[dict[str, Any]]:
    """A text at `x` for each of `rows` that has one in `field`, at its `y`."""
    return [said(x, row["y"], row[field]) for row in rows if row[field]]


def said(x: float, y: float, words: str) -> dict[str, Any]:
    """A row for `words`."""
    return {"x": x, "y": y, "text": words}


def number_x(field: str, **options: Any) -> alt.X:
    """A horizontal place on the chart's axis."""
    return alt.X(field, type="quantitative", **options)


def number_y(field: str, **options: Any) -> alt.Y:
    """A vertical place on the chart's axis."""
    return alt.Y(field, type="quantitative", **options)


def frame(name: str) -> alt.Chart:
    """A layer that shows nothing, and brings the axes and scales with it."""
    marks: alt.Chart = over(name).mark_point(opacity=0)
    return marks


def by_series(channel: type[Any]) -> Any:
    """`channel` (alt.Color, Fill, Stroke, Shape or StrokeDash) by the number of the series."""
    ranges: dict[type[Any], Sequence[Any]] = {alt.Shape: SHAPES, alt.StrokeDash: _DASHES}
    scale = alt.Scale(domain=list(range(MOST_SERIES)), range=list(ranges.get(channel, SERIES)))
    return channel("series", type="nominal", scale=scale, legend=None)


def key(name: str) -> list[alt.Chart]:
    """A sample of each series' line and mark, with its label: rows made by `key_row`."""
    line = over(name).mark_rule(strokeWidth=2)
    point = over(name).mark_point(filled=True, size=45, opacity=1)
    x, y = pixels_x(), pixels_y()
    series = {"color": by_series(alt.Color)}
    return [
        line.encode(x=x, x2="x2", y=y, strokeDash=by_series(alt.StrokeDash), **series),
        point.encode(x=pixels_x("middle"), y=y, shape=by_series(alt.Shape), **series),
        over(name)
        .mark_text(align="left", baseline="middle")
        .encode(x=pixels_x("after"), y=y, text=text()),
    ]


def key_row(series: int, label: str, x: float, y: float) -> dict[str, Any]:
    """A row of `key`, 34 pixels and the label wide, from `x`."""
    places = {"x": x, "middle": x + 14, "x2": x + 28, "after": x + 36, "y": y}
    return {"series": series, "text": label, **places}


def known(value: float | None) -> float | None:
    """`value`, or None where it is no number."""
    return float(value) if value is not None and math.isfinite(value) else None


def on_axis(value: float | None, low: float, high: float) -> float | None:
    """`value` as `known`; raises ValueError where it is not within `low`..`high`."""
    value = known(value)
    if value is None:
        return None
    if not low - _ROUNDING * (high - low) <= value <= high + _ROUNDING * (high - low):
        raise ValueError(f"a value of {value} on an axis from {low} to {high}")
    return min(max(value, low), high)


def cut(
    low: float | None, high: float | None, ends: tuple[float, float]
) -> tuple[float, float] | None:
    """What of the interval `low`..`high` lies on an axis with `ends`; None where an end is None."""
    low, high = known(low), known(high)
    if low is None or high is None:
        return None
    return min(max(low, ends[0]), ends[1]), max(min(high, ends[1]), ends[0])


def check_range(low: float, high: float) -> None:
    """Raise ValueError unless `low` < `high`, both finite."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a range from {low} to {high} has no width")


def check_count(what: str, count: int, most: int, least: int = 1) -> None:
    """Raise ValueError unless a chart can show so many."""
    if not least <= count <= most:
        raise ValueError(f"a chart of {count} {what}; it takes {least} to {most}")
