"""What a failed API call means: which kind, whether to try again, what to tell the user."""

from __future__ import annotations

import email.utils
import math
import re
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
    "BadAnswerError": "server",
    "OSError": "connection",
    "ImportError": "install",
    "KardiaBenchError": "not_found",
}
#: What the HTTP status says where the class is vague: litellm goes by words in the message.
_STATUS_KINDS: Mapping[int, str] = {
    400: "bad_request",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "server",
    425: "server",
    429: "rate_limit",
}
_VAGUE = frozenset({"bad_request", "server"})
_TRANSIENT = frozenset({"rate_limit", "timeout", "connection", "server"})
_CONTEXT_SIGNS = ("context length", "context_length_exceeded", "maximum context", "context window")
_FILTER_SIGNS = ("content_filter", "content_policy", "content management policy")
_QUOTA_SIGNS = ("insufficient_quota", "credit balance is too low", "insufficient balance")
#: Gemini says "exceeded your current quota" of its limits per minute as well.
_LIMIT_SIGNS = ("resource_exhausted", "per minute", "retrydelay", "retry in")
_PREFIX = re.compile(r"^(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?: -|:)\s+")
_NOTES = re.compile(r"\s*Traceback \(most recent call last\)|\s+To drop unsupported params")
_ADVICE: Mapping[str, str] = {
    "auth": "check the key in the environment and its rights",
    "quota": "add credit or use another key, then resume",
    "not_found": "check the model's name and --api-base",
    "bad_request": "check the model's name and the options sent to it",
    "connection": "check --api-base and the network",
    "timeout": "check the server, or raise --timeout",
    "rate_limit": "lower --concurrency or wait",
    "server": "try again later",
    "context": "use a model with a longer context",
    "install": "install the package that it names",
    "engine": "look at its messages above, give it less to do at a time, then resume",
    "replica": "look at the cluster's workers, then resume",
    "memory": "use a smaller number type, quantization or a larger device",
    "template": "see the prompt with kardiabench inspect-prompt",
}

#: Kinds that every further request would meet too: the run stops and can be resumed.
FATAL_KINDS = frozenset({"auth", "quota", "not_found", "install", "engine", "replica"})


class BadAnswerError(Exception):
    """The server answered 200 with something that is no chat completion."""


def kind_of(error: BaseException) -> str:
    """The kind of failure, by litellm's exception class, the HTTP status and the message."""
    names = (cls.__name__ for cls in type(error).__mro__)
    kind = next((_KINDS[name] for name in names if name in _KINDS), "internal")
    text = _words(error)
    if kind in {"rate_limit", "bad_request"} and _is_quota(text):
        return "quota"
    if kind in _VAGUE:
        kind = _kind_of_status(error) or kind
    if kind == "server" and (
        text.rstrip(" .").endswith("connection error") or "cannot connect to host" in text
    ):
        return "connection"
    if kind == "bad_request" and any(sign in text for sign in _CONTEXT_SIGNS):
        return "context"
    if kind == "bad_request" and any(sign in text for sign in _FILTER_SIGNS):
        return "content_filter"
    return kind


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    return kind_of(error) in _TRANSIENT


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks to wait, from `Retry-After` (seconds or a date), else None."""
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(getattr(error, "response", None), "headers", None),
    ):
        values = {str(name).lower(): str(value) for name, value in (headers or {}).items()}
        if "retry-after-ms" in values:
            return _seconds(values["retry-after-ms"], unit=0.001)
        if "retry-after" in values:
            return _seconds(values["retry-after"])
    return None


def completion_of(error: Exception) -> Completion:
    """The completion that records `error`: `refused` for a filter, else `error`."""
    kind = kind_of(error)
    if kind == "content_filter":
        return Completion(status="refused", detail=kind, finish_reason="content_filter")
    return Completion(status="error", detail=f"{kind}: {_message(error)}")


def advice(detail: str) -> str:
    """What to do about a failure whose detail starts with its kind."""
    return _ADVICE.get(detail.partition(":")[0], "see the detail")


def _words(error: BaseException) -> str:
    """What the server said and called it, in lower case; the message stands last."""
    named = (getattr(error, "code", None), getattr(error, "type", None), error)
    return " ".join(str(part) for part in named if part is not None).lower()


def _is_quota(text: str) -> bool:
    if any(sign in text for sign in _QUOTA_SIGNS):
        return True
    return "exceeded your current quota" in text and not any(sign in text for sign in _LIMIT_SIGNS)


def _kind_of_status(error: BaseException) -> str | None:
    """What the server's own status says; None where there is none, or nothing to learn from it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = getattr(error, "status_code", None) if status is None else status
    if not isinstance(status, int) or status < 400:
        return None
    return _STATUS_KINDS.get(status, "server" if status >= 500 else "bad_request")


def _message(error: Exception) -> str:
    """What the server said, without litellm's class names before it and its notes behind."""
    text = _NOTES.split(str(error), maxsplit=1)[0].strip()
    while match := _PREFIX.match(text):
        text = text[match.end() :]
    return text or type(error).__name__


def _seconds(value: str, unit: float = 1.0) -> float | None:
    try:
        seconds = float(value) * unit
    except ValueError:
        return _until(value)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _until(date: str) -> float | None:
    parsed = email.utils.parsedate_tz(date)
    return None if parsed is None else max(0.0, email.utils.mktime_tz(parsed) - time.time())
