"""The `brevity` judge: whether a response keeps within a word budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kardiabench.contracts import Identity, JudgeContext
from kardiabench.errors import ConfigError, did_you_mean
from kardiabench.fingerprints import fingerprint
from kardiabench.records import Dimension, Item, Verdict, VerdictStatus, missing_scores

#: Raise it when the same reply would be scored differently: it is part of the fingerprint.
VERSION = "1"
DEFAULT_WORDS = 30


@dataclass
class BrevityJudge:
    """Scores 1 for a response of at most `words` words, falling to 0 at twice as many."""

    words: int = DEFAULT_WORDS
    name: str = "brevity"
    dimensions: tuple[Dimension, ...] = (
        Dimension("brevity", 0.0, 1.0, "The response keeps within the word budget."),
    )

    @property
    def identity(self) -> Identity:
        """Everything that decides the verdicts: runs compare only where it is equal."""
        return {"judge": "brevity", "version": VERSION, "words": self.words}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order."""
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        if item.reply.status == "error":  # nothing was said: there is nothing to score
            return self._of(item, missing_scores(self.dimensions), "no reply", "skipped")
        count = len((item.reply.spans.response or "").split())
        note = f"{count} words, budget {self.words}"
        return self._of(item, {"brevity": self._score(count)}, note)

    def _of(
        self,
        item: Item,
        scores: Mapping[str, float | None],
        note: str,
        status: VerdictStatus = "ok",
    ) -> Verdict:
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=fingerprint(self.identity),
            scores=scores,
            status=status,
            evidence={"judge": note},
        )

    def _score(self, count: int) -> float:
        if count == 0:
            return 0.0  # the model gave no response: that is its failure, not a missing judgement
        return max(0.0, min(1.0, 2.0 - count / self.words))


def build(options: Mapping[str, str], context: JudgeContext) -> BrevityJudge:  # noqa: ARG001
    """Make the judge from what stands after its name: `brevity:words=25`."""
    for name in options:
        if name != "words":
            hint = did_you_mean(name, ["words"])
            raise ConfigError(f"judge 'brevity' has no option {name!r}: {hint}")
    text = options.get("words", str(DEFAULT_WORDS))
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"judge 'brevity': words={text!r} must be a whole number, 1 to 10000")
    return BrevityJudge(words=int(text))
