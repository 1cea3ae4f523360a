"""A real language model behind the OpenAI chat-completions protocol, on 127.0.0.1.

In a test::

    with LocalModelServer(LocalModel.load(), constrained=True) as server:
        ...  # ask openai/gemma with api_base=server.url

As a process: `python tests/local_model_server.py [--constrained]` prints its URL on one line. It
answers one request at a time. `max_tokens`, `temperature`, `seed`, `logprobs`, `top_logprobs` and,
with `--constrained`, `response_format` of type `json_schema` are honoured; without it a schema is
refused with HTTP 400, as by a server that knows none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from local_model import NAME, Choice, LocalModel, PromptTooLongError, Written, chat_text
from openai_server import OpenAIServer, context_exceeded, failing, schema_refused, serve

_MOST_TOP = 20
_MAX_TOKENS = 1024
_UNKNOWN = ("stream", "tools", "functions", "stop")


class BadRequestError(Exception):
    """A request that cannot be served: HTTP 400 with the error's body."""

    def __init__(self, error: Mapping[str, Any] | None) -> None:
        super().__init__(error)
        self.body = {"error": error}


class LocalModelServer(OpenAIServer):
    """The server, in a thread of its own; `requests` holds what came in, `written` what was said.

    One request leads to one answer or to an error, so the two need not be equally long.
    """

    def __init__(self, model: LocalModel, *, constrained: bool = False, port: int = 0) -> None:
        super().__init__(port=port)
        self.model, self.constrained = model, constrained
        self.written: list[Written] = []
        self._worker = ThreadPoolExecutor(1)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        with self._counted():
            body = json.loads(await request.read())
            self._behaviour(request, body)  # notes the request
            loop = asyncio.get_running_loop()
            try:
                answer = await loop.run_in_executor(self._worker, self._answer, body)
            except BadRequestError as bad:
                return web.json_response(bad.body, status=400)
            return web.json_response(answer)

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        schema = self._schema(body)
        unknown = [name for name in _UNKNOWN if body.get(name)]
        if unknown or body.get("n", 1) != 1:
            raise BadRequestError(failing(400, f"not served here: {unknown or 'n'}").error)
        try:
            written = self.model.write(
                chat_text(body["messages"]),
                max_tokens=_given(body, "max_tokens", "max_completion_tokens") or _MAX_TOKENS,
                temperature=1.0 if body.get("temperature") is None else body["temperature"],
                seed=body.get("seed") or 0,
                schema=schema,
                top=min(_MOST_TOP, body.get("top_logprobs") or 0),
            )
        except PromptTooLongError as error:
            raise BadRequestError(context_exceeded().error) from error
        except (KeyError, ValueError) as error:
            raise BadRequestError(failing(400, repr(error)).error) from error
        self.written.append(written)
        return chat_answer(body, written)

    def _schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        wanted = body.get("response_format")
        if wanted is None:
            return None
        if not self.constrained or wanted.get("type") != "json_schema":
            raise BadRequestError(schema_refused().error)
        schema: Mapping[str, Any] = wanted["json_schema"]["schema"]
        return schema


def chat_answer(body: Mapping[str, Any], written: Written) -> dict[str, Any]:
    """The body of an answer to `POST /v1/chat/completions`."""
    asked, said = written.prompt_tokens, len(written.choices)
    logprobs = {"content": [_logprob(choice) for choice in written.choices]}
    return {
        "id": f"chatcmpl-{time.monotonic_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", NAME),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": written.text, "refusal": None},
                "logprobs": logprobs if body.get("logprobs") else None,
                "finish_reason": written.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            "prompt_tokens_details": {"cached_tokens": written.cached_tokens},
        },
    }


def _logprob(choice: Choice) -> dict[str, Any]:
    top = [_token(token, logprob) for token, logprob in choice.top]
    return {**_token(choice.token, choice.logprob), "top_logprobs": top}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


def _given(body: Mapping[str, Any], *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="A small language model behind OpenAI's protocol")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--constrained", action="store_true", help="honour JSON schemas")
    options = parser.parse_args()
    model = LocalModel.load()
    server = LocalModelServer(model, constrained=options.constrained, port=options.port)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(server))


if __name__ == "__main__":
    main()
