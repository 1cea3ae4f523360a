"""A tiny model that learns: SFT, then GRPO, as a user would have them, in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_policy
import torch

from trainer.ledger import LEDGER, Row, iterate_rows
from trainer.log import LOG, read_log
from trainer.recipe_files import load_stage
from trainer.stages import run_stage

PLUGIN = Path(__file__).with_name("reward_plugin.py")


@dataclass(frozen=True)
class Learned:
    """What a training left behind."""

    folder: Path

    @property
    def rows(self) -> list[Row]:
        """The candidates that were trained on."""
        return [row for row in iterate_rows(self.folder / LEDGER) if row.phase == "train"]

    @property
    def log(self) -> list[dict[str, Any]]:
        """TRL's lines about training steps, in order."""
        return [line for line in read_log(self.folder / LOG) if "reward" in line]

    def mean(self, name: str, steps: slice) -> float:
        """The mean of a logged number over some steps."""
        values = [line[name] for line in self.log[steps]]
        return sum(values) / len(values)


def fine_tune(folder: Path, *, special_tags: bool, seed: int, **rows_made: int) -> Path:
    """A tiny policy after 60 steps of SFT; its rows lie beside it."""
    model = tiny_policy.build_policy(folder / "model", special_tags=special_tags, seed=seed)
    rows = tiny_policy.write_rows(folder / "rows", **rows_made)
    given = [f"model={model}", f"data.dataset={rows}", f"output={folder / 'sft'}", f"seed={seed}"]
    return run(load_stage("sft", "sft-tiny", given))


def reinforce(folder: Path, model: Path, *overrides: str) -> Learned:
    """GRPO from `model` on the rows in `folder`."""
    output = folder / "grpo"
    given = [f"model={model}", f"data.dataset={folder / 'rows'}", f"output={output}", *overrides]
    run(load_stage("grpo", "grpo-tiny", given))
    return Learned(output)


def drill(folder: Path, *, seed: int = 0, stop: bool = False) -> Path:
    """A policy is rewarded by a judge that can be gamed, and watched by one that cannot."""
    model = fine_tune(folder, special_tags=True, seed=seed, personas=16, dialogues=128)
    output = folder / "drill"
    given = [
        *(f"model={model}", f"data.dataset={folder / 'rows'}", f"output={output}", f"seed={seed}"),
        *(f"plugins=[{PLUGIN}]", "judging.judges=[flattered]", "judging.weights={flattered: 1}"),
        *("held_out.judges=[careful]", "held_out.personas=8", "held_out.dialogues=64"),
        *("learning_rate=2e-4", "eval_every=10", "best.format_floor=0.5"),
        f"alarm.stop={str(stop).lower()}",
    ]
    run(load_stage("grpo", "grpo-tiny", given))
    return output


def run(stage: Any) -> Path:
    """Run a stage on one thread, which is faster for a model of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_stage(stage, quiet=True)
    finally:
        torch.set_num_threads(threads)
