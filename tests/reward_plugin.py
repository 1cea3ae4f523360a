"""A judge for tests of the trainer, as a plugin file: the share of a reply's letters that are e's.

It is graded where an untrained model's replies differ, so that every step has something to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Item, Verdict

KARDIABENCH_API = 1


class LetterJudge:
    name = "letters"
    dimensions = (Dimension("letters", 0.0, 1.0, "The share of letters that are e's."),)

    @property
    def identity(self):
        return {"judge": "letters", "version": "1"}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        return [
            Verdict(
                turn_id=item.turn.id,
                judge=self.name,
                fingerprint="",
                scores={"letters": share(item.reply.text)},
            )
            for item in items
        ]


def share(text: str) -> float:
    letters = [letter for letter in text.lower() if letter.isalpha()]
    return letters.count("e") / len(letters) if letters else 0.0


def build(options, context):
    return LetterJudge()


@hookimpl
def register_judges(register):
    register("letters", build)
