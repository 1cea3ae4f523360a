"""What the local server was asked, sorted by who asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from openai_server import OpenAIServer

_TINY = "Answer with the one word: ready"


def is_tiny(body: Mapping[str, Any]) -> bool:
    """Whether it is a preflight's first request."""
    return body["messages"][0]["content"] == _TINY


def is_judge(body: Mapping[str, Any]) -> bool:
    return body["model"].endswith("judge")


def replies_asked(server: OpenAIServer) -> Counter[str]:
    """How often each prompt was sent to the model under test, preflights left out."""
    return _counted(server, judge=False)


def verdicts_asked(server: OpenAIServer) -> Counter[str]:
    """How often each prompt, less its nonce, was sent to the judge's model; no tiny requests."""
    return _counted(server, judge=True)


def _counted(server: OpenAIServer, *, judge: bool) -> Counter[str]:
    bodies = [request.body for request in server.requests]
    return Counter(
        without_nonce(str(body["messages"]))
        for body in bodies
        if is_judge(body) is judge and not is_tiny(body)
    )


def without_nonce(prompt: str) -> str:
    """A judge's prompt as it is whatever the nonce of the call."""
    found = re.search(r"The nonce of this call is (\w+)", prompt)
    return prompt.replace(found[1], "NONCE") if found else prompt
