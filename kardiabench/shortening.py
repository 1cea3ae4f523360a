"""`--truncate-history`: the oldest exchanges are left out where a context is too short for all.

The system prompt and the last user's message always stay. Judges read the whole history.
"""

from __future__ import annotations

from dataclasses import replace

from kardiabench.records import ChatRequest, Completion, Reply

#: How the detail of such a reply begins.
SHORTENED = "shortened"


def overflows(completion: Completion) -> bool:
    """Whether the prompt was too long for the model."""
    return completion.status == "error" and completion.detail.partition(":")[0] == "context"


def without_oldest(request: ChatRequest, exchanges: int) -> ChatRequest | None:
    """`request` without its oldest exchanges, or None when nothing but the last message is left.

    An exchange is a user's message and the assistant's reply to it.
    """
    start = 1 if request.messages[0].role == "system" else 0
    rest = request.messages[start + 2 * exchanges :]
    if not rest:
        return None
    return replace(request, messages=(*request.messages[:start], *rest))


def noting_shortened(completion: Completion, exchanges: int) -> Completion:
    """The completion, its detail saying so, unless it failed: then that says why."""
    if completion.status == "error":
        return completion
    what = f"{exchanges} exchange{'' if exchanges == 1 else 's'} left out"
    said = f"; {completion.detail}" if completion.detail else ""  # why a model refused
    return replace(completion, detail=f"{SHORTENED}: {what}{said}")


def is_shortened(reply: Reply) -> bool:
    """Whether the reply is to a history that was cut."""
    return reply.status != "error" and reply.detail.partition(":")[0] == SHORTENED
