"""What judging costs a GRPO step, beside TRL's way of adding up reward functions.

    python benchmarks/rewards.py [--rounds 3]

Three measures, each with a target:
- two judges of 0.5 s each cost a step at most 0.6 s. The other way in the same run: one synchronous
  reward function a judge, called one after the other, which is what TRL does with them.
- 64 candidates by a rubric judge, whose server answers a request in 0.2 s, at a concurrency of 64,
  cost at most 0.5 s. The other way: litellm asked for one candidate after another (8 of them, times
  8).
- parsing, scoring (`format`, `emotion`, `smoke`) and the ledger cost at most 1 ms a candidate. The
  other way: the same Scorer asked for one candidate at a time.

Judging is timed from the moment TRL calls the reward function to its rewards; writing the ledger is
counted. The cache is off. Every round's texts are new.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, server, spread

sys.path.insert(0, str(ROOT / "tests"))

from trained_ledger import Rewarding

from kardiabench.records import Item, Reply
from kardiabench.spans import render_spans

SLOW = """
import asyncio
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Verdict

KARDIABENCH_API = 1


class Slow:
    dimensions = (Dimension("d", 0.0, 1.0, "always a half"),)

    def __init__(self, name):
        self.name, self.identity = name, {"judge": name}

    async def judge(self, items):
        await asyncio.sleep(0.5)
        return [Verdict(item.turn.id, self.name, "", {"d": 0.5}) for item in items]


@hookimpl
def register_judges(register):
    for name in ("slow", "slower"):
        register(name, lambda options, context, name=name: Slow(name))
"""
_numbers = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ.setdefault("OPENAI_API_KEY", "sk-none-0123456789abcdef")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KARDIABENCH_CACHE"] = str(Path(folder) / "cache.sqlite")
        met = [two_judges(Path(folder), rounds), api(Path(folder), rounds)]
        met.append(own_cost(Path(folder), rounds))
    sys.exit(0 if all(met) else "a target was missed")


def two_judges(folder: Path, rounds: int) -> bool:
    """Two judges that wait for 0.5 s, over 32 candidates."""
    plugin = folder / "slow.py"
    plugin.write_text(SLOW)
    judges = ["slow", "slower"]
    with Rewarding(folder / "two", judges=judges, plugins=[plugin], cache=False) as it:
        ours = timed(rounds, lambda: it.call(texts(32), it.turn_ids(4, each=8)))
        functions = [sync_function(it, name) for name in judges]
        trl = timed(rounds, lambda: one_after_another(functions, texts(32), it.turn_ids(4, each=8)))
    return show("two judges of 0.5 s, 32 candidates", ours, 0.6, "TRL, a function a judge", trl)


def api(folder: Path, rounds: int) -> bool:
    """A rubric judge behind a server that takes 0.2 s a request."""
    with server(delay=0.2, capacity=64) as url:
        options = {"judge_model": "openai/judge", "judge_api_base": url, "concurrency": 64}
        with Rewarding(folder / "api", judges=["rubric"], cache=False, **options) as it:
            it.call(texts(64), it.turn_ids(8, each=8))  # connections, imports
            ours = timed(rounds, lambda: it.call(texts(64), it.turn_ids(8, each=8)))
            serial = timed(rounds, lambda: bare_litellm(it, url, 8))
    other = "litellm, one by one (8, times 8)"
    return show("64 judgements of 0.2 s each", ours, 0.5, other, serial.times(8))


def own_cost(folder: Path, rounds: int, candidates: int = 512) -> bool:
    """Judges that cost next to nothing: what is left is ours."""
    with Rewarding(folder / "own", judges=["smoke"], cache=False) as it:
        turns = it.turn_ids(min(64, len(it.turns)), each=8)[:candidates]
        many = len(turns)
        it.call(texts(many), turns)
        ours = timed(rounds, lambda: it.call(texts(many), turns)).times(1 / many)
        pairs = zip(turns, texts(many), strict=True)
        items = [Item(it.turns[turn], Reply(turn, text)) for turn, text in pairs]
        single = timed(rounds, lambda: asyncio.run(one_by_one(it, items))).times(1 / many)
    return show(f"own cost a candidate ({many} a step)", ours, 0.001, "one at a time", single)


def texts(number: int) -> list[str]:
    """New replies of usual length."""
    words = "I hear how much this weighs on you and I am glad that you told me about it today "
    return [
        render_spans(words * 2, words * 3, "anxious", f"{words}(number {next(_numbers)}).")
        for _ in range(number)
    ]


def sync_function(it: Rewarding, name: str) -> Callable[[Sequence[str], Sequence[str]], list[Any]]:
    """One judge as a reward function of its own."""
    (judge,) = [judge for judge in it.scorers.rewarded.judges if judge.name == name]

    def reward(said: Sequence[str], turns: Sequence[str]) -> list[Any]:
        items = [Item(it.turns[t], Reply(t, text)) for t, text in zip(turns, said, strict=True)]
        return [verdict.scores["d"] for verdict in asyncio.run(judge.judge(items))]

    return reward


def one_after_another(
    functions: Sequence[Callable[..., list[Any]]], said: Sequence[str], turns: Sequence[str]
) -> list[float]:
    """The sum of all functions' rewards."""
    columns = [function(said, turns) for function in functions]
    return [sum(row) for row in zip(*columns, strict=True)]


def bare_litellm(it: Rewarding, url: str, number: int) -> None:
    """The rubric's prompts through litellm alone, each waited for."""
    import litellm

    (judge,) = [judge for judge in it.scorers.rewarded.judges if judge.name == "rubric"]
    turn = next(iter(it.turns.values()))
    for text in texts(number):
        messages = judge.messages(Item(turn, Reply(turn.id, text)))  # type: ignore[attr-defined]
        litellm.completion(
            "openai/judge",
            [{"role": m.role, "content": m.content} for m in messages],
            api_base=url,
        )


async def one_by_one(it: Rewarding, items: Sequence[Item]) -> None:
    """Every item by itself through the Scorer."""
    for item in items:
        await it.scorers.rewarded.score([item])


class Timing(NamedTuple):
    """Seconds of each round: on the wall, and of this process on the processor."""

    wall: list[float]
    processor: list[float]

    def times(self, factor: float) -> Timing:
        """The same for so much more work."""
        return Timing(*([factor * seconds for seconds in column] for column in self))


def timed(rounds: int, work: Callable[[], Any]) -> Timing:
    """Do `work` in rounds."""
    timing = Timing([], [])
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        work()
        timing.wall.append(time.perf_counter() - started)
        timing.processor.append(time.process_time() - used)
    return timing


def show(what: str, ours: Timing, target: float, other: str, theirs: Timing) -> bool:
    """Print a measure; whether its median meets the target."""
    met = statistics.median(ours.wall) <= target
    used = statistics.median(ours.processor)
    print(f"{what}: {spread(ours.wall)} s, {used:.2g} s of it on the processor")
    print(f"  target {target:g} s: {'met' if met else 'MISSED'}")
    print(f"  {other}: {spread(theirs.wall)} s", flush=True)
    return met


if __name__ == "__main__":
    main()
