"""What the rubric judge says to its model: messages made from `rubric.j2` and one item.

They go from static to specific (rubric, profile and situation; then history and response within
the fences of the call), so that the calls of one dialogue share their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from judges.answers import AnswerFormat, Rating
from judges.prompts import person_and_talk, source_digest, spoken, template, two_messages
from kardiabench.fingerprints import digest
from kardiabench.records import Message, Turn

TEMPLATE = "rubric.j2"


class RubricPrompt:
    """The prompt for some dimensions, one scope (`response` or `reply`) and one way of fencing.

    Without fences (`bound` false) it is what a judge without defences is sent: texts pasted in.
    """

    def __init__(self, names: Sequence[str], scope: str, *, bound: bool = True) -> None:
        self.names, self.bound = tuple(names), bound
        rubric = template(TEMPLATE).system(names=self.names, scope=scope, bound=bound)
        self._system = str(rubric).strip()

    @property
    def hash(self) -> str:
        """What decides the prompt beside the item: template source, scope and schema."""
        schema = answer_format(self.names, bound=self.bound).schema
        return digest([source_digest(TEMPLATE), self._system, schema])

    def form(self, names: Sequence[str]) -> AnswerFormat:
        """The form of the answer with its dimensions in the order of `names`."""
        return answer_format(tuple(names), bound=self.bound)

    def messages(
        self, turn: Turn, response: str, names: Sequence[str], nonce: str
    ) -> tuple[Message, ...]:
        """The messages that ask for a verdict on `response`, which may be empty."""
        macros, form = template(TEMPLATE), self.form(names).instruction(nonce)
        if self.bound:
            shared, own = person_and_talk(macros, turn, nonce=nonce, response=response, form=form)
            return two_messages(self._system, shared, own)
        pasted = macros.plain(
            profile=turn.dialogue.profile,
            situation=turn.dialogue.situation,
            history=list(spoken(turn)),
            response=response,
            form=form,
        )
        return (Message("system", self._system), Message("user", str(pasted).strip()))


@lru_cache(maxsize=256)
def answer_format(names: tuple[str, ...], *, bound: bool) -> AnswerFormat:
    """The form of an answer that rates `names` in this order; made once."""
    return AnswerFormat(dict.fromkeys(names, Rating), bound=bound)
