"""One chart of the page of curves: measures over steps, with the marks of what happened when.

A Vega-Lite specification is built with Altair from fixed names and numbers only. Names join it as
data after it is compiled, so that none is ever part of an expression.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kardiabench.svg import hardened
from trainer.curve_layers import HEIGHT, INK, MUTED, WIDTH, layers

if TYPE_CHECKING:
    from markupsafe import Markup

#: More lines than these don't stay apart.
MOST_LINES = 6
#: Points a line: more are joined to the means of neighbours.
MOST_POINTS = 240
#: Up to so many points a line are marked, each.
_FEW_POINTS = 40
_LEFT, _RIGHT, _TOP = 64.0, 36.0, 30.0
_KEY_ROW, _KEY_COLUMNS, _LABEL = 20.0, 2, 44
_DASHES = ([1, 0], [7, 3], [2, 2.5], [9, 3, 2, 3], [4, 4], [12, 3, 2, 3, 2, 3])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
#: Their words stand at heights of their own, so that two at one step don't cover each other.
_MARKS: dict[str, dict[str, Any]] = {
    "alarm": {"color": "var(--warn)", "dash": [3, 3], "above": -8},
    "chosen": {"color": "var(--accent)", "dash": [1, 0], "above": -20},
}
_NO_TEXT = frozenset({"Cc", "Cs", "Cn", "Co"})
_CONFIG: dict[str, Any] = {
    "aria": False,
    "background": None,
    "view": {"stroke": None, "fill": None},
    "axis": {
        "title": None,
        "domainColor": MUTED,
        "gridColor": "var(--grid)",
        "tickColor": MUTED,
        "labelColor": MUTED,
        "labelFontSize": 12,
    },
    "mark": {"color": INK},
    "text": {"fontSize": 12, "color": INK, "limit": 0},
}


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a step, with the ends of its interval where it has one; None is missing."""

    step: float
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A measure: its name and its points by rising step; a missing value breaks the line."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a step."""

    step: int
    kind: Literal["alarm", "chosen"]


def chart(lines: Sequence[Line], marks: Sequence[Mark], *, label: str) -> Markup:
    """Draw 1 to 6 `lines` over steps; `label` says in words what they show.

    Raises ValueError for another number of lines, and for lines without any value.
    """
    import altair as alt
    import vl_convert
    from markupsafe import Markup

    if not 1 <= len(lines) <= MOST_LINES:
        raise ValueError(f"a chart of {len(lines)} lines; it takes 1 to {MOST_LINES}")
    thinned = [Line(line.name, thin(line.points)) for line in lines]
    across, up = _domains(thinned)
    chart = alt.layer(*layers(across, up)).properties(autosize="none")
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    vega = vl_convert.vegalite_to_vega(chart.to_dict() | {"config": _CONFIG}, vl_version=version)
    data = _data(thinned, [mark for mark in marks if across[0] <= mark.step <= across[1]])
    bottom = 48 + _KEY_ROW * -(-len(lines) // _KEY_COLUMNS)
    vega |= {
        "width": WIDTH,
        "height": HEIGHT,
        "padding": {"left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": bottom},
        "data": [
            one if "source" in one else one | {"values": data[one["name"]]} for one in vega["data"]
        ],
    }
    svg = vl_convert.vega_to_svg(vega, allowed_base_urls=[])
    return Markup(hardened(svg, label=label))  # noqa: S704 - shapes and text only


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> Sequence[Point]:
    """`points` as they are, or the means of runs of neighbours: at most `most` of them."""
    size = -(-len(points) // most)
    if size <= 1:
        return points
    return [_joined(points[at : at + size]) for at in range(0, len(points), size)]


def _joined(run: Sequence[Point]) -> Point:
    values = [point.value for point in run if point.value is not None]
    step = sum(point.step for point in run) / len(run)
    return Point(step, sum(values) / len(values) if values else None)


def _domains(lines: Sequence[Line]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes: all points and intervals, and a little room above and below."""
    points = [point for line in lines for point in line.points if point.value is not None]
    if not points:
        raise ValueError("a chart of no values")
    steps = [point.step for point in points]
    ends = [end for point in points for end in (point.value, *_span(point)) if end is not None]
    first, last, low, high = min(steps), max(steps), min(ends), max(ends)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    beside = max(last - first, 1) * 0.015
    return (first - beside, max(last, first + 1) + beside), (low - room, high + room)


def _span(point: Point) -> tuple[float, ...]:
    if point.value is None or point.low is None or point.high is None:
        return ()
    return point.low, point.high


def _data(lines: Sequence[Line], marks: Sequence[Mark]) -> dict[str, list[dict[str, Any]]]:
    rows = [row for n, line in enumerate(lines) for row in _rows(n, line)]
    return {
        "frame": [{"step": 0, "value": 0}],
        "lines": rows,
        "points": [row for row in rows if row["marked"]],
        "spans": [row for row in rows if row["low"] is not None],
        "marks": [{"step": mark.step, "kind": mark.kind, **_MARKS[mark.kind]} for mark in marks],
        "key": [_key_row(n, short(line.name)) for n, line in enumerate(lines)],
        "titles": [{"x": WIDTH / 2, "y": HEIGHT + 34, "text": "step"}],
    }


def _rows(n: int, line: Line) -> Iterator[dict[str, Any]]:
    piece, few = 0, len(line.points) <= _FEW_POINTS
    for at, point in enumerate(line.points):
        if point.value is None:
            piece += 1
            continue
        alone = not any(
            0 <= near < len(line.points) and line.points[near].value is not None
            for near in (at - 1, at + 1)
        )
        low, high = _span(point) or (None, None)
        yield {
            **_look(n),
            "piece": f"{n}-{piece}",
            "step": point.step,
            "value": point.value,
            "low": low,
            "high": high,
            "marked": few or alone,
        }


def _look(n: int) -> dict[str, Any]:
    """Lines differ by dash and by shape too, for those who don't see the colours."""
    return {"color": f"var(--series-{n + 1})", "dash": _DASHES[n], "shape": _SHAPES[n]}


def _key_row(n: int, name: str) -> dict[str, Any]:
    x = n % _KEY_COLUMNS * (WIDTH / _KEY_COLUMNS)
    y = HEIGHT + 56 + n // _KEY_COLUMNS * _KEY_ROW
    places = {"x": x, "x2": x + 28, "middle": x + 14, "after": x + 36, "y": y}
    return {**_look(n), **places, "text": name}


def short(name: str, most: int = _LABEL) -> str:
    """Somebody's name on one line without trick characters, its middle left out if too long."""
    line = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in _NO_TEXT else sign
        for sign in " ".join(name.split())
        if unicodedata.category(sign) != "Cf"
    )
    return line if len(line) <= most else f"{line[: most - 12]}\N{HORIZONTAL ELLIPSIS}{line[-11:]}"
