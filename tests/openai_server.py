"""A small real server on 127.0.0.1 that speaks the OpenAI chat-completions protocol.

In a test::

    with OpenAIServer() as server:
        server.script(rate_limited(retry_after=1), Behaviour())  # first a 429, then an answer
        ...  # ask a model with api_base=server.url
        assert len(server.requests) == 2

As a process: `python tests/openai_server.py --port 0 --delay 0.1` prints its URL on one line.
Answers are a function of the messages alone: verdict JSON where the rubric asks (by schema or by
its text in the system message), else four well-formed spans. `/v1/messages` speaks Anthropic's
protocol with the same answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Self

from aiohttp import web

from kardiabench.emotions import EMOTIONS

DIMENSIONS = ("relevance", "fluency", "empathy", "persona_consistency", "safety")
_UNSET: Any = object()
_FEW_BYTES = 4
_SYSTEM_ROLES = ("system", "developer")  # newer OpenAI clients say `developer`


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered; the default is the ordinary, deterministic answer.

    `content` replaces the answer's text (None is JSON null). `message` is merged into the answer's
    message. `error` makes it an error body; `{key}` in its message becomes the request's own key.
    `raw` is sent as the body as it is. `delay` is in seconds and comes on top of the server's;
    `drip` sends the body slowly, a few bytes every so many seconds. `drop` cuts the connection.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Any = _UNSET
    message: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    usage: Mapping[str, Any] = field(default_factory=dict)
    choices: Sequence[Any] | None = None
    error: Mapping[str, Any] | None = None
    raw: bytes | None = None
    delay: float = 0.0
    drip: float = 0.0
    drop: bool = False


def failing(
    status: int,
    message: str,
    *,
    code: str | None = None,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """An error answer in OpenAI's form."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Behaviour(status=status, error=error, headers=headers or {})


def rate_limited(retry_after: str | float | None = None) -> Behaviour:
    """429; `retry_after` is seconds or any text for the header."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    message = "Rate limit reached for requests"
    return failing(
        429, message, code="rate_limit_exceeded", kind="rate_limit_error", headers=headers
    )


def rate_limited_until(seconds: float) -> Behaviour:
    """429 whose `Retry-After` is the HTTP date so many seconds from now."""
    return rate_limited(formatdate(time.time() + seconds, usegmt=True))


def insufficient_quota() -> Behaviour:
    """429 as OpenAI answers it when the credit is used up."""
    message = "You exceeded your current quota, please check your plan and billing details."
    return failing(429, message, code="insufficient_quota", kind="insufficient_quota")


def server_error(status: int = 500, retry_after: str | float | None = None) -> Behaviour:
    """500, 502, 503…"""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    message = "The server had an error while processing your request"
    return failing(status, message, kind="server_error", headers=headers)


def unauthorized() -> Behaviour:
    """401 that echoes the key, as some servers do."""
    return failing(401, "Incorrect API key provided: {key}.", code="invalid_api_key")


def no_such_model() -> Behaviour:
    """404 for the model's name."""
    return failing(404, "The model `nothing` does not exist", code="model_not_found")


def context_exceeded() -> Behaviour:
    """400 as OpenAI answers a prompt that is too long."""
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9000 tokens. Please reduce the length of the messages."
    )
    return failing(400, message, code="context_length_exceeded", kind="invalid_request_error")


def policy_violation() -> Behaviour:
    """400 as OpenAI and Azure answer a prompt that their filter stops."""
    message = "Your request was rejected as a result of our safety system: content policy."
    return failing(
        400, message, code="content_policy_violation", kind="image_generation_user_error"
    )


def schema_refused() -> Behaviour:
    """400 of a server that knows no `response_format` of type `json_schema`."""
    message = "Invalid parameter: 'response_format' of type 'json_schema' is not supported."
    return failing(400, message, kind="invalid_request_error")


