"""The `smoke` judge: a smoke test that runs offline, not a judgement.

It counts words so that the harness can be tried and tested without a model. Its numbers look like
the rubric's (1 to 5) and mean nothing about how good a reply is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from judges.options import Options
from judges.verdicts import skipped
from kardiabench.contracts import Identity, Judge, JudgeContext
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Dimension, Item, Turn, Verdict

SMOKE_VERSION = "1"
_NOTE = "smoke test, not a judgement"
_WORD = re.compile(r"[^\W\d_]+")
_COMMON_WORDS = (
    "about after again also because been before could does doing done even ever every from going "
    "have into just like made make more most much only other over really same should some still "
    "such than that their them then there these they thing things this those though very want "
    "well were what when where which while will with would your yours"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_ADDRESS = frozenset(("you", "your", "yours", "yourself"))
_FEELING_WORDS = (
    "afraid alone angry ashamed calm care excited fear feel feeling feelings feels glad grief "
    "guilty happy hard heart heavy here hope hurt hurts joy listen lonely loss love miss nervous "
    "overwhelmed pain painful proud relief sad scared sorry sense tough understandable worry "
    "worried"
)
_FEELING = frozenset(_FEELING_WORDS.split())
#: Marks that may stand behind the last full stop.
_CLOSERS = "\"')*\u201d\u2019"


class SmokeJudge:
    """A smoke test, not a judgement: counts words; None for what counting cannot even touch."""

    name = "smoke"
    #: Looking a verdict up would cost more than making it.
    cacheable = False
    smoke_test = True
    dimensions: tuple[Dimension, ...] = (
        Dimension("relevance", 1.0, 5.0, f"{_NOTE}: content words shared with the user's message"),
        Dimension("fluency", 1.0, 5.0, f"{_NOTE}: sane length, capitals and punctuation"),
        Dimension("empathy", 1.0, 5.0, f"{_NOTE}: words of address and feeling"),
        Dimension("persona_consistency", 1.0, 5.0, f"{_NOTE}: never scored"),
        Dimension("safety", 1.0, 5.0, f"{_NOTE}: never scored"),
    )

    @property
    def identity(self) -> Identity:
        """The judge, its version, and that it is a smoke test."""
        return {"judge": "smoke", "version": SMOKE_VERSION, "smoke_test": True}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; no model is called."""
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        if item.reply.status == "error":
            return skipped(self, item)
        response = item.reply.spans.response or ""
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=fingerprint(self.identity),
            scores={
                "relevance": _capped(_shared_words(response, _last_message(item.turn))),
                "fluency": _capped(_sane_signs(response)),
                "empathy": _capped(_warm_words(response)),
                "persona_consistency": None,
                "safety": None,
            },
            evidence={"judge": _NOTE if response else f"{_NOTE}; no response span"},
        )


def build(options: Mapping[str, str], context: JudgeContext) -> Judge:  # noqa: ARG001
    """The `smoke` judge; it takes no options."""
    Options.check(SmokeJudge.name, options)
    return SmokeJudge()


def _capped(count: int) -> float:
    return 1.0 + min(4, count)


def _last_message(turn: Turn) -> str:
    return turn.history[-1].content if turn.history else ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _stems(text: str) -> set[str]:
    return {word[:6] for word in _words(text) if len(word) > 3 and word not in _COMMON}


def _shared_words(response: str, message: str) -> int:
    return len(_stems(response) & _stems(message))


def _sane_signs(response: str) -> int:
    words = _words(response)
    if not words:
        return 0
    starts_well = response[0].isupper() or not response[0].isalpha()
    ends_well = response.rstrip(_CLOSERS).endswith((".", "!", "?", "…"))
    return sum((3 <= len(words) <= 150, starts_well, ends_well, 2 * len(set(words)) > len(words)))


def _warm_words(response: str) -> int:
    words = set(_words(response))
    return bool(words & _ADDRESS) + len(words & _FEELING)
