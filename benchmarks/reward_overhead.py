"""What texts, rewards, ledger and watching cost a step of a tiny model's training.

    python benchmarks/reward_overhead.py [--steps 100]

A model of 76,480 weights is trained by GRPO with the `format` and `emotion` judges, 32 candidates a
step, on one thread. Timed inside the training: all of our own work (prompts, replies from token
ids, waiting for the judges, the ledger, what is watched) beside the whole step as TRL counts it,
generation and update. The target is 2% of the step. A tiny model's step is the worst case: a real
one takes seconds, and ours the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import ROOT

sys.path.insert(0, str(ROOT / "tests"))

import learning

SPENT: dict[str, float] = defaultdict(float)


def timed(owner: Any, name: str, label: str) -> None:
    """Add up the seconds that a method takes, under `label`."""
    method = getattr(owner, name)

    def measured(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            SPENT[label] += time.perf_counter() - begun

    setattr(owner, name, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = learning.fine_tune(folder, special_tags=True, seed=0)
        measure()
        learning.reinforce(folder, model, f"max_steps={steps}", "save_every=1000")
    step = SPENT.pop("step")
    ours = sum(SPENT.values())
    for label, seconds in SPENT.items():
        print(f"{label:32} {1000 * seconds / steps:8.3f} ms a step")
    print(
        f"{'all of ours':32} {1000 * ours / steps:8.3f} ms, {ours / steps / 32 * 1000:.3f} ms each"
    )
    print(f"{'the step':32} {1000 * step / steps:8.3f} ms")
    print(f"share {ours / step:.1%} (target 2%)")


def measure() -> None:
    """Wrap what is ours; the first three run in the training's own thread."""
    from trainer.policy import PolicyTrainer
    from trainer.rewards import Reward
    from trainer.watching import Watching

    timed(Reward, "begin", "replies from token ids")
    timed(Reward, "cards", "waiting for the judges")
    timed(Reward, "settle", "ledger")
    timed(Watching, "trained", "watching")
    timed(PolicyTrainer, "_tokenize_prompts", "prompts")
    timed(PolicyTrainer, "training_step", "step")


if __name__ == "__main__":
    main()