@dataclass(frozen=True)
class Received:
    """One request as it came in; `arrived` is `time.monotonic()`."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    arrived: float

    @property
    def authorization(self) -> str | None:
        """The `Authorization` header."""
        return self.headers.get("Authorization")


class OpenAIServer:
    """The server, in a thread of its own; a context manager.

    `script(...)` queues behaviours for the next requests; `rule` may decide by the body (it comes
    after the script and before `default`). `delay` is seconds an answer, with at most `capacity`
    requests worked on at a time: more have to wait. `requests` holds what came in, `hits` counts
    it, `most_at_once` is the highest number that was open at a time.
    """

    def __init__(
        self, *, delay: float = 0.0, capacity: int = 256, port: int = 0, record: bool = True
    ) -> None:
        self.delay, self.capacity, self.port, self.record = delay, capacity, port, record
        self.default = Behaviour()
        self.rule: Callable[[dict[str, Any]], Behaviour | None] | None = None
        self.requests: list[Received] = []
        self.hits = self.open = self.most_at_once = 0
        self._script: deque[Behaviour] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The API base: `http://127.0.0.1:PORT/v1`."""
        return f"{self.origin}/v1"

    def script(self, *behaviours: Behaviour) -> None:
        """Answer the next requests so, one behaviour each, in the order of arrival."""
        self._script.extend(behaviours)

    def gaps(self) -> list[float]:
        """Seconds between one arrival and the next."""
        times = [request.arrived for request in self.requests]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def start(self) -> None:
        """Listen, on the running event loop."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/{path:.*}", self._chat)
        self._slots = asyncio.Semaphore(self.capacity)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "any", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, chat_answer)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, anthropic_answer)

    async def _handle(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        with self._counted():
            body = json.loads(await request.read())
            behaviour = self._behaviour(request, body)
            async with self._slots:
                await asyncio.sleep(self.delay + behaviour.delay)
            if behaviour.drop and request.transport is not None:
                request.transport.abort()
            return await _send(request, behaviour, _payload(request, body, behaviour, answer))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        self.most_at_once = max(self.most_at_once, self.open)
        try:
            yield
        finally:
            self.open -= 1

    def _behaviour(self, request: web.Request, body: dict[str, Any]) -> Behaviour:
        self.hits += 1
        if self.record:
            headers = dict(request.headers)
            self.requests.append(Received(request.path, body, headers, time.monotonic()))
        if self._script:
            return self._script.popleft()
        return (self.rule(body) if self.rule else None) or self.default


Answer = Callable[[dict[str, Any], Behaviour], dict[str, Any]]


def _payload(
    request: web.Request, body: dict[str, Any], behaviour: Behaviour, answer: Answer
) -> bytes:
    if behaviour.raw is not None:
        return behaviour.raw
    if behaviour.error is None:
        return json.dumps(answer(body, behaviour)).encode()
    auth = request.headers.get("Authorization") or request.headers.get("x-api-key") or ""
    key = auth.removeprefix("Bearer ")
    message = str(behaviour.error["message"]).replace("{key}", key)
    return json.dumps({"error": {**behaviour.error, "message": message}}).encode()


async def _send(request: web.Request, behaviour: Behaviour, payload: bytes) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", **behaviour.headers}
    if not behaviour.drip:
        return web.Response(status=behaviour.status, headers=headers, body=payload)
    response = web.StreamResponse(status=behaviour.status, headers=headers)
    with contextlib.suppress(ConnectionResetError):  # the client may have given up
        await response.prepare(request)
        for start in range(0, len(payload), _FEW_BYTES):
            await response.write(payload[start : start + _FEW_BYTES])
            await asyncio.sleep(behaviour.drip)
    return response


def chat_answer(body: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    """The body of `POST /v1/chat/completions`."""
    content = answer_text(body) if behaviour.content is _UNSET else behaviour.content
    message = {"role": "assistant", "content": content, "refusal": None, **behaviour.message}
    choice = {"index": 0, "message": message, "finish_reason": behaviour.finish_reason}
    asked, said = _lengths(body, content)
    return {
        "id": f"chatcmpl-{_number(body.get('messages')):x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", ""),
        "choices": [choice] if behaviour.choices is None else list(behaviour.choices),
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            **behaviour.usage,
        },
    }


def anthropic_answer(body: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    """The body of `POST /v1/messages`."""
    content = answer_text(body) if behaviour.content is _UNSET else behaviour.content
    asked, said = _lengths(body, content)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", ""),
        "content": [{"type": "text", "text": content}],
        "stop_reason": {"stop": "end_turn", "length": "max_tokens"}.get(
            behaviour.finish_reason, behaviour.finish_reason
        ),
        "stop_sequence": None,
        "usage": {"input_tokens": asked, "output_tokens": said},
    }


def answer_text(body: dict[str, Any]) -> str:
    """The ordinary answer: verdict JSON where a judge asks, else four spans."""
    messages = body.get("messages") or []
    names = _asked_dimensions(body, messages)
    return verdict_text(messages, names) if names else spans_text(messages)


def verdict_text(messages: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Levels from a hash of the first user message less its nonce, with a quote from the response.

    The call's nonce is copied where it is asked for.
    """
    user = next((_text(m) for m in messages if m["role"] == "user"), "")
    nonce = nonce_of(user)
    quote = _first_words(user)
    seed = _number(user.split("\nRate ")[0].replace(nonce, "NONCE") if nonce else user)
    ratings: dict[str, Any] = {"nonce": nonce} if "nonce" in names else {}
    for place, name in enumerate(sorted({*names} - {"nonce"})):
        ratings[name] = {"evidence": quote, "score": 1 + (seed >> 8 * place) % 5}
    return json.dumps(ratings)


