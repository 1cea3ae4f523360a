"""How often a model's replies were flagged: a bar for each model, with the counts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from leaderboard.charts import drawing
from leaderboard.charts.drawing import number_x, pixels_y
from leaderboard.charts.labels import pixels, shortened

_ROW, _TOP, _BOTTOM = 24.0, 10.0, 46.0
_LABEL = 34
#: The axis ends at the first of these that no bar passes.
_ENDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class FlagRow:
    """`flagged` of the `judged` replies of a model."""

    label: str
    flagged: int
    judged: int


def flags(rows: Sequence[FlagRow], *, label: str) -> str:
    """Draw 1 to 60 `rows`, in their order; where nothing was judged there is no bar.

    Raises ValueError for another number of rows, and for counts that make no share.
    """
    drawing.check_count("rows", len(rows), drawing.MOST_ROWS)
    drawn = [_drawn(n, row) for n, row in enumerate(rows)]
    bars = [row for row in drawn if row["share"] is not None]
    end = next(end for end in _ENDS if all(row["share"] <= end for row in bars))
    height = _ROW * len(rows)
    left, right = (max(pixels(row[name]) for row in drawn) + 18 for name in ("text", "count"))
    width = drawing.WIDTH - left - right
    return drawing.render(
        _layers,
        end,
        data={
            "frame": [{"share": 0}],
            "bars": bars,
            "labels": drawing.column(-10, drawn, "text"),
            "counts": [_beside(row, width / end) for row in drawn],
            "title": [drawing.said(width / 2, height + 36, "Share of judged replies flagged")],
        },
        size=(width, height),
        margins=(left, _TOP, right, _BOTTOM),
        label=label,
    )


def _drawn(n: int, row: FlagRow) -> dict[str, Any]:
    if not 0 <= row.flagged <= row.judged:
        raise ValueError(f"{row.flagged} of {row.judged} replies flagged")
    y = (n + 0.5) * _ROW
    edges = {"y": y, "top": y - 7, "bottom": y + 7}
    share = row.flagged / row.judged if row.judged else None
    count = "none judged"
    if share is not None:
        count = f"{row.flagged:,} of {row.judged:,} ({share:.1%})"
    return {**edges, "share": share, "count": count, "text": shortened(row.label, _LABEL)}


def _beside(row: dict[str, Any], scale: float) -> dict[str, Any]:
    return drawing.said((row["share"] or 0) * scale + 8, row["y"], row["count"])


def _layers(end: float) -> list[alt.Chart]:
    return [
        _frame(end),
        _bars(),
        drawing.words("labels", align="right"),
        drawing.words("counts", color=drawing.MUTED),
        drawing.words("title", align="center"),
    ]


def _frame(end: float) -> alt.Chart:
    axis = alt.Axis(tickCount=5, format=".1~%", ticks=False, domain=False)
    scale = alt.Scale(domain=[0, end], nice=False)
    return drawing.frame("frame").encode(x=number_x("share", scale=scale, axis=axis))


def _bars() -> alt.Chart:
    marks: alt.Chart = drawing.over("bars").mark_rect(fill=drawing.ACCENT)
    x, zero = number_x("share"), alt.X2Datum(0)
    return marks.encode(x=x, x2=zero, y=pixels_y("top"), y2="bottom")
