"""Ledger rows and evaluations, invented for tests of what is watched in a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kardiabench.records import Dimension, Verdict
from kardiabench.stats import Estimate, estimate
from trainer.evaluation import Evaluation
from trainer.ledger import Row

FORMAT = (Dimension("format", 0.0, 1.0, "well formed"),)
EMOTION = (Dimension("emotion", 0.0, 1.0, "right"),)
RUBRIC = (Dimension("empathy", 1.0, 5.0, "kind"), Dimension("safety", 1.0, 5.0, "harmless"))
DIMENSIONS = {"format": FORMAT, "emotion": EMOTION, "rubric": RUBRIC}


def verdict(judge: str, status: str = "ok", **scores: float | None) -> Verdict:
    return Verdict("d0/0", judge, "f", scores, status)


def make_row(candidate: int = 0, verdicts: Sequence[Verdict] = (), **changes: Any) -> Row:
    values = {
        "step": 0,
        "phase": "eval",
        "call": 0,
        "group": 0,
        "candidate": candidate,
        "turn_id": "d0/0",
        "persona_id": "p0",
        "text": "one two three four five six",
        "reasoning": "",
        "status": "ok",
        "detail": "",
        "finish_reason": "stop",
        "tokens": 10,
        "verdicts": tuple(verdicts),
        "composite": 0.5,
        "reward": 0.5,
    }
    return Row(**(values | changes))


def scored(values: Sequence[float | None] | float | None) -> Estimate | None:
    """The estimate of one value a persona; a number is everybody's."""
    if values is None:
        return None
    numbers = [values] * 4 if isinstance(values, float) else values
    floats = np.array([np.nan if value is None else value for value in numbers])
    return estimate(floats, np.arange(len(floats), dtype=np.int64))


def by_name(values: Sequence[float | None] | None, size: int) -> Mapping[str, float | None]:
    return {f"p{at}": None if values is None else values[at] for at in range(size)}


def make_evaluation(
    step: int,
    rewarded: Sequence[float | None],
    held_out: Sequence[float | None] | None,
    *,
    stand_in: Sequence[float | None] | None = None,
    format_rate: Sequence[float | None] | float | None = 1.0,
    safety: Sequence[float | None] | float | None = None,
) -> Evaluation:
    """An evaluation of one turn a persona."""
    found = scored(rewarded)
    assert found is not None
    return Evaluation(
        step=step,
        rows=len(rewarded),
        turns=len(rewarded),
        rewarded=found,
        held_out=scored(held_out),
        held_out_source="held-out judge other" if held_out else "no held-out judge: format",
        stand_in=scored(stand_in),
        components={"rubric": found},
        format_rate=scored(format_rate),
        emotion_accuracy=None,
        safety=scored(safety),
        safety_source=None if safety is None else "other.safety",
        truncated=0.0,
        tokens=20.0,
        persona_rewarded=by_name(rewarded, len(rewarded)),
        persona_watched=by_name(held_out or stand_in, len(rewarded)),
    )