def nonce_of(user: str) -> str:
    """The nonce that the rubric's user message names; empty where it names none."""
    found = re.search(r"^The nonce of this call is (\w+)\.$", user, re.MULTILINE)
    return found[1] if found else ""


def spans_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Four well-formed spans, their emotion from a hash of the messages."""
    number = _number([[m["role"], _text(m)] for m in messages])
    emotion = EMOTIONS[number % len(EMOTIONS)]
    spans = {
        "understanding": "They tell me about something that matters to them today.",
        "reasoning": f"The words fit {emotion}; being heard comes before advice.",
        "emotion": emotion,
        "response": f"I hear how much this weighs on you, number {number % 1000}. Tell me more?",
    }
    return "\n".join(f"<|{name}_begin|>{text}<|{name}_end|>" for name, text in spans.items())


def _asked_dimensions(
    body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Sequence[str]:
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema") or {}
    if schema:
        return tuple(schema.get("properties", ()))
    system = _text(messages[0]) if messages and messages[0]["role"] in _SYSTEM_ROLES else ""
    system = system or _text({"content": body.get("system")})
    is_rubric = '"evidence"' in system and '"score"' in system
    return ("nonce", *DIMENSIONS) if is_rubric and DIMENSIONS[3] in system else ()


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def history_of(user: str) -> list[dict[str, str]]:
    """The history in the rubric's user message."""
    fenced = re.search(r" history begins\]\n(.*?)\[\w+ history ends\]", user, re.DOTALL)
    return [json.loads(line) for line in fenced[1].splitlines()] if fenced else []


def _first_words(user: str) -> str:
    found = re.search(r"response begins\]\n(.*)\n", user)
    return " ".join(str(json.loads(found[1])).split()[:6]) if found else "missing: a response"


def _lengths(body: Mapping[str, Any], content: Any) -> tuple[int, int]:
    asked = sum(len(_text(m)) for m in body.get("messages") or ())
    return 1 + asked // 4, 1 + len(content or "") // 4


def _number(value: Any) -> int:
    text = value if isinstance(value, str) else json.dumps(value)
    hashed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(hashed.digest(), "big")


async def serve(server: OpenAIServer) -> None:
    """Serve until the process is ended; the URL is the first line on stdout."""
    await server.start()
    print(server.url, flush=True)  # noqa: T201
    await asyncio.Event().wait()


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A local OpenAI-compatible server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--capacity", type=int, default=256, help="requests worked on at a time")
    options = parser.parse_args()
    server = OpenAIServer(
        delay=options.delay, capacity=options.capacity, port=options.port, record=False
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(server))


if __name__ == "__main__":
    main()
