"""Templates of the site: escaped always, strict about what is missing, with filters for numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from kardiabench.svg import checked
from leaderboard.views import BoardView, JudgeView, Metric, RunView

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
#: What is shown where there is no number.
NOTHING = "—"
_MINUS = "\N{MINUS SIGN}"


def render(template: str, page: str, **values: object) -> str:
    """The page `template` with `values`; `page` is its address below the site's root.

    Raises jinja2's `UndefinedError` for a value that is missing, and `UnsafeSvgError` for a chart
    that holds more than shapes and text.
    """
    root = "../" * page.count("/")
    return environment().get_template(template).render(page=page, root=root, **values)


@cache
def environment() -> Environment:
    """The environment of all templates. Autoescape holds for every name of a template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "number": number, "signed": signed, "span": span, "percent": percent, "dollars": dollars,
        "seconds": seconds, "count": count, "raw": raw, "day": day, "svg": svg,
        "relative": relative, "turn_parts": turn_parts, "query": query,
    }  # fmt: skip
    made.globals |= {
        "marked": marked, "moved": moved, "drifted_judges": drifted_judges, "shared": shared,
        "judges_of": judges_of,
    }  # fmt: skip
    return made


def number(value: float | None, digits: int = 2) -> str:
    """`value` with `digits` behind the point; a dash for None and for what is not finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    shown = f"{value:,.{digits}f}"
    return (
        shown.removeprefix("-")
        if float(shown.replace(",", "")) == 0
        else shown.replace("-", _MINUS)
    )


def signed(value: float | None, digits: int = 2) -> str:
    """`value` with its sign; none where it is shown as zero."""
    shown = number(value, digits)
    return f"+{shown}" if value is not None and value > 0 and shown.strip("0.,") else shown


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """`low` to `high`; a dash where one is missing."""
    if low is None or high is None:
        return NOTHING
    dash = " to " if low < 0 or high < 0 else "\N{EN DASH}"
    return f"{number(low, digits)}{dash}{number(high, digits)}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 0..1 in percent. What is not all is never shown as 100%, nor what is some as 0."""
    if share is None or not math.isfinite(share):
        return NOTHING
    shown = f"{100 * share:.{digits}f}%"
    if share < 1 and float(shown[:-1]) == 100:
        return f">{100 - 10.0**-digits:.{digits}f}%"
    if share > 0 and float(shown[:-1]) == 0:
        return f"<{10.0**-digits:.{digits}f}%"
    return shown


def dollars(value: float | None) -> str:
    """US dollars, with two figures that count where it is less than a cent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0 or value >= 0.1:
        return f"${value:,.2f}"
    return f"${value:.{1 - math.floor(math.log10(value))}f}"


def seconds(value: float | None) -> str:
    """Seconds; below ten with a digit behind the point, below a tenth as milliseconds."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 10 else f"{value:,.0f} s"


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return number(value, 0)


def raw(value: float) -> str:
    """A number for a script to read."""
    return f"{value:.6g}"


def day(moment: str) -> str:
    """The date of an ISO 8601 moment."""
    return moment[:10] or NOTHING


def svg(drawing: str) -> Markup:
    """A chart as markup, if it is as `hardened` leaves them: text can't, and raises.

    Raises `UnsafeSvgError`.
    """
    from markupsafe import Markup

    return Markup(checked(drawing))  # noqa: S704 - that is what `checked` is for


def relative(target: str, page: str) -> str:
    """The address of `target`, a path below the site's root, on `page`, another one.

    Raises `ValueError` for a path that leads out of the site.
    """
    if target.startswith("/") or ".." in target.split("/"):
        raise ValueError(f"{target!r} is no page of the site")
    return "../" * page.count("/") + quote(target, safe="/")


def turn_parts(turn: str) -> tuple[str, str]:
    """The dialogue and the place of a turn's id."""
    dialogue, _, index = turn.rpartition("/")
    return dialogue, index


def query(values: Mapping[str, str]) -> str:
    """`values` as a fragment that the site's scripts read."""
    return urlencode({name: value for name, value in values.items() if value})


def marked(run: RunView, metric: Metric) -> bool:
    """Whether a number rests on a judge that has drifted: its own, or any for the composite."""
    drifted = drifted_judges(run)
    if metric.kind == "composite":
        return bool(drifted)
    return any(metric.key.startswith(f"{name}.") for name in drifted)


def drifted_judges(run: RunView) -> list[str]:
    """The names of the judges of a run that have drifted."""
    return [judge.name for judge in run.judges if judge.drifted]


def moved(runs: Sequence[RunView], metrics: Sequence[Metric]) -> list[RunView]:
    """Those of `runs` that have a marked number of one of `metrics`."""
    return [
        run
        for run in runs
        if any(metric.key in run.figures and marked(run, metric) for metric in metrics)
    ]


def shared(runs: Sequence[RunView], key: str) -> set[int]:
    """The ranks of the metric `key` that more than one of `runs` has."""
    ranks = Counter(run.figures[key].rank for run in runs if key in run.figures)
    return {rank for rank, number in ranks.items() if rank is not None and number > 1}


def judges_of(board: BoardView) -> list[JudgeView]:
    """The judges of a protocol, each once, by name; of one with a card, that with the card."""
    found: dict[tuple[str, str], JudgeView] = {}
    for judge in (judge for run in (*board.runs, *board.unranked) for judge in run.judges):
        key = judge.name, judge.fingerprint
        if key not in found or (found[key].card is None and judge.card is not None):
            found[key] = judge
    return [found[key] for key in sorted(found)]


def static_files() -> dict[str, bytes]:
    """Every file of `static/` by its address below the site's root."""
    files: dict[str, Any] = {
        f"static/{file.name}": file.read_bytes() for file in sorted(STATIC.iterdir())
    }
    return files
