"""A judge in one file, nothing to install: whether a response asks the person something.

kardiabench run --model baseline/majority --dataset sample --no-rubric \
    --plugin examples/judge_file.py --judge question
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kardiabench.contracts import Identity, JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import RegisterJudge, hookimpl
from kardiabench.records import Dimension, Item, Verdict, missing_scores

KARDIABENCH_API = 1


class QuestionJudge:
    """Scores 1 for a response with a question mark, else 0."""

    name = "question"
    dimensions: tuple[Dimension, ...] = (
        Dimension("question", 0.0, 1.0, "The response asks something: 1, else 0."),
    )

    @property
    def identity(self) -> Identity:
        """Raise the version when the same reply would be scored differently."""
        return {"judge": "question", "version": "1"}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order."""
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        answered = item.reply.status != "error"
        asks = "?" in (item.reply.spans.response or "")
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=fingerprint(self.identity),
            scores={"question": float(asks)} if answered else missing_scores(self.dimensions),
            status="ok" if answered else "skipped",
        )


def build(options: Mapping[str, str], context: JudgeContext) -> QuestionJudge:  # noqa: ARG001
    """Make the judge; it takes no options."""
    if options:
        raise ConfigError(f"judge 'question' takes no options; leave out {', '.join(options)}")
    return QuestionJudge()


@hookimpl
def register_judges(register: RegisterJudge) -> None:
    """Offer the judge. In a file of its own a factory is given as it is, not by dotted name."""
    register("question", build)
