"""The `pairwise` judge: a language model says which of two responses supports the person better.

Judges prefer a place (Zheng et al. 2023, "Judging LLM-as-a-Judge"), so each pair is shown in both
orders, and a preference that was seen in one order alone is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from judges.answers import READER_VERSION, AnswerFormat, Choice
from judges.asking import Attempt, Question
from judges.combining import failure
from judges.model_judge import DEFAULT_MODEL, MODEL_OPTIONS, ModelJudge, model_options
from judges.options import Options
from judges.prompts import person_and_talk, source_digest, template, two_messages
from kardiabench.contracts import Identity, JudgeContext
from kardiabench.fingerprints import digest
from kardiabench.records import ChatRequest, Dimension, Item, Verdict
from kardiabench.spans import parse_spans

PAIRWISE_VERSION = "1"
TEMPLATE = "pairwise.j2"
OPTIONS = MODEL_OPTIONS
PREFERENCE = "preference"
#: Where the reply stands in the two requests of a pair.
PLACES = ("first", "second")
DIMENSIONS = (
    Dimension(
        PREFERENCE, 0.0, 1.0, "The reply supports the person better than its rival; a half: a tie."
    ),
)
FORM = AnswerFormat({PREFERENCE: Choice})


class PairwiseJudge(ModelJudge):
    """Compares the reply's response with its rival's, the one in the turn's gold reply.

    Two requests a sample, the reply first in one and second in the other; the preference is the
    mean of both, in [0, 1], and a half where the order decides. A pair of which either answer
    failed counts as failed. A side without a complete, non-empty response span loses without a
    call; where both lack one it is a tie.
    """

    name = "pairwise"
    dimensions: tuple[Dimension, ...] = DIMENSIONS

    @property
    def identity(self) -> Identity:
        """Version, reader, prompt, model and samples."""
        return {
            "judge": "pairwise",
            "version": PAIRWISE_VERSION,
            "reader": READER_VERSION,
            "prompt": digest([source_digest(TEMPLATE), FORM.schema]),
            "model": dict(self.model.identity),
            "samples": self.samples,
        }

    @property
    def calls_per_item(self) -> int:
        """Two calls a sample, one for each order."""
        return 2 * self.samples

    def settled(self, item: Item) -> Verdict | None:
        """The verdict where a side has no response to compare."""
        ours, theirs = _responses(item)
        if ours and theirs:
            return None
        who = "the reply" if theirs else "its rival" if ours else "either"
        score = 0.0 if theirs else 1.0 if ours else 0.5
        why = f"no complete, non-empty response span in {who}: the model was not asked"
        return self.verdict(item, "ok", {PREFERENCE: score}, {"judge": why})

    def questions(self, item: Item) -> list[Question]:
        """For every sample one question with the reply first, then one with it second."""
        return [
            self._question(item, place, sample)
            for sample in range(self.samples)
            for place in PLACES
        ]

    def combined(
        self, item: Item, questions: Sequence[Question], attempts: Sequence[Attempt]
    ) -> Verdict:
        """The mean over pairs of which both orders were answered."""
        pairs = [
            _as_one(first, _flipped(second))
            for first, second in zip(attempts[::2], attempts[1::2], strict=True)
        ]
        verdict = super().combined(item, questions, [one for pair in pairs for one in pair])
        if verdict.scores[PREFERENCE] is None:
            return verdict
        return replace(verdict, evidence={**verdict.evidence, "judge": _note(pairs)})

    @cached_property
    def _system(self) -> str:
        return str(template(TEMPLATE).system()).strip()

    def _question(self, item: Item, place: str, sample: int) -> Question:
        turn, nonce = item.turn, self._nonce()
        responses = _responses(item)
        first, second = responses if place == "first" else responses[::-1]
        macros, form = template(TEMPLATE), FORM.instruction(nonce)
        shared, own = person_and_talk(
            macros, turn, nonce=nonce, first=first, second=second, form=form
        )
        request = ChatRequest(
            messages=two_messages(self._system, shared, own),
            turn_id=turn.id,
            persona_id=turn.dialogue.persona_id,
            sample=sample,
            json_schema=FORM.schema,
        )
        part = place if self.samples == 1 else f"{place} {sample + 1}"
        return Question(request, FORM, nonce, part)


def build(options: Mapping[str, str], context: JudgeContext) -> PairwiseJudge:
    """The `pairwise` judge with a model opened by name; opening makes no call."""
    given = Options.check(PairwiseJudge.name, options, OPTIONS)
    samples = given.whole("samples", 1, 100) or 1
    chosen = model_options(given, context.seed, samples)
    model = context.open_model(given.text("model", DEFAULT_MODEL), **chosen)
    return PairwiseJudge(model, samples=samples)


def _responses(item: Item) -> tuple[str, str]:
    """The reply's response and its rival's, empty where there is none; both by the same rule."""
    return item.reply.spans.response or "", parse_spans(item.turn.gold).response or ""


def _flipped(attempt: Attempt) -> Attempt:
    """The preference for the second response as one for the reply, which stood there."""
    if attempt.answer is None:
        return attempt
    scores = {name: 1.0 - score for name, score in attempt.answer.scores.items()}
    return replace(attempt, answer=replace(attempt.answer, scores=scores))


def _as_one(first: Attempt, second: Attempt) -> tuple[Attempt, Attempt]:
    """The two answers of a pair; where one failed both have, and each keeps its own usage."""
    if first.answer and second.answer:
        return first, second
    worst = failure([first, second])
    failed = (
        replace(one, status=worst.status, answer=None, note=worst.note) for one in (first, second)
    )
    return next(failed), next(failed)


def _note(pairs: Sequence[tuple[Attempt, Attempt]]) -> str:
    """How the asking went: `the orders agree`, or `… in 2 of 3 pairs`, and what failed."""
    read = [
        (one.answer.scores, two.answer.scores) for one, two in pairs if one.answer and two.answer
    ]
    agreeing = sum(one == two for one, two in read)
    failed, repaired = len(pairs) - len(read), sum(one.repaired for pair in pairs for one in pair)
    if len(pairs) == 1:
        note = "the orders agree" if agreeing else "the orders disagree"
    else:
        note = f"the orders agree in {agreeing} of {len(read)} pairs"
    notes = [f"{failed} of {len(pairs)} failed"] if failed else []
    return ", ".join([note, *notes, *([f"{repaired} repaired"] if repaired else [])])
