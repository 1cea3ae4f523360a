"""Asking the model: one round of requests, and one round of repairs for what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from judges.rubric_prompt import RubricPrompt
from judges.rubric_samples import Attempt, read_answer
from judges.rubric_schema import AnswerFormat
from kardiabench.contracts import ChatModel
from kardiabench.records import ChatRequest, Completion


async def ask(
    model: ChatModel,
    prompt: RubricPrompt,
    answer_format: AnswerFormat,
    requests: Sequence[ChatRequest],
) -> list[Attempt]:
    """One attempt a request, in order; an unreadable answer is asked for once more."""
    completions = await model.complete(requests) if requests else []
    attempts = [read_answer(completion, answer_format) for completion in completions]
    unread = [at for at, attempt in enumerate(attempts) if attempt.status == "unparsed"]
    repairs = [_repair(prompt, requests[at], completions[at], attempts[at]) for at in unread]
    repaired = await model.complete(repairs) if repairs else []
    for at, completion in zip(unread, repaired, strict=True):
        attempts[at] = attempts[at].repaired_by(read_answer(completion, answer_format))
    return attempts


def _repair(
    prompt: RubricPrompt, request: ChatRequest, completion: Completion, attempt: Attempt
) -> ChatRequest:
    messages = prompt.repair(request.messages, completion.text, attempt.problem)
    return replace(request, messages=messages)
