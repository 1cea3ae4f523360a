"""Any API that litellm knows: the backend of every model name without a prefix of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import tenacity

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import PluginError, PreflightError, did_you_mean
from kardiabench.models import api_errors
from kardiabench.records import ChatRequest, Completion, Message, Usage, clean_text
from kardiabench.redaction import redact, refuse_secrets, refuse_url_secrets

_LONGEST_WAIT = 120.0
_GRACE = 5.0
#: Servers that constrain output to a schema whatever the model, so litellm's list does not matter.
_SCHEMA_PROVIDERS = frozenset({"hosted_vllm"})


def build(name: str, options: ModelOptions) -> ApiModel:
    """The `ModelFactory` of everything that litellm serves."""
    refuse_secrets(options.extra, "--model-arg")
    refuse_url_secrets(options.api_base, "--api-base")
    if "/" not in name and not re.fullmatch(r"[\w.:@-]+", name):
        raise PluginError(f"model {name!r} is not a model name; write for example openai/gpt-4o")
    return ApiModel(name, options)


def load_litellm() -> Any:
    """Import litellm late (over 2 s) and quietly: no price list fetched, no banners, no telemetry."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


@dataclass(frozen=True, slots=True)
class _Route:
    """What litellm makes of a model name."""

    provider: str
    model: str
    supported: frozenset[str]
    has_schema: bool


