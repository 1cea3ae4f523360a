"""Which emotion was taken for which: a heat map of shares, a row for each gold label."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import pixels_x, pixels_y
from leaderboard.charts.labels import pixels, shortened

_GAP = 6.0
_WIDEST = 36.0
_LABEL = 18
#: The upper ends of the classes of the shares, in percent; most confusions are rare ones.
_UPTO = (0, 2, 5, 10, 20, 30, 40, 60, 80, 100)


def confusion(
    matrix: Sequence[Sequence[int]], labels: Sequence[str], none_label: str, *, label: str
) -> str:
    """Draw `matrix`: for each of `labels`, how often each of them was answered, and none at last.

    The shade is the share of the row, in ten classes of which the first is 0. A row without any
    reply stays blank; the diagonal is framed. Raises ValueError for another shape than
    (len(labels), len(labels) + 1) and for a count below 0.
    """
    side = len(labels)
    if len(matrix) != side or any(len(row) != side + 1 for row in matrix):
        raise ValueError(f"a matrix of {side} labels has {side} rows of {side + 1} counts")
    if any(count < 0 for row in matrix for count in row):
        raise ValueError("a count is 0 or more")
    seen = [n for n, row in enumerate(matrix) if sum(row)]
    names = [shortened(name, _LABEL) for name in (*labels, none_label)]
    room = max(map(pixels, names)) + 10
    cells = _Cells(side, min((drawing.WIDTH - room - 20 - _GAP) / (side + 1), _WIDEST))
    return drawing.render(
        _layers,
        data={
            "back": [back for n in seen for back in cells.row(n)],
            "cells": [cell for n in seen for cell in _shaded(cells, n, matrix[n])],
            "diagonal": [cells.box(n, n) for n in seen],
            "rows": [drawing.said(-6, cells.middle(n), name) for n, name in enumerate(names[:-1])],
            "columns": [
                drawing.said(cells.left(n) + cells.size / 2, -6, name)
                for n, name in enumerate(names)
            ],
            "titles": [*_titles(cells, room, blank=len(seen) < side)],
            "shades": [*_shades(cells.height + 34)],
        },
        size=(drawing.WIDTH - room - 16, cells.height),
        margins=(room + 8, room + 28, 8, 60),
        label=label,
    )


class _Cells(NamedTuple):
    """Where the cells of `side` rows lie, each `size` pixels wide."""

    side: int
    size: float

    @property
    def height(self) -> float:
        return self.side * self.size

    def middle(self, row: int) -> float:
        return (row + 0.5) * self.size

    def left(self, column: int) -> float:
        """The left edge of a column; the one for no label stands apart."""
        return column * self.size + (_GAP if column == self.side else 0)

    def box(self, row: int, column: int) -> dict[str, Any]:
        left, top = self.left(column), row * self.size
        return {"x": left, "x2": left + self.size, "y": top, "y2": top + self.size}

    def row(self, row: int) -> Iterator[dict[str, Any]]:
        """A row that has replies, in the shade of 0: only others need a cell of their own."""
        yield {**self.box(row, 0), "x2": self.height}
        yield self.box(row, self.side)


def _shaded(cells: _Cells, n: int, row: Sequence[int]) -> Iterator[dict[str, Any]]:
    total = sum(row)
    for column, count in enumerate(row):
        if count:
            yield {**cells.box(n, column), "shade": _shade(count, total)}


def _shade(count: int, total: int) -> str:
    return drawing.HEAT[bisect_left(_UPTO, 100 * count / total)]


def _titles(cells: _Cells, room: float, *, blank: bool) -> Iterator[dict[str, Any]]:
    note = "; a blank row has no replies" if blank else ""
    yield drawing.said(-room, -room - 14, f"Gold label (rows) and answer (columns){note}")
    yield drawing.said(0, cells.height + 20, "Share of the gold label's replies")


def _shades(y: float) -> Iterator[dict[str, Any]]:
    """The key: a swatch for each class."""
    for n, (shade, upto) in enumerate(zip(drawing.HEAT, _UPTO, strict=True)):
        x = n * 58.0
        swatch = {"x": x, "x2": x + 12, "y": y, "y2": y + 12, "shade": shade}
        text = "0%" if not upto else f"\u2264{upto}%"
        yield {**swatch, "text": text, "after": x + 17, "middle": y + 6}


def _layers() -> list[alt.Chart]:
    return [
        *_grid(),
        drawing.words("rows", align="right", fontSize=drawing.SMALL),
        drawing.words("columns", angle=270, fontSize=drawing.SMALL),
        drawing.words("titles"),
        *_scale(),
    ]


def _grid() -> list[alt.Chart]:
    box = _corners()
    return [
        drawing.over("back").mark_rect(fill=drawing.HEAT[0]).encode(**box),
        drawing.over("cells").mark_rect().encode(fill=_fill(), **box),
        drawing.over("diagonal")
        .mark_rect(fill="transparent", stroke=drawing.INK, strokeWidth=0.75)
        .encode(**box),
    ]


def _scale() -> list[alt.Chart]:
    swatch = drawing.over("shades").mark_rect(stroke=drawing.MUTED, strokeWidth=0.5)
    said = drawing.over("shades").mark_text(
        align="left", baseline="middle", fontSize=drawing.SMALL, color=drawing.MUTED
    )
    return [
        swatch.encode(fill=_fill(), **_corners()),
        said.encode(x=pixels_x("after"), y=pixels_y("middle"), text=drawing.text()),
    ]


def _corners() -> dict[str, Any]:
    return {"x": pixels_x(), "x2": "x2", "y": pixels_y(), "y2": "y2"}


def _fill() -> alt.Fill:
    return alt.Fill("shade", type="nominal", scale=None)
