"""Quality against cost: a point for each model, its cost on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import number_x, number_y, pixels_x
from leaderboard.charts.labels import pixels, shortened

_MARGINS = (64.0, 44.0, 30.0, 56.0)
_WIDTH, _HEIGHT = drawing.WIDTH - _MARGINS[0] - _MARGINS[2], 380.0
_LABEL, _TITLE = 26, 60
#: The column of what costs nothing, which has no place on a logarithmic axis; where that begins.
_ZERO, _BREAK, _FIRST = 40.0, 76.0, 112.0
#: The room of a mark, and the height of a line of text.
_MARK, _LINE = 13.0, 14.0
#: Where a label is tried, from its point: the side, and how far across and down.
_SPOTS = (
    *((side, 10, dy) for dy in (0, -8, 8) for side in ("left", "right")),
    *(("center", 0, dy) for dy in (-15, 15)),
    *((side, 4, dy) for dy in (-13, 13) for side in ("left", "right")),
)
_KEY_COLUMNS, _KEY_ROW = 3, 18.0


@dataclass(frozen=True, slots=True)
class CostPoint:
    """What a model costs (dollars a turn, >= 0) and its mean score, with the interval's ends."""

    label: str
    cost: float
    mean: float
    low: float | None = None
    high: float | None = None


def cost_quality(points: Sequence[CostPoint], y_title: str, *, label: str) -> str:
    """Draw 1 to 60 `points` on an axis of scores that `y_title` names.

    What costs nothing stands in a column of its own, left of the break. Raises ValueError for
    another number of points, and for a cost or mean that is none.
    """
    drawing.check_count("points", len(points), drawing.MOST_ROWS)
    across, up = _decades(points), _span(points)
    drawn = [_drawn(point, across, up) for point in points]
    names, key = _named(drawn)
    free = any(point.cost == 0 for point in points)
    left, top, right, bottom = _MARGINS
    return drawing.render(
        _layers,
        *across,
        *up,
        data={
            "frame": [{"cost": across[1], "mean": up[0]}],
            "break": [{"x": _BREAK}] if free else [],
            "points": drawn,
            "spans": [row for row in drawn if row["low"] is not None],
            "names": names,
            "titles": [*_titles(y_title)],
            "zero": [drawing.said(_ZERO, _HEIGHT + 13, "$0")] if free else [],
            "key": key,
        },
        size=(_WIDTH, _HEIGHT),
        margins=(left, top, right, bottom + math.ceil(len(key) / _KEY_COLUMNS) * _KEY_ROW),
        label=label,
    )


def _decades(points: Sequence[CostPoint]) -> tuple[float, float]:
    """The ends of the axis of costs: whole powers of ten around all that cost something."""
    if not all(math.isfinite(point.cost) and point.cost >= 0 for point in points):
        raise ValueError("a cost is a number of dollars, 0 or more")
    costs = [point.cost for point in points if point.cost > 0] or [0.001]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    return float(10.0**low), float(10.0 ** max(high, low + 1))


def _span(points: Sequence[CostPoint]) -> tuple[float, float]:
    """The ends of the axis of scores: all means and intervals, and a little room."""
    ends = [known for point in points for known in _ends(point) if known is not None]
    if not all(math.isfinite(point.mean) for point in points):
        raise ValueError("a point without a mean has no place")
    room = (max(ends) - min(ends)) * 0.08 or 0.5
    return min(ends) - room, max(ends) + room


def _ends(point: CostPoint) -> tuple[float | None, ...]:
    return tuple(map(drawing.known, (point.mean, point.low, point.high)))


def _drawn(
    point: CostPoint, across: tuple[float, float], up: tuple[float, float]
) -> dict[str, Any]:
    mean, low, high = _ends(point)
    whole = low is not None and high is not None
    y, top, bottom = (_y_of(point.mean if end is None else end, up) for end in (mean, high, low))
    return {
        "x": _x_of(point.cost, across),
        "y": y,
        "top": top if whole else y,
        "bottom": bottom if whole else y,
        "mean": mean,
        "low": low if whole else None,
        "high": high if whole else None,
        "text": shortened(point.label, _LABEL),
    }


def _x_of(cost: float, across: tuple[float, float]) -> float:
    """The place of `cost` in pixels, as the axis has it."""
    if cost == 0:
        return _ZERO
    share = math.log(cost / across[0]) / math.log(across[1] / across[0])
    return _FIRST + share * (_WIDTH - _FIRST)


def _y_of(score: float, up: tuple[float, float]) -> float:
    return (up[1] - score) / (up[1] - up[0]) * _HEIGHT


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)

    def is_inside(self) -> bool:
        return self.left >= 0 and self.right <= _WIDTH + 26 and self.bottom <= _HEIGHT