class ApiModel:
    """One model behind litellm's async API. Failures are completions with a status."""

    batch_size = 1

    def __init__(self, name: str, options: ModelOptions) -> None:
        self.name = name
        self.options = options
        self._limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )
        self._route: _Route | None = None
        self._litellm: Any = None
        self._schema_refused = False

    @property
    def identity(self) -> Identity:
        """Name, endpoint and decoding."""
        options = self.options
        return {
            "model": self.name,
            "api_base": options.api_base,
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "seed": options.seed,
            "extra": dict(options.extra),
        }

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer all requests, at most `concurrency` at a time over everybody who asks."""
        if len(requests) == 1:
            return [await self._answer(requests[0])]
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def preflight(self) -> None:
        """Find the provider, its key, and have it answer one tiny request."""
        self._check_key()
        messages = (Message("user", "Answer with the one word: ready"),)
        completion = await self._answer(ChatRequest(messages))
        if completion.status == "error":
            raise PreflightError(
                f"model {self.name} does not answer ({completion.detail}); "
                f"{api_errors.advice(completion.detail)}"
            )

    async def aclose(self) -> None:
        """Close the HTTP sessions that litellm opened."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars for so many tokens by litellm's price list; None when it lists no price."""
        litellm = self._load()
        if self._has_no_price(litellm):
            return None
        costs = litellm.cost_per_token(
            model=self.name, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
        return float(sum(costs))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by litellm's tokenizer for this model (an estimate for most)."""
        return int(self._load().token_counter(model=self.name, text=text))

    def _has_no_price(self, litellm: Any) -> bool:
        try:
            info = litellm.get_model_info(self.name)
        except Exception:
            return True
        return not (info.get("input_cost_per_token") or info.get("output_cost_per_token"))

    def _load(self) -> Any:
        if self._litellm is None:
            self._litellm = load_litellm()
        return self._litellm

    def _routed(self) -> _Route:
        if self._route is None:
            self._route = _find_route(self._load(), self.name, self.options.api_base)
        return self._route

    def _check_key(self) -> None:
        litellm, route = self._load(), self._routed()
        if self.options.api_base is not None:
            return
        check = litellm.validate_environment(self.name)
        if not check["keys_in_environment"] and check["missing_keys"]:
            keys = " and ".join(check["missing_keys"])
            raise PreflightError(
                f"model {self.name} needs {keys} in the environment, and it is not set; "
                f"export it, or use --api-base for a server of your own ({route.provider})"
            )

    async def _answer(self, request: ChatRequest) -> Completion:
        async with self._limiter():
            started = time.perf_counter()
            try:
                response = await self._ask(request)
                completion = _read(response)
            except Exception as error:
                completion = api_errors.completion_of(error)
            latency = time.perf_counter() - started
        return _with_latency(completion, latency)

    async def _ask(self, request: ChatRequest) -> Any:
        litellm = self._load()
        parameters = self._parameters(request)
        try:
            return await self._ask_patiently(litellm, parameters)
        except litellm.BadRequestError as error:
            # A server may refuse the schema that its model is listed for: the prompt says it too.
            if "response_format" not in parameters or api_errors.kind_of(error) != "bad_request":
                raise
            del parameters["response_format"]
            response = await self._ask_patiently(litellm, parameters)
            self._schema_refused = True
            return response

    async def _ask_patiently(self, litellm: Any, parameters: Mapping[str, Any]) -> Any:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.options.retries + 1),
            wait=_Wait(),
            retry=tenacity.retry_if_exception(api_errors.is_transient),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                # litellm's own timeout is per read; this one is for the whole answer.
                async with asyncio.timeout(self.options.timeout + _GRACE):
                    return await litellm.acompletion(**parameters)
        raise AssertionError("tenacity neither answered nor raised")

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        options, route = self.options, self._routed()
        parameters: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": options.max_tokens,
            "temperature": 0.0 if options.temperature is None else options.temperature,
            # An explicit temperature that the model refuses is an error; our default is dropped.
            "drop_params": options.temperature is None,
            "timeout": options.timeout,
            "max_retries": 0,
            "num_retries": 0,
        }
        if options.api_base is not None:
            parameters["api_base"] = options.api_base
            parameters["api_key"] = _key_for(route.provider)
        if options.seed is not None and "seed" in route.supported:
            parameters["seed"] = options.seed + request.sample
        if request.json_schema is not None and route.has_schema and not self._schema_refused:
            parameters["response_format"] = _response_format(request.json_schema)
        return parameters | dict(options.extra)

    def _limiter(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop not in self._limiters:
            self._limiters[loop] = asyncio.Semaphore(self.options.concurrency)
        return self._limiters[loop]


class _Wait(tenacity.wait.wait_base):
    """What the server asks for in `Retry-After`, else exponential; jitter on both; bounded."""

    def __init__(self) -> None:
        self.backoff = tenacity.wait_exponential_jitter(initial=0.5, max=60, jitter=1)
        self.jitter = tenacity.wait_random(0, 0.5)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = api_errors.retry_after(error)
        if asked is None:
            return self.backoff(retry_state)
        return min(asked, _LONGEST_WAIT) + self.jitter(retry_state)


def _find_route(litellm: Any, name: str, api_base: str | None) -> _Route:
    try:
        model, provider, _, _ = litellm.get_llm_provider(name, api_base=api_base)
    except litellm.BadRequestError as error:
        prefix = name.partition("/")[0]
        providers = [str(getattr(p, "value", p)) for p in litellm.provider_list]
        raise PluginError(
            f"model {name!r}: litellm knows no provider {prefix!r}; "
            f"{_nearest(prefix, providers)}; write PROVIDER/MODEL, for example openai/gpt-4o"
        ) from error
    supported = litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ()
    has_schema = provider in _SCHEMA_PROVIDERS or bool(
        litellm.supports_response_schema(model, custom_llm_provider=provider)
    )
    return _Route(provider, model, frozenset(supported), has_schema)


def _nearest(prefix: str, providers: Sequence[str]) -> str:
    hint = did_you_mean(prefix, providers)
    return hint if hint.startswith("did") else "see litellm's list of providers"


def _key_for(provider: str) -> str:
    # Self-hosted servers want no key, but the OpenAI client refuses to start without one.
    return os.environ.get(f"{provider.upper()}_API_KEY") or "none"


def _response_format(schema: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": dict(schema), "strict": True},
    }


def _read(response: Any) -> Completion:
    choice = response.choices[0]
    message, finish = choice.message, choice.finish_reason
    refusal = getattr(message, "refusal", None)
    text = clean_text(message.content or refusal or "")
    if finish == "content_filter":
        status, detail = "refused", "content_filter"
    elif refusal:
        status, detail = "refused", "refusal"
    else:
        status, detail = ("truncated" if finish == "length" else "ok"), ""
    return Completion(
        text=text,
        reasoning=clean_text(getattr(message, "reasoning_content", None) or ""),
        finish_reason=finish,
        status=status,  # type: ignore[arg-type]
        detail=detail,
        usage=_usage(response),
    )


def _usage(response: Any) -> Usage:
    usage = getattr(response, "usage", None)
    answer = getattr(usage, "completion_tokens_details", None)
    prompt = getattr(usage, "prompt_tokens_details", None)
    cost = response._hidden_params.get("response_cost")
    return Usage(
        calls=1,
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
        reasoning_tokens=getattr(answer, "reasoning_tokens", 0) or 0,
        cached_tokens=getattr(prompt, "cached_tokens", 0) or 0,
        cost=float(cost) if cost else None,
    )


def _with_latency(completion: Completion, latency: float) -> Completion:
    from dataclasses import replace

    return replace(completion, latency=round(latency, 4), detail=redact(completion.detail))
