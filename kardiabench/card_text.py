"""A judge card as Markdown. Names and sentences from outside are shown as text, never as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kardiabench.report import plain

_MISSING = "—"
_SMOKE = "**A smoke test, not a judgement: it tests the machinery and measures nothing.**"
_MARKS = re.compile(r"([\\`*_{}\[\]#|~$])")
#: What Markdown makes tags and links of, where no mark shows that it will.
_ENTITIES = (
    ("&", "&amp;"),
    ("<", "&lt;"),
    (">", "&gt;"),
    ("://", "&#58;//"),
    ("www.", "www&#46;"),
    ("@", "&#64;"),
)
#: Sections in this order, then whatever else was measured. The anchors' scores are for machines.
_ORDER = ("check", "attack", "calibration")
_HEAD = ("card_version", "judge", "fingerprint", "identity", "smoke_test", "dimensions")


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    blocks = [f"# Judge card: {escaped(str(card['judge']))}"]
    if card.get("smoke_test"):
        blocks.append(_SMOKE)
    blocks.append(f"Fingerprint {escaped(str(card['fingerprint']))}. All figures: card.json.")
    blocks.append(_table([_picked(d, _SCALE) for d in _maps(card.get("dimensions"))]))
    others = [name for name in card if name not in (*_ORDER, *_HEAD, "anchors")]
    for name in (*_ORDER, *others):
        if isinstance(card.get(name), Mapping):
            blocks += _section(name, card[name])
    blocks += _anchors(_map(card.get("anchors")))
    blocks += ["## Identity", _listed(_leaves(_map(card.get("identity"))))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """`text` on one line, as text: no tag, no link, no emphasis, no column of a table."""
    one_line = _MARKS.sub(r"\\\1", plain(" ".join(text.split())))
    for mark, entity in _ENTITIES:
        one_line = one_line.replace(mark, entity)
    return one_line


_SCALE = ("name", "low", "high", "description")


def _section(name: str, section: Mapping[str, Any]) -> list[str]:
    blocks = [f"## {escaped(name.replace('_', ' ').capitalize())}", _when(section)]
    return blocks + (_check(section) if name == "check" else _any(section))


def _when(section: Mapping[str, Any]) -> str:
    measured, version = section.get("measured"), section.get("kardiabench")
    return f"Measured {_cell(measured)} with kardiabench {_cell(version)}." if measured else ""


def _anchors(section: Mapping[str, Any]) -> list[str]:
    if not section:
        return []
    return [
        "## Anchors",
        _when(section),
        f"Means of {_cell(section.get('repeats'))} repeats on {len(_map(section.get('scores')))} "
        f"anchors, set {_cell(section.get('fingerprint'))}: what later scores are compared with.",
    ]


# --- the section `check` --------------------------------------------------------------------------

_EFFECT = ("mean", "low", "high", "p_holm", "pairs", "result")
_RETEST = ("alpha", "sd", "identical", "items", "result")
_SPREAD = ("lowest", "highest", "values", "at_top", "result")


def _check(section: Mapping[str, Any]) -> list[str]:
    checks = _map(section.get("checks"))
    blocks = [
        f"{_cell(section.get('judgements'))} judgements of {_cell(section.get('items'))} anchors "
        f"({_cell(section.get('bases'))} turns of {_cell(section.get('personas'))} personas) in "
        f"{_cell(section.get('repeats'))} repeats; coverage {_cell(section.get('coverage'))}.",
        _table(
            [
                {"check": name.replace("_", " "), "result": c.get("result"), "why": c.get("reason")}
                for name, c in _pairs(checks)
            ]
        ),
    ]
    blocks += ["Found:", _bullets(said)] if (said := _texts(section.get("findings"))) else []
    blocks += _titled("Test and retest", _by_name(checks, "retest", "dimensions", _RETEST))
    blocks += _titled("Spread", _by_name(checks, "spread", "dimensions", _SPREAD))
    blocks += _sensitivity(_map(checks.get("sensitivity")))
    for name in ("padding", "order", "self_preference"):
        rows = _by_name(checks, name, "dimensions", (*_EFFECT, "flips"))
        blocks += _titled(name.replace("_", " ").capitalize(), rows)
    gaps = _by_name(checks, "self_preference", "gaps", _EFFECT[:-1])
    return blocks + _titled("Own family less the others", gaps)


def _by_name(
    checks: Mapping[str, Any], check: str, part: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    parts = _map(_map(checks.get(check)).get(part))
    return [{"": name, **_picked(figures, columns)} for name, figures in _pairs(parts)]


def _sensitivity(check: Mapping[str, Any]) -> list[str]:
    """The matrix of drops: kinds of degraded replies by dimensions."""
    rows = []
    for kind, part in _pairs(_map(check.get("kinds"))):
        drops = {name: _interval(drop) for name, drop in _pairs(_map(part.get("drops")))}
        own = {"degraded": kind.replace("_", " "), "on": part.get("target")}
        rows.append(own | drops | {"seen": part.get("passed"), "only there": part.get("specific")})
    return _titled("Sensitivity: the drop from the gold reply [95% interval]", rows)


def _interval(effect: Mapping[str, Any]) -> str:
    low, high = effect.get("low"), effect.get("high")
    interval = "" if low is None or high is None else f" [{_plain(low)}, {_plain(high)}]"
    return _plain(effect.get("mean")) + interval


# --- any other section ----------------------------------------------------------------------------


def _any(section: Mapping[str, Any]) -> list[str]:
    """Figures as a list, groups of figures as tables, lists as lists."""
    said = {k: v for k, v in section.items() if k not in ("measured", "kardiabench")}
    known = {k: v for k, v in said.items() if v not in ([], {})}  # no title over nothing
    blocks = [_listed({k: v for k, v in known.items() if _is_leaf(v)})]
    for key, value in known.items():
        title = str(key).replace("_", " ").capitalize()
        if isinstance(value, list):
            rows = _maps(value)
            blocks += _titled(title, rows) if rows else [f"{escaped(title)}:", _bullets(value)]
        elif isinstance(value, Mapping):
            blocks += _group(title, value)
    return blocks


def _group(title: str, group: Mapping[str, Any]) -> list[str]:
    inner = _pairs(group)
    if not inner:
        return [f"### {escaped(title)}", _listed(_leaves(group))]
    return _titled(title, [{"": name, **_leaves(value)} for name, value in inner])


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The figures in `value`, those of a group within it under `group.name`."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, Mapping):
            flat |= _leaves(inner, name)
        elif _is_leaf(inner):
            flat[name] = inner
    return flat


# --- Markdown -------------------------------------------------------------------------------------


def _titled(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"### {escaped(title)}", _table(rows)] if rows else []


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[escaped(str(column)) for column in columns], ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _listed(values: Mapping[str, Any]) -> str:
    lines = (f"- {escaped(str(key).replace('_', ' '))}: {_cell(v)}" for key, v in values.items())
    return "\n".join(lines)


def _bullets(values: Iterable[Any]) -> str:
    return "\n".join(f"- {_cell(value)}" for value in values)


def _cell(value: Any) -> str:
    return escaped(_plain(value))


def _plain(value: Any) -> str:
    if value is None or value == "":
        return _MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_leaf(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _picked(figures: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {column: figures[column] for column in columns if column in figures}


def _map(value: Any) -> Mapping[str, Any]:
    """What was edited into something else is shown as nothing."""
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _pairs(value: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(str(name), one) for name, one in value.items() if isinstance(one, Mapping)]


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
