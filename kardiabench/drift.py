"""Drift: what a run's judges said of the frozen anchors, against what they said for their cards.

A provider may change a model under an unchanged name, and then the same fingerprint stands for
another instrument. `anchoring` asks, this reads and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.anchors import Anchor, anchors_fingerprint, load_anchors
from kardiabench.cards import card_note, kept_card
from kardiabench.checks import shifts
from kardiabench.manifests import Manifest
from kardiabench.own_family import codes
from kardiabench.records import Dimension, Verdict
from kardiabench.scoring import JUDGED
from kardiabench.store import ANCHORS, iterate_verdicts, reply_digest

LEAST_TURNS = 200


@dataclass
class AnchorVerdicts:
    """The last verdict of each judge, by its fingerprint, on each anchor, by its id."""

    by_judge: dict[str, dict[str, Verdict]] = field(default_factory=dict)

    def of(self, mark: str) -> Mapping[str, Verdict]:
        """Those of the judge with the fingerprint `mark`."""
        return self.by_judge.get(mark, {})


def read_anchor_verdicts(run: Path) -> AnchorVerdicts:
    """What the run directory has; verdicts on anchors of another version are passed over."""
    found = AnchorVerdicts()
    if not (run / ANCHORS).exists():  # most runs: reading the anchors takes a while
        return found
    names = {_place(anchor): anchor.id for anchor in load_anchors()}
    for line in iterate_verdicts(run, ANCHORS):
        anchor = names.get((line.verdict.turn_id, line.reply_digest))
        if anchor is not None:
            found.by_judge.setdefault(line.verdict.fingerprint, {})[anchor] = line.verdict
    return found


def instruments(
    run: Path, manifest: Manifest, dimensions: Mapping[str, Sequence[Dimension]]
) -> dict[str, dict[str, Any]]:
    """For each judge the summary's `card` and `drift`, null where there is none."""
    verdicts = read_anchor_verdicts(run)
    marks = {
        judge: described["fingerprint"]
        for judge, described in manifest["protocol"]["scorer"]["judges"].items()
    }
    return {
        judge: _instrument(run, judge, verdicts.of(mark), kept_card(run, judge, mark), scales)
        for judge, scales in dimensions.items()
        for mark in (marks[judge],)
    }


def _instrument(
    run: Path,
    judge: str,
    verdicts: Mapping[str, Verdict],
    card: Mapping[str, Any] | None,
    dimensions: Sequence[Dimension],
) -> dict[str, Any]:
    return {
        "card": None if card is None else card_note(run, judge, card),
        "drift": drift(verdicts, card, dimensions) if verdicts else None,
    }


def drift(
    verdicts: Mapping[str, Verdict],
    card: Mapping[str, Any] | None,
    dimensions: Sequence[Dimension],
) -> dict[str, Any]:
    """The shift of each dimension since the judge's card was measured.

    Mean over the anchors of the score now less the card's mean, with the base turn as the cluster
    (paired t test, Holm over dimensions). A warning is a shift that is significant and at least a
    fortieth of the range: 0.10 on a scale of 1 to 5. A failed judgement is missing coverage.
    """
    anchors = load_anchors()
    scored = sum(verdict.status in JUDGED for verdict in verdicts.values())
    figures = {
        "fingerprint": anchors_fingerprint(),
        "anchors": len(anchors),
        "scored": scored,
        "coverage": scored / len(anchors),
    }
    reason = _incomparable(card)
    if reason is not None or card is None:
        return figures | {"compared": False, "reason": reason, "warning": False, "dimensions": {}}
    differences = _differences(anchors, verdicts, card["anchors"]["scores"], dimensions)
    parts = shifts(differences, codes([anchor.item.turn.id for anchor in anchors]), dimensions)
    shown = {name: _shown(part) for name, part in parts.items()}
    return figures | {
        "compared": True,
        "reason": None,
        "warning": any(part["warning"] for part in shown.values()),
        "dimensions": shown,
    }


def _incomparable(card: Mapping[str, Any] | None) -> str | None:
    if card is None:
        return "the judge has no card (kardiabench judges check measures one)"
    section = card.get("anchors")
    if not isinstance(section, Mapping) or not isinstance(section.get("scores"), Mapping):
        return "the judge's card has no scores of the anchors"
    if section.get("fingerprint") != anchors_fingerprint():
        return "the judge's card was measured with other anchors"
    return None


def _differences(
    anchors: Sequence[Anchor],
    verdicts: Mapping[str, Verdict],
    before: Mapping[str, Any],
    dimensions: Sequence[Dimension],
) -> Any:
    """(anchors, dimensions), now less before, NaN where one of them is missing."""
    rows = [
        [
            _difference(verdicts.get(anchor.id), before.get(anchor.id), dimension.name)
            for dimension in dimensions
        ]
        for anchor in anchors
    ]
    return np.array(rows, dtype=np.float64)


def _difference(now: Verdict | None, before: Any, dimension: str) -> float | None:
    then = before.get(dimension) if isinstance(before, Mapping) else None
    mean = then.get("mean") if isinstance(then, Mapping) else None
    score = now.scores.get(dimension) if now is not None else None
    return score - mean if score is not None and isinstance(mean, int | float) else None


def _shown(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "shift": part["mean"],
        "low": part["low"],
        "high": part["high"],
        "p": part["p"],
        "p_holm": part["p_holm"],
        "anchors": part["pairs"],
        "turns": part["clusters"],
        "warning": part["result"] == "found",
    }


def _place(anchor: Anchor) -> tuple[str, str]:
    return anchor.item.turn.id, reply_digest(anchor.item.reply)
