"""From a server's answer, as litellm gives it, to a completion."""

from __future__ import annotations

from typing import Any

from kardiabench.models import api_errors
from kardiabench.records import Completion, ReplyStatus, TokenChances, Usage, clean_text

#: Counts beyond this are no counts of tokens.
_MOST_TOKENS = 10**9


def read_answer(response: Any, latency: float) -> Completion:
    """The completion that litellm's `response` is, received after `latency` seconds.

    Raises `BadAnswerError` for an answer without choices.
    """
    if not getattr(response, "choices", None):
        raise api_errors.BadAnswerError("the server's answer holds no choices")
    choice = response.choices[0]
    message, finish = choice.message, choice.finish_reason
    refusal = (getattr(message, "provider_specific_fields", None) or {}).get("refusal")
    status, detail = _status(finish, refusal)
    return Completion(
        text=clean_text(message.content or refusal or ""),
        reasoning=clean_text(getattr(message, "reasoning_content", None) or ""),
        finish_reason=finish,
        status=status,
        detail=detail,
        usage=_usage(response),
        latency=round(latency, 4),
        chances=_chances(choice),
    )


def _chances(choice: Any) -> tuple[TokenChances, ...]:
    """The tokens of the answer with their alternatives; empty where the server gave none."""
    content = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    try:
        return tuple(
            TokenChances(
                _spelling(one), tuple((_spelling(o), float(o.logprob)) for o in one.top_logprobs)
            )
            for one in content
        )
    except (AttributeError, TypeError, ValueError):  # a server's own form: as if it had none
        return ()


def _spelling(token: Any) -> str:
    """The token's bytes as text: a piece of a character stays what it is, for joining."""
    written = getattr(token, "bytes", None)
    if written is None:
        return str(token.token)
    return bytes(written).decode("utf-8", "surrogateescape")


def _status(finish: str | None, refusal: str | None) -> tuple[ReplyStatus, str]:
    if finish == "content_filter":
        return "refused", "content_filter"
    if refusal:
        return "refused", "refusal"
    return ("truncated" if finish == "length" else "ok"), ""


def _count(usage: Any, name: str) -> int:
    """A number of tokens; 0 where the server gives none that can be one."""
    value = getattr(usage, name, 0) or 0
    return value if 0 <= value < _MOST_TOKENS else 0


def _usage(response: Any) -> Usage:
    usage = getattr(response, "usage", None)
    answer = getattr(usage, "completion_tokens_details", None)
    prompt = getattr(usage, "prompt_tokens_details", None)
    cost = response._hidden_params.get("response_cost")
    return Usage(
        calls=1,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(answer, "reasoning_tokens"),
        cached_tokens=_count(prompt, "cached_tokens"),
        cost=float(cost) if cost else None,
    )
