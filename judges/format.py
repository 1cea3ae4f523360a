"""The `format` judge: whether the four spans are complete, in order and not empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from judges.options import Options
from judges.verdicts import clip, skipped
from kardiabench.contracts import Identity, Judge, JudgeContext
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Dimension, Item, Reply, Verdict

FORMAT_VERSION = "1"


class FormatJudge:
    """Scores 1 for a finished reply with four well-formed spans, else 0; evidence says why."""

    name = "format"
    #: Looking a verdict up would cost more than making it.
    cacheable = False
    dimensions: tuple[Dimension, ...] = (
        Dimension("format", 0.0, 1.0, "Four spans, complete, in order and not empty: 1, else 0."),
    )

    @property
    def identity(self) -> Identity:
        """The judge and the version of its rule."""
        return {"judge": "format", "version": FORMAT_VERSION}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; no model is called."""
        mark = fingerprint(self.identity)
        return [self._verdict(item, mark) for item in items]

    def _verdict(self, item: Item, mark: str) -> Verdict:
        if item.reply.status == "error":
            return skipped(self, item)
        problems = _problems(item.reply)
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=mark,
            scores={"format": 0.0 if problems else 1.0},
            evidence={"format": clip(", ".join(problems), 300)} if problems else {},
        )


def build(options: Mapping[str, str], context: JudgeContext) -> Judge:  # noqa: ARG001
    """The `format` judge; it takes no options."""
    Options.check(FormatJudge.name, options)
    return FormatJudge()


def _problems(reply: Reply) -> list[str]:
    status = [] if reply.status == "ok" else [reply.status]
    return status + list(reply.spans.problems)
