"""Judges that attacks move, or not, as a plugin file: `--plugin attack_plugin.py --judge gullible`.

Gold replies are at 4, the replies that the suite attacks at 2 in one dimension and 4 in the others,
or at 2 throughout where they say nothing. Noise is `noise` levels (normal), seeded by the call.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from kardiabench.anchors import TARGETS
from kardiabench.attacks import bases_of, golds, load_suite
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Item, Usage, Verdict

KARDIABENCH_API = 1

NAMES = ("relevance", "fluency", "empathy", "persona_consistency", "safety")


@cache
def clean_replies() -> dict[str, str]:
    """Every honest text: what it is worse in, or `gold`, or `empty`."""
    bases = {b.item.reply.text: TARGETS.get(b.kind, b.kind) for b in bases_of(load_suite())}
    return bases | {gold.item.reply.text: "gold" for gold in golds()}


@cache
def families() -> dict[str, tuple[str, str]]:
    """The family of every attacked reply, and the text of its clean twin."""
    return {c.item.reply.text: (c.family, c.base.item.reply.text) for c in load_suite()}


class Known:
    """Sees what a reply is worth, and answers with it, unless `rule` says otherwise."""

    dimensions = tuple(Dimension(name, 1.0, 5.0, f"invented {name}") for name in NAMES)

    def __init__(self, name: str, rule, options: Mapping[str, str]) -> None:
        self.name, self._rule, self.options = name, rule, dict(options)
        self.identity = {"judge": name, **options}
        self._asked: Counter[str] = Counter()

    async def judge(self, items):
        await asyncio.sleep(float(os.environ.get("SLOWLY", "0")))
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        if log := os.environ.get("CALLS_IN"):
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(json.dumps([self.options, item.reply.text]) + "\n")
        scores = self._rule(self, item)
        mark, usage = fingerprint(self.identity), Usage(calls=1, cost=0.01)
        if isinstance(scores, str):
            missing, said = dict.fromkeys(NAMES), {"judge": scores}
            return Verdict(item.turn.id, self.name, mark, missing, "refused", said, usage)
        return Verdict(item.turn.id, self.name, mark, scores, usage=usage)

    def honest(self, item: Item) -> dict[str, float]:
        """The levels of the clean twin with noise, whole."""
        text = item.reply.text
        worth = clean_replies().get(families().get(text, ("", text))[1], "gold")
        self._asked[text] += 1
        noise = random.Random(f"{sorted(self.options.items())}{text}{self._asked[text]}")
        size = float(self.options.get("noise", "0.25"))
        levels = {name: 2.0 if worth in (name, "empty") else 4.0 for name in NAMES}
        said = {name: round(level + noise.gauss(0, size)) for name, level in levels.items()}
        return {name: float(min(5, max(1, score))) for name, score in said.items()}


class Defended(Known):
    """Its defences can be taken off."""

    undefended = "fence=none"


def is_attack(item: Item) -> bool:
    return item.reply.text in families()


def honest(judge: Known, item: Item):
    return judge.honest(item)


def gullible(judge: Known, item: Item):
    """5 for what the families of its option `by` ask, or all of them."""
    by = judge.options.get("by", "").split("+")
    family = families().get(item.reply.text, ("",))[0]
    moved = is_attack(item) and (by == [""] or family in by)
    return dict.fromkeys(NAMES, 5.0) if moved else judge.honest(item)


def defended(judge: Known, item: Item):
    """Gullible without its fence, and half a level harsher on empathy behind it."""
    fence = judge.options.get("fence", "nonce")
    if fence not in ("nonce", "none"):
        raise ConfigError(f"fence {fence!r}")
    if fence == "none":
        return gullible(judge, item)
    said = judge.honest(item)
    return said | {"empathy": max(1.0, said["empathy"] - 0.5)}


def four(_: Known, __: Item):
    return dict.fromkeys(NAMES, 4.0)


def filtered(judge: Known, item: Item):
    """Its provider's filter refuses every attack."""
    return "content_filter" if is_attack(item) else judge.honest(item)


def forgetful(judge: Known, item: Item):
    """Says nothing of empathy where it is attacked."""
    return judge.honest(item) | ({"empathy": None} if is_attack(item) else {})


def nonsense(_: Known, item: Item):
    return f"the moon is made of {item.turn.id}"


RULES = {
    "honest": (Known, honest),
    "gullible": (Known, gullible),
    "defended": (Defended, defended),
    "four": (Known, four),
    "filtered": (Known, filtered),
    "forgetful": (Known, forgetful),
    "nonsense": (Known, nonsense),
}


class Odd(Known):
    undefended = 7


class Coarse(Known):
    dimensions = (Dimension("kind", 0.0, 1.0, "yes or no"),)


@hookimpl
def register_judges(register):
    for name, (kind, rule) in RULES.items():
        register(name, lambda options, context, n=name, k=kind, r=rule: k(n, r, options))
    register("odd", lambda options, context: Odd("odd", four, options))
    register("coarse", lambda options, context: Coarse("coarse", four, options))
