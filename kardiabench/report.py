"""A summary as tables for a terminal. Names from outside are shown as text, never as markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from kardiabench.shards import part_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kardiabench.estimate import Line

#: Control characters, and the marks that turn the direction of what follows them.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MISSING = "—"
#: Flagged turns that are named; the summary names all.
_FEW_TURNS = 3
#: Stands behind scores of a judge that has drifted.
_DRIFTED = "†"


def plain(text: str) -> str:
    """`text` without control characters: a reply cannot move the reader's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def titled(summaries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The summaries, runs of one model told apart by `names`."""
    models = [summary["model"] for summary in summaries]
    return [
        {**summary, "model": model if models.count(model) == 1 else f"{model} ({name})"}
        for summary, model, name in zip(summaries, models, names, strict=True)
    ]


def show(summaries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the tables of one or more summaries side by side."""
    console.print(_scores(summaries))
    if _flag_rows(summaries):
        console.print(_flags(summaries))
    console.print(_replies(summaries))
    for line in _notes(summaries):
        console.print(line, markup=False, highlight=False)


def show_estimate(lines: Sequence[Line], turns: int, console: Console) -> None:
    """Print what a run would take."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Estimate for {turns} turns, from nothing", title_justify="left")
    for column in ("", "model", "calls", "tokens in", "tokens out", "price in USD"):
        justify: Literal["left", "right"] = "left" if column in ("", "model") else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for line in lines:
        out = f"{line.answer_tokens_low:,} to {line.answer_tokens_high:,}"
        cells = (line.what, line.model, f"{line.calls:,}", f"{line.prompt_tokens:,}", out)
        table.add_row(*(Text(plain(cell)) for cell in (*cells, _price_range([line]))))
    if not lines:
        console.print("Nothing to pay: no model is called over an API.")
        return
    console.print(table)
    if len(lines) > 1:
        console.print(f"Total: {_price_range(lines)} USD. The low end takes answers as long as the")
        console.print("gold replies; the high end is every answer at --max-tokens.")


def _price_range(lines: Sequence[Line]) -> str:
    lows = [line.price_low for line in lines]
    highs = [line.price_high for line in lines]
    if None in lows or None in highs:
        return "unknown"
    return f"{sum(filter(None, lows)):.2f} to {sum(filter(None, highs)):.2f}"


