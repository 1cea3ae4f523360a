"""Judges of known faults, as a plugin file: `--plugin instrument_plugin.py --judge honest`.

What they read off a reply is which anchor it is. The environment may shift (`SHIFT_BY`), which
is no part of their identity: that is how a provider changes a model under its name.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path

from kardiabench.anchors import TARGETS, load_anchors
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Item, Usage, Verdict

KARDIABENCH_API = 1

NAMES = ("relevance", "fluency", "empathy", "persona_consistency", "safety")
_CALLS = count()


@cache
def _kinds() -> dict[str, str]:
    """The kind of each anchor by its response; a padded reply begins like its gold reply."""
    return {anchor.item.reply.spans.response or "": anchor.kind for anchor in load_anchors()}


def kind_of(response: str) -> str:
    known = _kinds()
    if response in known:
        return known[response]
    golds = (text for text, kind in known.items() if kind == "gold")
    return "padded" if any(response.startswith(text) for text in golds) else "other"


class KnownJudge:
    """Scores by `rule(judge, item)`; a call costs a hundredth of a dollar."""

    dimensions = tuple(Dimension(name, 1.0, 5.0, f"invented {name}") for name in NAMES)

    def __init__(self, name, rule, options: Mapping[str, str]) -> None:
        self.name, self._rule, self.options = name, rule, dict(options)
        self.identity = {"judge": name, **options}

    async def judge(self, items):
        await asyncio.sleep(float(os.environ.get("SLOWLY", "0")))
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        _note_call(item)
        usage = Usage(calls=1, cost=0.01)
        scores = self._rule(self, item)
        if isinstance(scores, str):
            empty = dict.fromkeys(NAMES)
            said = {"judge": scores}
            mark = fingerprint(self.identity)
            return Verdict(item.turn.id, self.name, mark, empty, "unparsed", said, usage)
        return Verdict(item.turn.id, self.name, fingerprint(self.identity), scores, usage=usage)


class OrderedJudge(KnownJudge):
    orders = ("fixed", "reversed", "shuffled")


def honest(judge: KnownJudge, item: Item) -> dict[str, float]:
    kind = kind_of(item.reply.spans.response or "")
    noise = random.Random(f"{judge.options.get('seed', 0)} {next(_CALLS)}")
    scores = {}
    for name in NAMES:
        true = 2.0 if TARGETS.get(kind) == name else 4.2
        true += float(os.environ.get("SHIFT_BY", "0"))
        scores[name] = min(5.0, max(1.0, true + noise.gauss(0, 0.3)))
    return scores


def lengthy(_: KnownJudge, item: Item) -> dict[str, float]:
    words = len((item.reply.spans.response or "").split())
    return dict.fromkeys(NAMES, min(5.0, 1 + words / 20))


def four(_: KnownJudge, __: Item) -> dict[str, float]:
    return dict.fromkeys(NAMES, 4.0)


def nonsense(_: KnownJudge, item: Item) -> str:
    return f"the moon is made of {item.turn.id}"


def failing(judge: KnownJudge, item: Item) -> dict[str, float] | str:
    """Honest, but says nothing of unsafe replies."""
    said = honest(judge, item)
    return "I had rather not" if kind_of(item.reply.spans.response or "") == "unsafe" else said


def ordered(judge: KnownJudge, item: Item) -> dict[str, float]:
    """What it is asked for first gets half a level less."""
    order = judge.options.get("order", "shuffled")
    if order not in OrderedJudge.orders:
        raise ConfigError(f"order {order!r}")
    first = {"fixed": NAMES[0], "reversed": NAMES[-1]}.get(order)
    return {n: s - 0.5 * (n == first) for n, s in honest(judge, item).items()}


def partial_to_gpt(judge: KnownJudge, item: Item) -> dict[str, float]:
    """Adds what its option `love` says to replies that were made by a GPT."""
    love = float(judge.options.get("love", "0"))
    by_gpt = "GPT" in (item.reply.spans.response or "")
    return {n: min(5.0, s - 0.8 + love * by_gpt) for n, s in honest(judge, item).items()}


class PairJudge(KnownJudge):
    """Prefers the reply that it sees first by a fifth of the scale."""

    dimensions = (Dimension("preference", 0.0, 1.0, "against the gold reply"),)

    def _verdict(self, item: Item) -> Verdict:
        true = 0.5 if kind_of(item.reply.spans.response or "") == "gold" else 0.35
        parts = {
            "first": {"preference": true + 0.2},
            "second": {"preference": true - 0.2},
        }
        mark = fingerprint(self.identity)
        return Verdict(item.turn.id, self.name, mark, {"preference": true}, parts=parts)


def _note_call(item: Item) -> None:
    """A line for each judgement in the file that `CALLS_IN` names."""
    if log := os.environ.get("CALLS_IN"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(json.dumps([item.turn.id, item.reply.spans.response]) + "\n")


RULES = {
    "honest": (KnownJudge, honest),
    "lengthy": (KnownJudge, lengthy),
    "four": (KnownJudge, four),
    "nonsense": (KnownJudge, nonsense),
    "failing": (KnownJudge, failing),
    "ordered": (OrderedJudge, ordered),
    "partial": (KnownJudge, partial_to_gpt),
    "pairs": (PairJudge, None),
}


@hookimpl
def register_judges(register):
    for name, (kind, rule) in RULES.items():
        register(name, lambda options, context, n=name, k=kind, r=rule: k(n, r, options))
