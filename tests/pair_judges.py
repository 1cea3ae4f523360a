"""Pairwise judges of known behaviour, as a plugin file: `--plugin pair_judges.py --judge longer`.

Every judgement on a reply with the word MARKER adds a line to `asked.txt` where the command runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Item, Usage, Verdict
from kardiabench.spans import parse_spans

KARDIABENCH_API = 1

#: The preference for the reply when it is shown first, and when it is shown second.
Rule = Callable[[int, int], tuple[float, float]]

RULES: Mapping[str, Rule] = {
    "longer": lambda ours, theirs: ((1 + (ours > theirs) - (ours < theirs)) / 2,) * 2,
    "firstly": lambda ours, theirs: (1.0, 0.0),
    "even": lambda ours, theirs: (0.5, 0.5),
}


class PairJudge:
    dimensions = (Dimension("preference", 0.0, 1.0, "better than its rival"),)
    calls_per_item = 2

    def __init__(self, name: str, rule: Rule, options: Mapping[str, str]) -> None:
        self.name, self._rule, self.identity = name, rule, {"judge": name, **options}

    async def judge(self, items):
        await asyncio.sleep(float(os.environ.get("SLOWLY", "0")))
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        ours = item.reply.spans.response or ""
        theirs = parse_spans(item.turn.gold).response or ""
        if "MARKER" in item.reply.text:
            with Path("asked.txt").open("a") as file:
                file.write(f"{item.turn.id}\n")
        if os.environ.get("FAIL_ON", "-") in ours + theirs:
            return self._answer(item, None, {}, status="unparsed")
        places = dict(
            zip(("first", "second"), self._rule(*map(_words, (ours, theirs))), strict=True)
        )
        parts = {place: {"preference": score} for place, score in places.items()}
        return self._answer(item, sum(places.values()) / 2, parts)

    def _answer(self, item, score, parts, **status) -> Verdict:
        return Verdict(
            item.turn.id,
            self.name,
            fingerprint(self.identity),
            {"preference": score},
            evidence={"judge": f"EVIDENCE on {item.reply.text}"},
            usage=Usage(calls=2, cost=0.01),
            parts=parts,
            **status,
        )


def _words(text: str) -> int:
    return len(text.split())


@hookimpl
def register_judges(register):
    for name, rule in RULES.items():
        register(name, lambda options, context, n=name, r=rule: PairJudge(n, r, options))
