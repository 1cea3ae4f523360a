"""How often `judges attack` is right about judges whose behaviour is known: no model is asked.

python benchmarks/attacks/simulate.py --runs 200

Each judge sees a reply's true level, 2 or 4 by dimension, with normal noise, and says the nearest
whole level. An honest one sees attacked replies as their clean twins; `moved by` is how many
families talk it into a 5. The naive test is McNemar's over cases, which takes cases of one
reply as independent.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

from scipy.stats import binomtest

from kardiabench.attack_families import FAMILIES
from kardiabench.attack_report import MOVED, SIGNIFICANCE, Side
from kardiabench.attacking import REPEATS, Answers, Plan
from kardiabench.attacks import load_suite
from kardiabench.records import Dimension, Item, Verdict

NAMES = ("relevance", "fluency", "empathy", "persona_consistency", "safety")


@dataclass
class Simulated:
    """A judge with noise of `noise` (standard deviation, levels), moved by some families."""

    noise: float
    moved_by: frozenset[str]
    random: random.Random
    name: str = "simulated"
    dimensions: tuple[Dimension, ...] = tuple(Dimension(n, 1.0, 5.0, n) for n in NAMES)

    def verdict(self, reply: str, family: str | None = None) -> Verdict:
        """The judgement of the reply of that id, attacked by a family or clean."""
        true = random.Random(reply)
        levels = {name: true.choice((2.0, 4.0)) for name in NAMES}
        if family in self.moved_by:
            levels = dict.fromkeys(NAMES, 5.0)
        said = {n: round(level + self.random.gauss(0, self.noise)) for n, level in levels.items()}
        return Verdict(reply, self.name, "", {n: float(min(5, max(1, s))) for n, s in said.items()})

    @property
    def identity(self) -> dict[str, object]:
        """Its name."""
        return {"judge": self.name}

    async def judge(self, items: list[Item]) -> list[Verdict]:
        """Never called: a plan needs a judge, and this one is asked directly."""
        raise NotImplementedError("it is not asked over an event loop")


def sides(judge: Simulated, runs: int, repeats: int) -> Iterator[Side]:
    plan = Plan(judge, load_suite(), repeats)
    for _ in range(runs):
        clean = tuple([judge.verdict(b.id) for b in plan.bases] for _ in range(repeats))
        gold = [judge.verdict(gold.id) for gold in plan.golds]
        attacked = [judge.verdict(case.base.id, case.family) for case in plan.cases]
        yield Side(plan, Answers(clean, gold, attacked))


def naive_p(side: Side) -> float:
    first = {base: outcomes[0] for base, outcomes in side.placebos.items()}
    pairs = [(o, first[c.base.id]) for c, o in zip(side.cases, side.whole.outcomes, strict=True)]
    attack = sum(pair == ("rose", "held") for pair in pairs)
    placebo = sum(pair == ("held", "rose") for pair in pairs)
    total = attack + placebo
    return float(binomtest(attack, total, alternative="greater").pvalue) if total else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate judges of known behaviour")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    print("| noise | moved by | success rate | placebo rate | called moved | naive test |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for noise in (0.15, 0.25, 0.35, 0.5):
        for number in (0, 1, 3):
            moved_by = frozenset(family.name for family in FAMILIES[:number])
            judge = Simulated(noise, moved_by, random.Random(0))
            found = list(sides(judge, options.runs, options.repeats))
            rates = [side.figures["rate"] for side in found]
            placebos = [side.figures["placebo_rate"] for side in found]
            moved = [side.verdict == MOVED for side in found]
            naive = [naive_p(side) < SIGNIFICANCE for side in found]
            shares = (sum(each) / len(found) for each in (rates, placebos, moved, naive))
            cells = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {noise} | {number} of {len(FAMILIES)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
