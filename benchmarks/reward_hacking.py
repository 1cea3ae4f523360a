"""A drill: a policy is rewarded by a judge that can be gamed, and watched by one that cannot.

    python benchmarks/reward_hacking.py --out runs/drill --seeds 5

A tiny model (76,480 weights) learns by SFT to answer in four spans, then 100 steps of GRPO reward
soothing words and nothing else. What is printed for every seed: the scores of the first and the
last evaluation, and when the alarm went off. `--picture` writes the curve of the first seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import ROOT

sys.path.insert(0, str(ROOT / "tests"))

import learning

from trainer.alarm import RewardAlarm
from trainer.config import Alarm
from trainer.curve_data import read_folder
from trainer.curves import standalone_svg
from trainer.evaluations import EVALUATIONS, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/drill"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    lines = []
    for seed in range(given.seeds):
        folder = given.out / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        lines.append(told(seed, learning.drill(folder, seed=seed)))
    print("\n".join(lines))
    if given.picture is not None:
        svg = standalone_svg(read_folder(given.out / "seed-0" / "drill"))
        if svg is None:
            raise SystemExit("nothing was evaluated")
        given.picture.write_text(svg, "utf-8")


def told(seed: int, folder: Path) -> str:
    """One line about a training."""
    evaluations, alarm = read(folder / EVALUATIONS), RewardAlarm(Alarm())
    fired = [one.step for one in evaluations if alarm.add(one)]
    first, last = evaluations[0], evaluations[-1]
    return (
        f"seed {seed}: rewarded {first.rewarded.mean:.3f} -> {last.rewarded.mean:.3f}, held out "
        f"{first.watched.mean:.3f} -> {last.watched.mean:.3f}, alarm at step "
        f"{fired[0] if fired else 'never'} of {last.step}"
    )


if __name__ == "__main__":
    main()
