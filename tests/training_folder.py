"""A training's folder as the trainer leaves it, written by the trainer's own writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kardiabench.records import Dimension, Verdict
from trainer.evaluation import Evaluation, evaluate_rows
from trainer.evaluations import EVALUATIONS, append
from trainer.ledger import LEDGER, Header, Ledger, Row, ledger_name
from trainer.log import LOG
from trainer.manifest import MANIFEST, make_manifest

FORMAT = (Dimension("format", 0, 1, ""),)
RUBRIC = (Dimension("empathy", 1, 5, ""), Dimension("insight", 1, 5, ""))
HONEST = (Dimension("honest", 1, 5, ""),)
#: What no page and no card may hold.
SECRET = "a person's own words"


def described(dimensions: tuple[Dimension, ...], fingerprint: str) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "identity": {"name": "x"},
        "dimensions": [
            {"name": d.name, "low": d.low, "high": d.high, "description": SECRET}
            for d in dimensions
        ],
    }


def scorers(held_out: str = "honest") -> dict[str, Any]:
    rewarded = {"format": described(FORMAT, "f" * 16), "rubric": described(RUBRIC, "b" * 16)}
    weights = {"format": 1.0, "rubric": 1.0}
    watched = {**rewarded, held_out: described(HONEST, "c" * 16)}
    return {
        "rewarded": {"judges": rewarded, "weights": weights, "missing": "mask"},
        "watched": {"judges": watched, "weights": weights, "missing": "mask"},
    }


def row(
    step: int,
    group: int,
    candidate: int,
    *,
    phase: str = "train",
    form: float = 1.0,
    empathy: float | None = 3.0,
    honest: float | None = None,
    held_out: str = "honest",
    rank: int = 0,
) -> Row:
    """A candidate; without `empathy` it has no reward."""
    rubric = {"empathy": empathy, "insight": None if empathy is None else 2.0}
    verdicts = [
        Verdict("d/1", "format", "f" * 16, {"format": form}, "ok"),
        Verdict("d/1", "rubric", "b" * 16, rubric, "error" if empathy is None else "ok"),
    ]
    if honest is not None:
        verdicts.append(Verdict("d/1", held_out, "c" * 16, {"honest": honest}, "ok"))
    part = None if empathy is None else ((empathy - 1) / 4 + 0.25) / 2
    composite = None if part is None else (form + part) / 2
    return Row(
        step=step,
        phase="eval" if phase == "eval" else "train",
        call=0,
        group=group,
        candidate=candidate,
        turn_id=f"d{group}/1",
        persona_id=f"p{group}",
        text=SECRET,
        reasoning=SECRET,
        status="ok",
        detail="",
        finish_reason="stop",
        tokens=10 + step,
        verdicts=tuple(verdicts),
        composite=composite,
        reward=composite,
        rank=rank,
    )


def training_rows(step: int, rank: int = 0) -> list[Row]:
    """Two groups of three: one whose rewards rise with the step, one without spread."""
    groups = (2 * rank, 2 * rank + 1)
    rising = [row(step, groups[0], n, empathy=1.0 + (step + n) % 5, rank=rank) for n in range(3)]
    flat = [row(step, groups[1], n, form=0.0, empathy=1.0, rank=rank) for n in range(3)]
    return [*rising, *flat]


def evaluation(
    step: int, rewarded: float, honest: float, held_out: str = "honest"
) -> tuple[list[Row], Evaluation]:
    """Replies to six personas: empathy about `rewarded`, the held-out score about `honest`."""
    rows = [
        row(
            step,
            persona,
            0,
            phase="eval",
            empathy=rewarded + 0.02 * persona,
            honest=honest + 0.03 * persona,
            held_out=held_out,
        )
        for persona in range(6)
    ]
    dimensions = {"format": FORMAT, "rubric": RUBRIC, held_out: HONEST}
    return rows, evaluate_rows(rows, dimensions, [held_out])


def recipe(**changes: Any) -> dict[str, Any]:
    from trainer.config import Grpo

    given = {"model": "Qwen/Qwen3-0.6B", "output": "out", **changes}
    return Grpo(**given).model_dump(mode="json")


def write_log(folder: Path, entries: list[dict[str, Any]]) -> None:
    (folder / LOG).write_text("".join(json.dumps(one) + "\n" for one in entries), "utf-8")


def make_folder(
    folder: Path,
    *,
    steps: int = 6,
    held_out: str = "honest",
    ranks: int = 1,
    hacked: bool = True,
    **changes: Any,
) -> Path:
    """A GRPO training of some steps with four evaluations; `hacked`: the held-out score falls."""
    folder.mkdir(parents=True, exist_ok=True)
    judges = scorers(held_out)
    data = {"fingerprint": "d" * 16, "dialogues": {"train": 12, "held_out": 6}}
    data |= {"personas": {"all": 18, "held_out": 6}}
    model = {"model": changes.get("model", "Qwen/Qwen3-0.6B"), "revision": "a1b2c3d4"}
    manifest = make_manifest(recipe(**changes), data, model, judges, processes=ranks)
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    header = Header(scorer=judges["rewarded"], settings={}, data=data, held_out=judges["watched"])
    entries: list[dict[str, Any]] = [{"resumed_at": 0}]
    for rank in range(ranks):
        with Ledger(folder / ledger_name(rank), header) as ledger:
            for step in range(steps):
                ledger.append(training_rows(step, rank))
    with Ledger(folder / LEDGER, header, resume_at=steps) as ledger:
        for number, step in enumerate((0, steps // 3, 2 * steps // 3, steps)):
            fall = -0.3 * number if hacked else 0.3 * number
            rows, found = evaluation(step, 2.0 + 0.5 * number, 3.0 + fall, held_out)
            ledger.append(rows)
            append(folder / EVALUATIONS, found)
    for step in range(1, steps + 1):
        # what TRL logs is of the candidates that were made before the step
        rewards = [one.reward for one in training_rows(step - 1) if one.reward is not None]
        reward = sum(rewards) / len(rewards)
        entries.append(
            {"step": step, "loss": 0.1, "reward": reward, "parts/format": 0.5, "kl": 0.01 * step}
        )
    write_log(folder, entries)
    return folder
