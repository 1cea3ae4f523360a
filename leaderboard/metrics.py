"""What the runs of a protocol are compared on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kardiabench.manifests import Manifest
from leaderboard.views import Metric, MetricKind

COMPOSITE, ACCURACY, MACRO_F1, FORMAT = "composite", "emotion.emotion", "macro_f1", "format.format"

_KNOWN: Mapping[str, tuple[str, MetricKind]] = {
    ACCURACY: ("Emotion accuracy", "accuracy"),
    FORMAT: ("Format", "format"),
}


def metrics_of(manifest: Manifest) -> list[Metric]:
    """The metrics of a run: the composite, the emotions, every judged dimension but yes/no ones.

    A smoke test measures nothing, so its dimensions are no metrics.
    """
    scorer = manifest["protocol"]["scorer"]
    judges = {name: j for name, j in scorer["judges"].items() if not j.get("smoke_test")}
    found = [
        _metric(judge, dimension)
        for judge, described in judges.items()
        for dimension in described["dimensions"]
        if not dimension.get("flag")
    ]
    order = ("accuracy", "f1", "rubric", "other", "format")
    found.append(_macro_f1())
    found.sort(key=lambda metric: order.index(metric.kind))
    return [_composite(scorer["weights"]), *found] if _is_whole(scorer) else found


def primary(metrics: list[Metric]) -> str:
    """What a table is sorted by at first: the composite, else the accuracy, else the first."""
    keys = [metric.key for metric in metrics]
    return next((key for key in (COMPOSITE, ACCURACY) if key in keys), keys[0])


def _is_whole(scorer: Mapping[str, Any]) -> bool:
    """Whether there can be a composite: every judge with a weight is there, and none pretends."""
    judges = scorer["judges"]
    return all(
        judge in judges and not judges[judge].get("smoke_test") for judge in scorer["weights"]
    )


def _composite(weights: Mapping[str, float]) -> Metric:
    total = sum(weights.values())
    parts = " + ".join(f"{weight / total:.2g} {judge}" for judge, weight in weights.items())
    return Metric(COMPOSITE, "Composite", 0.0, 1.0, "composite", f"Weighted mean: {parts}.", 3)


def _macro_f1() -> Metric:
    description = "Mean over the gold emotions of the F1 of naming them."
    return Metric(MACRO_F1, "Emotion macro-F1", 0.0, 1.0, "f1", description, 3)


def _metric(judge: str, dimension: Mapping[str, Any]) -> Metric:
    key = f"{judge}.{dimension['name']}"
    low, high = float(dimension["low"]), float(dimension["high"])
    label, kind = _KNOWN.get(key, (_label(judge, dimension["name"]), _kind(low, high)))
    digits = 3 if high - low <= 1 else 2
    return Metric(key, label, low, high, kind, str(dimension["description"]), digits)


def _kind(low: float, high: float) -> MetricKind:
    """Whether it is on the rubric's scale, and so can stand beside it in a radar chart."""
    return "rubric" if (low, high) == (1.0, 5.0) else "other"


def _label(judge: str, dimension: str) -> str:
    words = dimension.replace("_", " ")
    label = words[:1].upper() + words[1:]
    return label if judge in ("rubric", dimension) else f"{label} ({judge})"
