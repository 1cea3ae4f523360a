"""The rubric judge with a real, very small language model: how often its answers can be read.

    python benchmarks/real_judge.py                     # the whole table, about an hour on 2 cores
    python benchmarks/real_judge.py --items 6 --only schema

Needs what `make test-real-model` installs. Anchors of all kinds (gold and degraded replies) are
judged with Gemma 3 270M, a base model that was never taught to chat: the figures say what the
prompt, the reader and the repair do with answers that nobody scripted, not what a judge worth using
would score. Intervals are Wilson's, 95%.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statsmodels.stats.proportion import proportion_confint

from kardiabench.anchors import load_anchors
from kardiabench.bench import open_bench, run
from kardiabench.records import Item, Verdict

ROOT = Path(__file__).resolve().parent.parent
MAX_TOKENS = 250
#: Coprime to the six kinds of anchors: every kind and many turns are met.
STEP = 7
#: What is said of an answer that could not be read, and its name here; the first that fits counts.
PROBLEMS = {
    "not the nonce": "wrong nonce",
    "placeholder of the form was copied": "form copied",
    "cut off": "cut off",
    "disagree": "several verdicts",
    "no complete JSON": "no JSON",
    "": "not the schema",
}


@dataclass(frozen=True)
class Condition:
    """One way to ask. `share` of the items are judged: free answers take long."""

    name: str
    constrained: bool
    options: str
    share: float = 1.0


CONDITIONS = (
    Condition("schema, greedy", True, "temperature=0"),
    Condition("schema, temperature 1", True, "temperature=1,seed=1"),
    Condition("schema, temperature 1, no nonce", True, "temperature=1,seed=1,fence=none"),
    Condition("schema, greedy, fixed order", True, "temperature=0,order=fixed"),
    Condition("schema, greedy, a call a dimension", True, "temperature=0,calls=each", 0.5),
    Condition("free, greedy", False, "temperature=0", 0.5),
    Condition("free, temperature 1", False, "temperature=1,seed=1", 0.5),
    Condition("free, greedy, a call a dimension", False, "temperature=0,calls=each", 0.25),
)
HEADINGS = (
    "asked how", "items", "read at once", "after repair", "in part", "not read", "all read, 95%",
    "why not", "quotes that stand in the reply", "different verdicts",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """The verdicts on some items, each asked about in `calls` requests if none is repaired."""

    items: Sequence[Item]
    verdicts: Sequence[Verdict]
    calls: int

    def outcomes(self) -> Counter[str]:
        """How many verdicts were read at once, after repair, in part, or not."""
        return Counter(self._outcome(verdict) for verdict in self.verdicts)

    def problems(self) -> Counter[str]:
        """Why verdicts failed."""
        notes = [v.evidence["judge"] for v in self.verdicts if v.status not in ("ok", "partial")]
        return Counter(next(PROBLEMS[sign] for sign in PROBLEMS if sign in note) for note in notes)

    def quotes(self) -> tuple[int, int]:
        """How many pieces of evidence stand word for word in the response, and of how many."""
        pairs = zip(self.items, self.verdicts, strict=True)
        found = [
            _quoted(verdict.evidence[name], item)
            for item, verdict in pairs
            for name, score in verdict.scores.items()
            if score is not None
        ]
        return sum(found), len(found)

    def different(self) -> int:
        """How many sets of scores there are among those that were read."""
        return len({tuple(v.scores.items()) for v in self.verdicts if v.status == "ok"})

    def _outcome(self, verdict: Verdict) -> str:
        if verdict.status != "ok":
            return "partial" if verdict.status == "partial" else "failed"
        return "at once" if verdict.usage.calls == self.calls else "repaired"


def _quoted(evidence: str, item: Item) -> bool:
    return bool(evidence) and evidence in (item.reply.spans.response or "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--only", default="", help="conditions whose name begins so")
    chosen = parser.parse_args()
    print(row(HEADINGS), row(["---"] * len(HEADINGS)), sep="\n", flush=True)
    anchors = [anchor.item for anchor in load_anchors()[::STEP][: chosen.items]]
    wanted = [one for one in CONDITIONS if one.name.startswith(chosen.only)]
    for constrained in (True, False):
        conditions = [one for one in wanted if one.constrained is constrained]
        if conditions:
            with server(constrained=constrained) as url:
                for condition in conditions:
                    some = anchors[: max(1, round(condition.share * len(anchors)))]
                    print(row(cells(condition, judged(url, condition, some))), flush=True)


@contextmanager
def server(*, constrained: bool) -> Iterator[str]:
    """The local model's server as a process of its own; gives its base URL."""
    command = [sys.executable, str(ROOT / "tests" / "local_model_server.py")]
    command += ["--constrained"] if constrained else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def judged(url: str, condition: Condition, items: Sequence[Item]) -> Judged:
    """Ask the rubric judge about `items` in the way of `condition`."""
    bench = open_bench(quiet=True)
    where = f"model=openai/gemma,api_base={url},concurrency=1,timeout=3600"
    judge: Any = bench.make(f"rubric:{where},max_tokens={MAX_TOKENS},{condition.options}")
    return Judged(items, run(bench, lambda: judge.judge(items)), judge.calls_per_item)


def cells(condition: Condition, result: Judged) -> list[str]:
    """One row of the table."""
    total, outcomes = len(result.items), result.outcomes()
    read = outcomes["at once"] + outcomes["repaired"]
    low, high = proportion_confint(read, total, method="wilson")
    found, quoted = result.quotes()
    return [
        condition.name,
        str(total),
        *(str(outcomes[name]) for name in ("at once", "repaired", "partial", "failed")),
        f"{read / total:.0%} ({low:.0%} to {high:.0%})",
        ", ".join(f"{count} {why}" for why, count in result.problems().most_common()) or "-",
        f"{found} of {quoted}",
        str(result.different()),
    ]


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
