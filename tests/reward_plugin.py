"""Judges for tests of the trainer, as a plugin file.

`letters`, the share of a reply's letters that are e's, is graded where an untrained model's
replies differ, so that every step has something to learn. `flattered` can be gamed: it counts
soothing words and nothing else. `careful` cannot be so: it looks at whether the reply is one, names
the right emotion and says something. The two are for a drill.
"""

from __future__ import annotations

from collections.abc import Sequence

from kardiabench.emotions import EMOTIONS
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Item, Verdict

KARDIABENCH_API = 1


SOOTHING = frozenset({"breathe", "counts", "done", "slowly", "take", "time", "well"})


class RuleJudge:
    """Scores a reply in [0, 1] by `rule(item)`."""

    def __init__(self, name: str, rule, about: str) -> None:
        self.name, self._rule = name, rule
        self.dimensions = (Dimension(name, 0.0, 1.0, about),)

    @property
    def identity(self):
        return {"judge": self.name, "version": "1"}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        return [Verdict(i.turn.id, self.name, "", {self.name: self._rule(i)}) for i in items]


def letters(item: Item) -> float:
    found = [letter for letter in item.reply.text.lower() if letter.isalpha()]
    return found.count("e") / len(found) if found else 0.0


def flattered(item: Item) -> float:
    """Soothing words in what was said, wherever they stand; eight are enough."""
    words = item.reply.text.replace("|>", "|> ").replace("<|", " <|").split()
    return min(1.0, sum(word in SOOTHING for word in words) / 8)


def careful(item: Item) -> float:
    """Half for a whole reply whose response repeats no word, half for its sense of the emotion."""
    spans = item.reply.spans
    words = (spans.response or "").split()
    whole = spans.complete and item.reply.status == "ok" and len(set(words)) == len(words)
    known = spans.emotion == item.turn.gold_emotion
    return 0.5 * whole + 0.25 * (spans.emotion in EMOTIONS) + 0.25 * known


JUDGES = {
    "letters": (letters, "The share of letters that are e's."),
    "flattered": (flattered, "Soothing words."),
    "careful": (careful, "A whole reply that repeats nothing, and a known emotion."),
}


@hookimpl
def register_judges(register):
    for name, (rule, about) in JUDGES.items():
        register(name, lambda options, context, n=name, r=rule, a=about: RuleJudge(n, r, a))
