"""What texts, rewards, ledger and watching cost a step of a tiny model's training.

    python benchmarks/reward_overhead.py [--steps 60]

A model of 76,480 weights is trained by GRPO, 32 candidates a step, on one thread: once with the
replies of at most 16 tokens that the learning test has, once with replies of up to 100. Timed
inside the training: all of our own work (prompts, replies from token ids, waiting for the judges,
the ledger, what is watched) beside the whole step, generation and update. The target is 2% of the
step for parsing, scoring and the ledger. So small a model is the worst case: what is ours does not
grow with the model.
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

ADAPTER = ("replies from token ids", "waiting for the judges", "ledger")
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
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    measure()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tuned = learning.fine_tune(folder, special_tags=True, seed=0)
        plain = ("judging.judges=[letters]", "judging.weights={letters: 1, format: 1, emotion: 1}")
        for tokens, model in ((16, tuned), (100, folder / "model")):
            SPENT.clear()
            given = (f"max_steps={steps}", f"max_tokens={tokens}", f"output={folder / str(tokens)}")
            plugin = f"plugins=[{learning.PLUGIN}]"
            learning.reinforce(folder, model, "save_every=1000", *given, *plain, plugin)
            show(tokens, steps)


def show(tokens: int, steps: int) -> None:
    """Print what was measured of a training."""
    step = SPENT.pop("step")
    ours = sum(SPENT.values())
    print(f"replies of up to {tokens} tokens, a step:")
    for label, seconds in SPENT.items():
        print(f"  {label:30} {1000 * seconds / steps:8.3f} ms")
    each = 1000 * ours / steps / 32
    print(f"  {'all of ours':30} {1000 * ours / steps:8.3f} ms, {each:.3f} ms a candidate")
    print(f"  {'the step':30} {1000 * step / steps:8.3f} ms")
    adapter = sum(SPENT[label] for label in ADAPTER)
    print(
        f"  share: parsing, scoring, ledger {adapter / step:.1%} (target 2%), all {ours / step:.1%}"
    )


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