def _scores(summaries: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Scores: mean of persona means [95% interval], coverage", summaries)
    for judge, dimension in _rows(summaries):
        cells = [_judged(summary, judge, dimension) for summary in summaries]
        table.add_row(_label(judge, dimension), *cells)
        _add_calibrated(table, summaries, judge, dimension)
    table.add_row("composite", *(_estimate(summary["composite"]) for summary in summaries))
    table.add_row("emotion macro-F1", *map(_macro_f1, summaries))
    return table


def _add_calibrated(
    table: Table, summaries: Sequence[Mapping[str, Any]], judge: str, dimension: str
) -> None:
    """A further row where some summary has calibrated scores of the dimension."""
    found = [s["judges"].get(judge, {}).get("calibrated", {}).get(dimension) for s in summaries]
    if any(found):
        label = _label(judge, dimension).append(" (calibrated)")
        table.add_row(label, *(_estimate(one) if one else _MISSING for one in found))


def _rows(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    rows: dict[tuple[str, str], None] = {}
    for summary in summaries:
        for judge, numbers in summary["judges"].items():
            asked = numbers.get("flags", {})
            rows.update({(judge, d): None for d in numbers["dimensions"] if d not in asked})
    return list(rows)


def _flags(summaries: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Turns with something wrong, coverage, and the first of them", summaries)
    for judge, dimension in _flag_rows(summaries):
        cells = [_flagged(summary["judges"].get(judge, {}), dimension) for summary in summaries]
        table.add_row(_label(judge, dimension), *cells)
    return table


def _flag_rows(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The yes/no questions of all judges."""
    rows: dict[tuple[str, str], None] = {}
    for summary in summaries:
        for judge, numbers in summary["judges"].items():
            rows.update({(judge, dimension): None for dimension in numbers.get("flags", {})})
    return list(rows)


def _flagged(numbers: Mapping[str, Any], dimension: str) -> Text | str:
    """`2 of 40 (100%): d1/0, d3/2`."""
    from rich.text import Text

    turns = numbers.get("flags", {}).get(dimension)
    if turns is None:
        return _MISSING
    found = numbers["dimensions"][dimension]
    shown = ", ".join(turns[:_FEW_TURNS]) + (", …" if len(turns) > _FEW_TURNS else "")
    counted = f"{len(turns)} of {found['scored']} ({found['coverage']:.0%})"
    return Text(plain(f"{counted}: {shown}" if turns else counted))


def _label(judge: str, dimension: str) -> Text:
    from rich.text import Text

    return Text(plain(f"{judge}: {dimension}" if judge != dimension else judge))


def _judged(summary: Mapping[str, Any], judge: str, dimension: str) -> str:
    numbers = summary["judges"].get(judge, {})
    found = numbers.get("dimensions", {}).get(dimension)
    mark = f" {_DRIFTED}" if (numbers.get("drift") or {}).get("warning") else ""
    return _MISSING if found is None else _estimate(found) + mark


def _estimate(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return f"{_MISSING} (0%)"
    interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['mean']:.3f}{interval} ({value['coverage']:.0%})"


def _macro_f1(summary: Mapping[str, Any]) -> str:
    emotion = summary["emotion"]
    return _MISSING if emotion is None else f"{emotion['macro_f1']:.3f}"


def _replies(summaries: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Replies", summaries)
    for name, cell in (
        ("turns", lambda s: f"{s['turns']['answered']} of {s['turns']['planned']}"),
        ("status", lambda s: _counts(s["turns"]["by_status"])),
        ("malformed", _malformed),
        ("problems", lambda s: _counts(s["format"]["problems"])),
        ("model tokens in / out", _tokens),
        ("price (model + judges)", _price),
        ("seconds a reply, p50 / p95", _latency),
    ):
        table.add_row(name, *map(cell, summaries))
    if any("shortened" in summary["turns"] for summary in summaries):
        counts = (str(summary["turns"].get("shortened", 0)) for summary in summaries)
        table.add_row("history shortened", *counts)
    return table


def _counts(counts: Mapping[str, int]) -> str:
    top = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{name} {number}" for name, number in top[:4])
    return (shown + (", …" if len(top) > 4 else "")) or _MISSING


def _malformed(summary: Mapping[str, Any]) -> str:
    replies, malformed = summary["format"]["replies"], summary["format"]["malformed"]
    return f"{malformed} ({malformed / replies:.1%})" if replies else _MISSING


def _tokens(summary: Mapping[str, Any]) -> str:
    usage = summary["usage"]["model"]
    if not usage["calls"]:
        return _MISSING
    return f"{usage['prompt_tokens']:,} / {usage['completion_tokens']:,}"


def _price(summary: Mapping[str, Any]) -> str:
    usage = summary["usage"]
    costs = [u["cost"] for u in (usage["model"], *usage["judges"].values())]
    known = [cost for cost in costs if cost is not None]
    return f"${sum(known):.4f}" if known else _MISSING


def _latency(summary: Mapping[str, Any]) -> str:
    latency = summary["timing"]["latency_seconds"]
    return f"{latency['p50']:.2f} / {latency['p95']:.2f}" if latency else _MISSING


def _notes(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [_selection_note(summary) for summary in summaries]
    for summary in summaries:
        notes += _composite_note(summary)
        notes += _drift_notes(summary)
        if not summary["complete"]:
            notes.append(f"{plain(summary['model'])}: this run is not complete.")
    if any("smoke" in summary["judges"] for summary in summaries):
        notes.append("smoke is a smoke test of the machinery, not a judgement: never rank by it.")
    return list(dict.fromkeys(notes))


def _selection_note(summary: Mapping[str, Any]) -> str:
    data = summary["dataset"]
    return _part_note(summary) + (
        f"{plain(str(data['name']))}: {data['turns']} turns of {data['dialogues']} dialogues over "
        f"{data['personas']} personas; rows skipped: {summary['skipped_rows']}; "
        f"protocol {summary['protocol']}."
    )


def _part_note(summary: Mapping[str, Any]) -> str:
    """Which part of a run the figures are of, where they are of a part."""
    shard = summary.get("shard")
    if shard is None:
        return ""
    numbers = f"{shard['turns']} turns of {shard['dialogues']} dialogues"
    return f"Only {part_name(shard)}, {numbers}, of a run: merge them with kardiabench merge. "


def _composite_note(summary: Mapping[str, Any]) -> list[str]:
    absent = summary["composite"]["judges_absent"]
    if not absent:
        return []
    names = plain(", ".join(absent))
    return [f"No composite: it needs the judge {names}, which did not run."]


def _drift_notes(summary: Mapping[str, Any]) -> list[str]:
    """A warning for each judge that scores the frozen anchors otherwise than for its card."""
    notes = []
    for judge, numbers in summary["judges"].items():
        found = numbers.get("drift") or {}
        if found.get("warning"):
            shifted = ", ".join(
                f"{name} by {part['shift']:+.2f} [{part['low']:+.2f}, {part['high']:+.2f}]"
                for name, part in found["dimensions"].items()
                if part["warning"]
            )
            notes.append(
                plain(
                    f"{_DRIFTED} warning: {summary['model']}: judge {judge} has drifted since its "
                    f"card was measured: {shifted} on the frozen anchors; do not compare with runs "
                    "judged before, or judge them again."
                )
            )
    return notes


def _table(title: str, summaries: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for summary in summaries:
        table.add_column(Text(plain(summary["model"])), justify="right", overflow="fold")
    return table
