"""A comparison as a table for a terminal. Names from outside are shown as text, never as markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kardiabench.report import plain

if TYPE_CHECKING:
    from rich.console import Console

_MISSING = "—"
_MOST_REASONS = 4
_OWN = (
    "The judge is of the model family of {side}, and judges may prefer their own: compare with a "
    "judge of another family too."
)


def show_comparison(comparison: Mapping[str, Any], console: Console) -> None:
    """Print what `comparison.json` holds, less its single cases."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Comparison of A with B", title_justify="left", show_header=False)
    table.add_column("", overflow="fold")
    table.add_column("", overflow="fold")
    for name, value in _rows(comparison):
        table.add_row(name, Text(plain(value)))
    console.print(table)
    for note in _notes(comparison):
        console.print(plain(note), markup=False, highlight=False)


def reasons(comparison: Mapping[str, Any]) -> str:
    """Why cases have no score, the commonest reason first: `B error: timeout 3, A no reply 1`."""
    found = sorted(comparison["missing"].items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{why} {number}" for why, number in found[:_MOST_REASONS])
    return shown + (", …" if len(found) > _MOST_REASONS else "")


def _rows(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    a, b, rate = comparison["a"], comparison["b"], comparison["win_rate"]
    order, words, found = comparison["order"], comparison["words"], comparison["outcomes"]
    controlled = comparison["length_controlled"]
    return [
        ("A", f"{a['model']} ({a['run']})"),
        ("B", f"{b['model']} ({b['run']})"),
        ("judge", comparison["judge"]["name"]),
        ("cases", f"{rate['scored']} of {rate['total']} over {rate['personas']} personas"),
        ("A wins / ties / losses", f"{found['wins']} / {found['ties']} / {found['losses']}"),
        ("win rate of A [95% interval]", _share(rate)),
        ("the same at equal length", _share(controlled | {"mean": controlled["rate"]})),
        ("both orders agree", _share(order["consistency"])),
        ("preference for the first shown", _share(order["first_shown"])),
        ("words a response, A / B", f"{_number(words['mean_a'])} / {_number(words['mean_b'])}"),
    ]


def _share(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return f"{_MISSING} ({found['why']})"
    if found["low"] is None:
        return f"{found['mean']:.3f} (no interval: {found['why']})"
    p = found.get("p")
    against_half = "" if p is None else f", p = {p:.2g} against .5"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{against_half}"


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.1f}"


def _notes(comparison: Mapping[str, Any]) -> list[str]:
    notes = [f"Missing: {reasons(comparison)}."] if comparison["missing"] else []
    for side in ("a", "b"):
        without = comparison["words"][f"without_response_{side}"]
        if without:
            notes.append(f"Cases in which {side.upper()} has no response to compare: {without}.")
    if comparison["length_controlled"]["extrapolated"]:
        notes.append("One model never wrote less than the other: equal length is a guess here.")
    notes += [_OWN.format(side=side.upper()) for side in comparison["judge"]["own_family"]]
    if comparison["judge"]["smoke_test"]:
        notes.append("This judge is a smoke test, not a judgement.")
    return notes
