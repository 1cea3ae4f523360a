"""`summary.json`: every number of a run, recomputed from its logs. The schema is docs/summary.md.

All of it but `timing` depends only on what is in the logs, never on their order, so a run that was
broken off and resumed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.calibration import calibrated_means, kept_calibration
from kardiabench.drift import instruments
from kardiabench.errors import RunError
from kardiabench.manifests import Manifest
from kardiabench.records import Usage
from kardiabench.results import Results, TurnResult, count, read_results
from kardiabench.scoring import JUDGED
from kardiabench.shortening import SHORTENED
from kardiabench.stats import Estimate, classification, estimate

SCHEMA_VERSION = 1


def summarise(
    path: Path, manifest: Manifest, calibration: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The summary of the run at `path`, with `calibration`, else with the one that it keeps."""
    results = read_results(path, manifest)
    check_turns(results, manifest, path)
    found = instruments(path, manifest, results.dimensions)
    return summary_of(results, manifest, found, calibration or kept_calibration(path))


def check_turns(results: Results, manifest: Manifest, path: Path) -> None:
    """Raise `RunError` when there are more turns than the manifest's dialogues have."""
    planned, held = planned_turns(manifest), len(results.turns)
    if held > planned:
        raise RunError(
            f"{path} holds replies to {held} turns, and its dataset has {planned}: "
            "its logs were edited; restore them, or start a new run"
        )


def planned_turns(manifest: Manifest) -> int:
    """The turns of the manifest's dialogues; of a part of a run, those of the part."""
    planned: int = manifest.get("shard", manifest["protocol"]["dataset"])["turns"]
    return planned


def summary_of(
    results: Results,
    manifest: Manifest,
    found: Mapping[str, Mapping[str, Any]],
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The summary of `results`: the same for a run and for a bundle of it.

    `found` has the `card` and the `drift` of every judge, as `drift.instruments` finds them.
    """
    turns, planned = list(results.turns.values()), planned_turns(manifest)
    calibrated = calibrated_means(results, calibration, manifest, planned)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": manifest["model"]["name"],
        "dataset": {**manifest["dataset"], **manifest["protocol"]["dataset"]},
        "protocol": manifest["protocol_id"],
        **({"shard": dict(manifest["shard"])} if "shard" in manifest else {}),
        "complete": is_complete(results, planned),
        "turns": _turn_counts(turns, planned),
        "skipped_rows": manifest["rows"]["skipped"],
        "emotion": _emotion(turns, planned),
        "format": _format(turns, planned),
        "judges": {
            judge: _judge(results, judge, planned)
            | dict(instrument)
            | ({"calibrated": calibrated[judge]} if judge in calibrated else {})
            for judge, instrument in found.items()
        },
        "composite": _composite(results, planned),
        "usage": _usage(results),
        "timing": _timing(turns),
    }


def is_complete(results: Results, planned: int) -> bool:
    """Whether every turn has a reply and every reply a verdict of every judge."""
    judges = set(results.dimensions)
    return len(results.turns) == planned and all(
        judges <= turn.verdicts.keys() for turn in results.turns.values()
    )


def estimate_json(value: Estimate, planned: int) -> dict[str, Any]:
    """An estimate as the summary has it, its coverage relative to all planned turns."""
    record = asdict(value) | {"total": planned}
    record["coverage"] = value.scored / planned if planned else 0.0
    return record


def _turn_counts(turns: list[TurnResult], planned: int) -> dict[str, Any]:
    shortened = sum(t.status != "error" and t.error_kind == SHORTENED for t in turns)
    return {
        "planned": planned,
        "answered": len(turns),
        "by_status": count([turn.status for turn in turns]),
        "errors_by_kind": count([turn.error_kind for turn in turns if turn.status == "error"]),
        "gold_emotion_source": count([turn.gold_source for turn in turns]),
        **({"shortened": shortened} if shortened else {}),
    }


def _emotion(turns: list[TurnResult], planned: int) -> dict[str, Any] | None:
    """Classification over the replies that a model gave; an error is nobody's answer."""
    given = [turn for turn in turns if turn.status != "error"]
    result = classification([t.gold_emotion for t in given], [t.predicted for t in given])
    return None if result is None else asdict(result) | {"coverage": len(given) / planned}


def _format(turns: list[TurnResult], planned: int) -> dict[str, Any]:
    given = [turn for turn in turns if turn.status != "error"]
    kinds = count([problem for turn in given for problem in turn.problems])
    return {
        "replies": len(given),
        "coverage": len(given) / planned if planned else 0.0,
        "malformed": sum(1 for turn in given if turn.problems),
        "problems": kinds,
        "rates": {kind: number / len(given) for kind, number in kinds.items()},
    }


def _judge(results: Results, judge: str, planned: int) -> dict[str, Any]:
    statuses = [t.verdicts[judge].status for t in results.turns.values() if judge in t.verdicts]
    personas = results.personas
    return {
        "verdicts": count(statuses),
        "coverage": sum(s in JUDGED for s in statuses) / planned if planned else 0.0,
        "dimensions": {
            dimension.name: estimate_json(estimate(results.column(judge, i), personas), planned)
            for i, dimension in enumerate(results.dimensions[judge])
        },
        **_flags(results, judge),
    }


def _flags(results: Results, judge: str) -> dict[str, Any]:
    """The turns to look at for each yes/no question: those scored below the middle, in order."""
    turns = list(results.turns)
    flags = {
        d.name: [
            turns[at] for at in np.flatnonzero(results.column(judge, i) < (d.low + d.high) / 2)
        ]
        for i, d in enumerate(results.dimensions[judge])
        if d.flag
    }
    return {"flags": flags} if flags else {}


def _composite(results: Results, planned: int) -> dict[str, Any]:
    absent = [judge for judge in results.weights if judge not in results.dimensions]
    value = estimate(results.composites, results.personas)
    return estimate_json(value, planned) | {
        "weights": dict(results.weights),
        "missing_policy": results.missing,
        "judges_absent": absent,
    }


def _usage(results: Results) -> dict[str, Any]:
    turns = results.turns.values()
    judges = {
        judge: _total(t.verdicts[judge].usage for t in turns if judge in t.verdicts)
        for judge in results.dimensions
    }
    return {"model": _total(turn.usage for turn in turns), "judges": judges}


def _total(usages: Iterable[Usage]) -> Mapping[str, Any]:
    parts = list(usages)
    costs = [part.cost for part in parts if part.cost is not None]
    # fsum is exact, so the order in which calls came back does not show in the last digit.
    return asdict(Usage.total(parts)) | {"cost": math.fsum(costs) if costs else None}


def _timing(turns: list[TurnResult]) -> dict[str, Any]:
    """Seconds a reply; the only part of the summary that two equal runs differ in."""
    latencies = [turn.latency for turn in turns if turn.latency > 0]
    if not latencies:
        return {"latency_seconds": None}
    p50, p95 = np.percentile(latencies, [50, 95])
    return {"latency_seconds": {"p50": round(float(p50), 4), "p95": round(float(p95), 4)}}
