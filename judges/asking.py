"""Asking the model: one round of requests, and one round of repairs for what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from judges.answers import Answer, AnswerFormat
from judges.expectation import expected_levels
from judges.prompts import repair
from judges.verdicts import clip
from kardiabench.contracts import ChatModel
from kardiabench.records import ChatRequest, Completion, Usage, VerdictStatus


@dataclass(frozen=True, slots=True)
class Question:
    """One request, the form of its answer, and the nonce that ties the two together.

    `part` is what the answer counts for, by sample or order; `weighted` asks for the expectation of
    a level over the chances of its token.
    """

    request: ChatRequest
    form: AnswerFormat
    nonce: str
    part: str
    weighted: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer as it was read. `note` says what was wrong when there is no answer."""

    status: VerdictStatus
    answer: Answer | None = None
    problem: str = ""
    note: str = ""
    usage: Usage = field(default_factory=Usage)
    repaired: bool = False
    weighted: bool = False

    def repaired_by(self, second: Attempt) -> Attempt:
        """The second answer in this one's place, with the usage of both."""
        return replace(second, usage=Usage.total((self.usage, second.usage)), repaired=True)


async def ask(model: ChatModel, questions: Sequence[Question]) -> list[Attempt]:
    """One attempt a question, in order; an unreadable answer is asked for once more."""
    completions = await model.complete([q.request for q in questions]) if questions else []
    attempts = [read(question, c) for question, c in zip(questions, completions, strict=True)]
    unread = [at for at, attempt in enumerate(attempts) if attempt.status == "unparsed"]
    repairs = [_repair(questions[at], completions[at], attempts[at]) for at in unread]
    repaired = await model.complete(repairs) if repairs else []
    for at, completion in zip(unread, repaired, strict=True):
        attempts[at] = attempts[at].repaired_by(read(questions[at], completion))
    return attempts


def read(question: Question, completion: Completion) -> Attempt:
    """Read one completion; never raises."""
    usage = completion.usage
    if completion.status in ("error", "refused"):
        note = clip(completion.detail or completion.text or "no reason was given", 300)
        return Attempt(status=completion.status, note=note, usage=usage)
    reading = question.form.parse(completion.text, question.nonce)
    if isinstance(reading, Answer):
        return _weighted(question, completion, Attempt("ok", reading, usage=usage))
    cut = completion.status == "truncated"
    problem = reading.problem + (" (it was cut off: raise max_tokens)" if cut else "")
    note = f"{problem}: {clip(completion.text.strip(), 300)}"
    return Attempt("unparsed", problem=problem, note=note, usage=usage)


def _weighted(question: Question, completion: Completion, attempt: Attempt) -> Attempt:
    """The attempt with expectations for levels, where they were asked for and can be had."""
    if not question.weighted or attempt.answer is None:
        return attempt
    levels = expected_levels(attempt.answer, completion)
    if levels is None:
        return attempt
    return replace(attempt, answer=replace(attempt.answer, scores=levels), weighted=True)


def _repair(question: Question, completion: Completion, attempt: Attempt) -> ChatRequest:
    form, before = question.form, question.request.messages
    messages = repair(before, completion.text, attempt.problem, form.instruction(question.nonce))
    return replace(question.request, messages=messages)