def _named(drawn: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labels beside the points; where they don't all fit, numbers, and a key to them."""
    for over_bars in (False, True):
        names, fit = _placed(drawn, over_bars=over_bars)
        if fit:
            return names, []
    numbers, _ = _placed([{**row, "text": str(n + 1)} for n, row in enumerate(drawn)])
    return numbers, [_key_row(n, len(drawn), row["text"]) for n, row in enumerate(drawn)]


def _key_row(n: int, of: int, text: str) -> dict[str, Any]:
    column, row = divmod(n, math.ceil(of / _KEY_COLUMNS))
    x = column * (_WIDTH + 50) / _KEY_COLUMNS - 48
    return drawing.said(x, _HEIGHT + 64 + row * _KEY_ROW, f"{n + 1}  {text}")


def _placed(
    drawn: Sequence[dict[str, Any]], *, over_bars: bool = False
) -> tuple[list[dict[str, Any]], bool]:
    """A place for each label beside its point, and whether none is on top of something."""
    taken = [_around(row["x"], row["y"], _MARK, _MARK) for row in drawn]
    if not over_bars:
        taken += [_Box(row["x"] - 2, row["top"], row["x"] + 2, row["bottom"]) for row in drawn]
    names, fit = [], True
    for row in sorted(drawn, key=lambda row: (row["y"], row["x"])):
        spots = [_spot(row, *spot) for spot in _SPOTS]
        free = [
            spot for spot in spots if spot[1].is_inside() and not any(map(spot[1].meets, taken))
        ]
        name, box = (free or spots)[0]
        fit = fit and bool(free)
        taken.append(box)
        names.append(name)
    return names, fit


def _spot(row: dict[str, Any], align: str, dx: float, dy: float) -> tuple[dict[str, Any], _Box]:
    """The label with its left end, right end or middle so far from its point."""
    wide = pixels(row["text"]) * drawing.SMALL / drawing.FONT_SIZE
    side = {"left": 1, "right": -1, "center": 0}[align]
    x, y = row["x"] + side * dx, row["y"] + dy
    name = {**drawing.said(x, y, row["text"]), "align": align}
    return name, _around(x + side * wide / 2, y, wide, _LINE)


def _around(x: float, y: float, wide: float, high: float) -> _Box:
    return _Box(x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)


def _titles(y_title: str) -> Iterator[dict[str, Any]]:
    said = drawing.said(-48, -22, shortened(y_title, _TITLE))
    yield {**said, "align": "left"}
    across = drawing.said(_WIDTH / 2, _HEIGHT + 40, "Cost of a turn in US dollars (logarithmic)")
    yield {**across, "align": "center"}


def _layers(*ends: float) -> list[alt.Chart]:
    aligned = {"align": alt.ExprRef("datum.align")}
    return [
        *_frame(ends[:2], ends[2:]),
        *_marks(),
        drawing.words("names", fontSize=drawing.SMALL, **aligned),
        drawing.words("titles", **aligned),
        drawing.words("zero", align="center", color=drawing.MUTED),
        drawing.words("key", fontSize=drawing.SMALL),
    ]


def _frame(across: Sequence[float], up: Sequence[float]) -> list[alt.Chart]:
    costs = alt.Scale(type="log", domain=list(across), range=[_FIRST, _WIDTH], nice=False)
    powers = range(round(math.log10(across[0])), round(math.log10(across[1])) + 1)
    ticks = alt.Axis(values=[10.0**power for power in powers], format="$~f", grid=True)
    scores = alt.Scale(domain=list(up), nice=False, zero=False)
    rows = alt.Axis(tickCount=6, ticks=False, domain=False)
    return [
        drawing.frame("frame").encode(
            x=number_x("cost", scale=costs, axis=ticks),
            y=number_y("mean", scale=scores, axis=rows),
        ),
        drawing.over("break")
        .mark_rule(color=drawing.MUTED, strokeDash=[2, 3])
        .encode(x=pixels_x(), y=alt.value(0), y2=alt.value(_HEIGHT)),
    ]


def _marks() -> list[alt.Chart]:
    x, mean, low = pixels_x(), number_y("mean"), number_y("low")
    return [
        drawing.over("spans")
        .mark_rule(color=drawing.SERIES[0], strokeWidth=1.5, opacity=0.55)
        .encode(x=x, y=low, y2="high"),
        drawing.over("points")
        .mark_point(color=drawing.SERIES[0], filled=True, size=60, opacity=1)
        .encode(x=x, y=mean),
    ]
