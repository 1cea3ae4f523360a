"""A run as its page shows it, from its extract and the table that it stands in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kardiabench.fingerprints import digest
from leaderboard.extract import Extract
from leaderboard.reproduction import command_of
from leaderboard.table import Table
from leaderboard.views import DriftShift, Figure, FlagView, JudgeView, RunView


def run_view(table: Table, place: int, name: str, charts: Mapping[str, str]) -> RunView:
    """The run at `place` of `table`."""
    extract = table.extracts[place]
    summary, manifest = extract.summary, extract.manifest
    turns, usage = summary["turns"], summary["usage"]
    answered = turns["answered"] - turns["by_status"].get("error", 0)  # an error is no answer
    latency = summary["timing"]["latency_seconds"] or {"p50": None, "p95": None}
    return RunView(
        id=extract.id,
        slug=extract.slug,
        model=extract.model,
        name=name,
        kind="floor" if extract.model.startswith("baseline/") else "model",
        created=str(manifest["created"]),
        version=str(manifest["kardiabench"]),
        packed=extract.packed,
        complete=bool(summary["complete"]),
        why_unranked=table.why_unranked[place],
        figures=_figures(table, place),
        turns_planned=turns["planned"],
        turns_answered=answered,
        statuses=turns["by_status"],
        problems=summary["format"]["problems"],
        malformed=_share(summary["format"]["malformed"], summary["format"]["replies"]),
        cost_per_turn=extract.cost,
        judge_cost_per_turn=extract.judge_cost,
        tokens_in_per_turn=_tokens(usage["model"], "prompt_tokens", answered),
        tokens_out_per_turn=_tokens(usage["model"], "completion_tokens", answered),
        latency_p50=latency["p50"],
        latency_p95=latency["p95"],
        judges=[_judge(extract, judge) for judge in summary["judges"]],
        flags=[_of_planned(flag, extract.planned) for flag in extract.flags],
        emotions=extract.emotions,
        variance=extract.variance,
        failures=extract.failures,
        failures_total=extract.failures_total,
        command=command_of(manifest),
        manifest=json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False),
        charts=charts,
    )


def _figures(table: Table, place: int) -> dict[str, Figure]:
    found = {metric.key: table.figure(place, metric.key) for metric in table.metrics}
    return {key: figure for key, figure in found.items() if figure is not None}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _of_planned(flag: FlagView, planned: int) -> FlagView:
    """With the coverage of all planned turns: those that have no reply were not judged either."""
    return replace(flag, coverage=flag.scored / planned if planned else 0.0)


def _tokens(usage: Mapping[str, Any], kind: str, turns: int) -> float | None:
    return usage[kind] / turns if turns and usage["calls"] else None


def _judge(extract: Extract, name: str) -> JudgeView:
    described = extract.manifest["protocol"]["scorer"]["judges"][name]
    numbers = extract.summary["judges"][name]
    drift, note = numbers["drift"], numbers["card"]
    return JudgeView(
        name=name,
        fingerprint=described["fingerprint"],
        model=_asked(described["identity"]),
        smoke_test=bool(described.get("smoke_test")),
        coverage=numbers["coverage"],
        statuses=numbers["verdicts"],
        drifted=drift["warning"] if drift and drift["compared"] else None,
        drift_note=_drift_note(drift),
        shifts=_shifts(drift),
        card=card_page(name, extract.cards[name]) if name in extract.cards else None,
        findings=note["findings"] if note else None,
    )


def card_page(judge: str, card: Mapping[str, Any]) -> str:
    """The address of a judge card's page: by its content, since two runs may keep different ones.

    Judges' names are letters, digits, `_`, `.` and `-`.
    """
    return f"judges/{judge}-{card['fingerprint']}-{digest(card, length=8)}.html"


def _asked(identity: Mapping[str, Any]) -> str | None:
    """The model that a judge asks, where its identity tells."""
    model = identity.get("model")
    if isinstance(model, Mapping):
        model = model.get("model") or model.get("name")
    return str(model) if model else None


def _drift_note(drift: Mapping[str, Any] | None) -> str:
    if drift is None:
        return "no anchors were scored"
    if not drift["compared"]:
        return str(drift["reason"])
    return f"{drift['scored']} of {drift['anchors']} anchors scored and compared with the card"


def _shifts(drift: Mapping[str, Any] | None) -> list[DriftShift]:
    parts = drift["dimensions"] if drift else {}
    return [
        DriftShift(name, part["shift"], part["low"], part["high"], part["warning"])
        for name, part in parts.items()
    ]
