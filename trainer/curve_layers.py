"""The layers of a chart of measures over steps, as Altair has them: fixed names, and no data.

Data join them by name after they are compiled: `frame`, `marks`, `spans`, `lines`, `points`, `key`
and `titles`, whose rows `trainer.curve_chart` makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

#: Of the plot, in the picture's units.
WIDTH, HEIGHT = 660.0, 230.0
#: Colours are variables of the page's style.
INK, MUTED = "var(--ink)", "var(--muted)"


def layers(across: tuple[float, float], up: tuple[float, float]) -> list[alt.Chart]:
    """The layers from back to front, with axes between the ends `across` (steps) and `up`."""
    import altair as alt

    x = alt.X("step", type="quantitative", scale=_scale(across), axis=_across(across))
    y = alt.Y(
        "value", type="quantitative", scale=_scale(up),
        axis=alt.Axis(tickCount=5, domain=False, ticks=False),
    )  # fmt: skip
    return [
        _over("frame").mark_point(opacity=0).encode(x=x, y=y),
        *_happened(),
        *_measured(),
        *_words(),
    ]


def _across(across: tuple[float, float]) -> alt.Axis:
    import altair as alt

    count = min(10, int(across[1] - across[0]))
    return alt.Axis(tickCount=count, grid=False, format="d", tickMinStep=1)


def _scale(ends: tuple[float, float]) -> alt.Scale:
    import altair as alt

    return alt.Scale(domain=list(ends), nice=False, zero=False)


def _over(name: str) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.NamedData(name))


def _own(channel: type[Any], field: str) -> Any:
    """`channel` as the row itself has it."""
    return channel(field, type="nominal", scale=None)


def _measured() -> list[alt.Chart]:
    import altair as alt

    x = alt.X("step", type="quantitative")
    y = alt.Y("value", type="quantitative")
    color = _own(alt.Color, "color")
    piece = alt.Detail("piece", type="nominal")
    low = alt.Y("low", type="quantitative")
    return [
        _over("spans")
        .mark_rule(strokeWidth=1.5, opacity=0.6)
        .encode(x=x, y=low, y2="high", color=color),
        _over("lines")
        .mark_line(strokeWidth=1.75, strokeJoin="round")
        .encode(x=x, y=y, color=color, strokeDash=_own(alt.StrokeDash, "dash"), detail=piece),
        _over("points")
        .mark_point(filled=True, size=34, opacity=1)
        .encode(x=x, y=y, color=color, shape=_own(alt.Shape, "shape")),
    ]


def _happened() -> list[alt.Chart]:
    """A line across the plot at each mark, and its kind in words above."""
    import altair as alt

    x, color = alt.X("step", type="quantitative"), _own(alt.Color, "color")
    above = alt.Y("above", type="quantitative", scale=None)
    return [
        _over("marks")
        .mark_rule(strokeWidth=1.5)
        .encode(
            x=x,
            y=alt.value(0),
            y2=alt.value(HEIGHT),
            color=color,
            strokeDash=_own(alt.StrokeDash, "dash"),
        ),
        _over("marks")
        .mark_text(align="center", baseline="middle", fontSize=11)
        .encode(x=x, y=above, color=color, text=alt.Text("kind", type="nominal")),
    ]


def _words() -> list[alt.Chart]:
    import altair as alt

    x, middle, after = (
        alt.X(name, type="quantitative", scale=None) for name in ("x", "middle", "after")
    )
    y = alt.Y("y", type="quantitative", scale=None)
    words = alt.Text("text", type="nominal")
    color = _own(alt.Color, "color")
    return [
        _over("key")
        .mark_rule(strokeWidth=2)
        .encode(x=x, x2="x2", y=y, strokeDash=_own(alt.StrokeDash, "dash"), color=color),
        _over("key")
        .mark_point(filled=True, size=34, opacity=1)
        .encode(x=middle, y=y, shape=_own(alt.Shape, "shape"), color=color),
        _over("key").mark_text(align="left", baseline="middle").encode(x=after, y=y, text=words),
        _over("titles")
        .mark_text(align="center", baseline="middle", color=MUTED)
        .encode(x=x, y=y, text=words),
    ]
