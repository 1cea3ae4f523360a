"""The `emotion` judge: whether the emotion span names the gold emotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from judges.options import Options
from judges.verdicts import clip, skipped
from kardiabench.contracts import Identity, Judge, JudgeContext
from kardiabench.emotions import match_emotion
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Dimension, Item, Verdict

EMOTION_VERSION = "1"
#: How evidence begins when the span names none of the 32 emotions.
UNMATCHED = "unmatched: "


class EmotionJudge:
    """Scores 1 when the emotion span is the turn's gold emotion (`match_emotion`), else 0.

    The evidence is the label that the reply named, or `unmatched: ` and what stood there.
    """

    name = "emotion"
    #: Looking a verdict up would cost more than making it.
    cacheable = False
    dimensions: tuple[Dimension, ...] = (
        Dimension("emotion", 0.0, 1.0, "The emotion span names the gold emotion: 1, else 0."),
    )

    @property
    def identity(self) -> Identity:
        """The judge and the version of its rule."""
        return {"judge": "emotion", "version": EMOTION_VERSION}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; no model is called."""
        mark = fingerprint(self.identity)
        return [self._verdict(item, mark) for item in items]

    def _verdict(self, item: Item, mark: str) -> Verdict:
        if item.reply.status == "error":
            return skipped(self, item)
        span = item.reply.spans.emotion
        label = match_emotion(span) if span is not None else None
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=mark,
            scores={"emotion": float(label == item.turn.gold_emotion)},
            evidence={"emotion": label or _unmatched(span)},
        )


def build(options: Mapping[str, str], context: JudgeContext) -> Judge:  # noqa: ARG001
    """The `emotion` judge; it takes no options."""
    Options.check(EmotionJudge.name, options)
    return EmotionJudge()


def _unmatched(span: str | None) -> str:
    return UNMATCHED + ("(no emotion span)" if span is None else clip(span, 80))
