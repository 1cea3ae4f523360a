"""What a failed API call means: which kind, whether to try again, what to tell the user."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Mapping

from kardiabench.records import Completion

_KINDS: Mapping[str, str] = {
    "ContextWindowExceededError": "context",
    "ContentPolicyViolationError": "content_filter",
    "RateLimitError": "rate_limit",
    "Timeout": "timeout",
    "TimeoutError": "timeout",
    "AuthenticationError": "auth",
    "PermissionDeniedError": "auth",
    "PaymentRequiredError": "quota",
    "BudgetExceededError": "quota",
    "NotFoundError": "not_found",
    "BadRequestError": "bad_request",
    "UnprocessableEntityError": "bad_request",
    "APIConnectionError": "connection",
    "APIStatusError": "server",
    "APIError": "server",
}
_TRANSIENT = frozenset({"rate_limit", "timeout", "connection", "server"})
_CONTEXT_SIGNS = ("context length", "context_length_exceeded", "maximum context", "context window")
_FILTER_SIGNS = ("content_filter", "content_policy", "content management policy")
_ADVICE: Mapping[str, str] = {
    "auth": "check the key in the environment and its rights",
    "quota": "add credit or use another key, then resume",
    "not_found": "check the model's name",
    "bad_request": "check the model's name and the options sent to it",
    "connection": "check --api-base and the network",
    "timeout": "check the server, or raise --timeout",
    "rate_limit": "lower --concurrency or wait",
    "server": "try again later",
    "context": "use a model with a longer context",
}

#: Kinds that every further request would meet too: the run stops and can be resumed.
FATAL_KINDS = frozenset({"auth", "quota", "not_found"})


def kind_of(error: BaseException) -> str:
    """The kind of failure, by the most specific exception class that litellm gave it."""
    kind = next((_KINDS[c.__name__] for c in type(error).__mro__ if c.__name__ in _KINDS), "server")
    text = str(error).lower()
    if kind == "rate_limit" and ("insufficient_quota" in text or "exceeded your current" in text):
        return "quota"
    if kind == "bad_request" and any(sign in text for sign in _CONTEXT_SIGNS):
        return "context"
    if kind == "bad_request" and any(sign in text for sign in _FILTER_SIGNS):
        return "content_filter"
    return kind


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    return not isinstance(error, asyncio.CancelledError) and kind_of(error) in _TRANSIENT


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks to wait, from `Retry-After` (seconds or a date), else None."""
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(getattr(error, "response", None), "headers", None),
    ):
        value = headers.get("retry-after") if headers is not None else None
        if value is not None:
            return _seconds(str(value))
    return None


def completion_of(error: Exception) -> Completion:
    """The completion that records `error`: `refused` for a filter, else `error`."""
    kind = kind_of(error)
    if kind == "content_filter":
        return Completion(status="refused", detail=kind, finish_reason="content_filter")
    message = str(error) or type(error).__name__
    return Completion(status="error", detail=f"{kind}: {message}")


def advice(detail: str) -> str:
    """What to do about a failure whose detail starts with its kind."""
    return _ADVICE.get(detail.partition(":")[0], "see the detail")


def _seconds(value: str) -> float | None:
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    date = email.utils.parsedate_tz(value)
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
