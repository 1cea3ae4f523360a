"""Any API that litellm knows: the backend of every model name without a prefix of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import tenacity

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import ConfigError, PluginError, PreflightError, did_you_mean
from kardiabench.models import api_errors
from kardiabench.models.api_answers import read_answer
from kardiabench.records import (
    ChatRequest,
    Completion,
    Message,
)
from kardiabench.redaction import redact, refuse_secrets, refuse_url_secrets

_FIRST_WAIT = 0.5
_LONGEST_BACKOFF = 60.0
_LONGEST_WAIT = 120.0
_PREFLIGHT_RETRIES = 2
#: Servers that constrain output to a schema whatever the model, so litellm's list does not matter.
_SCHEMA_PROVIDERS = frozenset({"hosted_vllm"})
#: Where Claude is served, and a cached beginning has to be marked.
_MARKING_PROVIDERS = frozenset({"anthropic", "azure_ai", "bedrock", "vertex_ai"})
#: Parameters that are not `extra`: they would change who is asked, what, or how it is read.
_RESERVED: Mapping[str, str] = {
    "model": "it is --model",
    "api_base": "use --api-base",
    "base_url": "use --api-base",
    "messages": "they are the dataset's",
    "stream": "answers are read whole",
    "n": "one answer a request is read",
    "fallbacks": "another model would answer for this one",
    "mock_response": "no model would answer",
    "num_retries": "failed calls are already tried again",
    "max_retries": "failed calls are already tried again",
}


def build(name: str, options: ModelOptions) -> ApiModel:
    """The `ModelFactory` of everything that litellm serves."""
    refuse_secrets(options.extra, "--model-arg")
    refuse_url_secrets(options.api_base, "--api-base")
    for reserved in _RESERVED.keys() & options.extra.keys():
        raise ConfigError(f"--model-arg: {reserved!r} cannot be set here: {_RESERVED[reserved]}")
    if not re.fullmatch(r"[\w.:@-][^\s]*", name):
        raise PluginError(f"model {name!r} is not a model name; write for example openai/gpt-4o")
    return ApiModel(name, options)


@cache
def load_litellm() -> Any:
    """Import litellm late (over 2 s) and quietly: nothing fetched, no banners, no telemetry."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    if "LITELLM_LOG" not in os.environ:
        # It logs nothing here, and its search for keys in a long error takes minutes; what leaves
        # this module has gone through our own redaction.
        os.environ.setdefault("LITELLM_DISABLE_REDACT_SECRETS", "true")
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.disable_hf_tokenizer_download = True
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    # Left behind when a call is cancelled while a thread of litellm's still prepares it.
    warnings.filterwarnings("ignore", r"coroutine '[\w.<>]*completion\w*' was", RuntimeWarning)
    if "LITELLM_LOG" not in os.environ:
        logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


@dataclass(frozen=True, slots=True)
class _Route:
    """What litellm makes of a model name: who serves it, and what every request carries."""

    provider: str
    fixed: Mapping[str, Any]
    takes_seed: bool
    takes_schema: bool
    takes_logprobs: bool
    marks_prefix: bool


class ApiModel:
    """One model behind litellm's async API. Failures are completions with a status.

    `first_wait` is how many seconds pass, about, before a failed call is tried a second time; it
    doubles from there. What a server asks for in `Retry-After` comes first.
    """

    batch_size = 1

    def __init__(
        self, name: str, options: ModelOptions, *, first_wait: float = _FIRST_WAIT
    ) -> None:
        self.name = name
        self.options = options
        self._wait = _Wait(first_wait)
        self._limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )
        self._route: _Route | None = None
        #: Parameters of ours that the server turned out to refuse: they are left out from then on.
        self._refused: frozenset[str] = frozenset()

    @property
    def identity(self) -> Identity:
        """Name, kind of endpoint and decoding.

        The address of a server of one's own is left out: the same checkpoint served from another
        machine is the same model. `endpoint` tells servers apart for the cache.
        """
        options = self.options
        return {
            "model": self.name,
            "endpoint": "provider" if self.endpoint is None else "custom",
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "seed": options.seed,
            "extra": dict(options.extra),
        }

    @property
    def endpoint(self) -> str | None:
        """The address that is asked where it is not the provider's own."""
        if self.options.api_base is not None:
            return self.options.api_base
        prefix = self.name.partition("/")[0].upper() if "/" in self.name else "OPENAI"
        variables = (f"{prefix}_{suffix}" for suffix in ("BASE_URL", "API_BASE"))
        return next((os.environ[name] for name in variables if os.environ.get(name)), None)

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer all requests, at most `concurrency` at a time over everybody who asks."""
        if len(requests) == 1:
            return [await self._answer(requests[0])]
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def preflight(self) -> None:
        """Find the provider, its key, and have it answer one tiny request."""
        self.check_key()
        request = ChatRequest((Message("user", "Answer with the one word: ready"),))
        retries = min(self.options.retries, _PREFLIGHT_RETRIES)
        completion = await self._answer(request, retries)
        if completion.status == "error":
            raise PreflightError(
                f"model {self.name} does not answer ({completion.detail}); "
                f"{api_errors.advice(completion.detail)}"
            )

    async def aclose(self) -> None:
        """Close the HTTP sessions that litellm opened, once no other model needs them."""
        if self not in _IN_USE:
            return
        _IN_USE.discard(self)
        if not _IN_USE:
            litellm = load_litellm()
            await litellm.close_litellm_async_clients()
            # litellm would go on handing out the closed clients.
            litellm.in_memory_llm_clients_cache.flush_cache()

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars for so many tokens by litellm's price list; None when it lists no price."""
        litellm = load_litellm()
        if self._has_no_price(litellm):
            return None
        costs = litellm.cost_per_token(
            model=self.name, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
        return float(sum(costs))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by litellm's tokenizer for this model (an estimate for most)."""
        return int(load_litellm().token_counter(model=self.name, text=text))

    def _has_no_price(self, litellm: Any) -> bool:
        try:
            info = litellm.get_model_info(self.name)
        except Exception:
            return True
        return not (info.get("input_cost_per_token") or info.get("output_cost_per_token"))

    def _routed(self) -> _Route:
        if self._route is None:
            self._route = _find_route(load_litellm(), self.name, self.options)
        return self._route

    def check_key(self) -> None:
        """Raise `PreflightError` when the provider's key is not set; nothing is sent."""
        provider = self._routed().provider
        if self.options.api_base is not None or provider in _KEYLESS_PROVIDERS:
            return
        missing = _missing_keys(load_litellm(), self.name)
        if missing:
            raise PreflightError(
                f"model {self.name} needs {' or '.join(missing)} in the environment, and it is "
                "not set; export it, or use --api-base for a server of your own"
            )

    async def _answer(self, request: ChatRequest, retries: int | None = None) -> Completion:
        _IN_USE.add(self)
        async with self._limiter():
            started = time.perf_counter()
            try:
                return await self._ask(
                    request, self.options.retries if retries is None else retries
                )
            except Exception as error:
                failed = api_errors.completion_of(error)
                latency = round(time.perf_counter() - started, 4)
                return replace(failed, latency=latency, detail=redact(failed.detail))

    async def _ask(self, request: ChatRequest, retries: int) -> Completion:
        """Ask, and ask again without what the server refuses of our own additions."""
        parameters, dropped = self._parameters(request), set[str]()
        while True:
            try:
                completion = await self._ask_patiently(parameters, retries)
            except Exception as error:
                name = self._droppable(error, parameters)
                if name is None:
                    raise
                for refused in _WITH.get(name, (name,)):
                    parameters.pop(refused, None)
                    dropped.add(refused)
            else:
                self._refused |= dropped
                return completion

    def _droppable(self, error: Exception, parameters: Mapping[str, Any]) -> str | None:
        """Which parameter to leave out after `error`: nobody asked for just this one, or None."""
        if api_errors.kind_of(error) != "bad_request":
            return None
        text = str(error)
        if "temperature" in text and self._is_default_temperature(parameters):
            return "temperature"
        # A server may refuse what its model is listed for: judges can do without.
        optional = ("logprobs", "response_format")
        return next((name for name in optional if name in parameters), None)

    def _is_default_temperature(self, parameters: Mapping[str, Any]) -> bool:
        asked = self.options.temperature is not None or "temperature" in self.options.extra
        return "temperature" in parameters and not asked

    async def _ask_patiently(self, parameters: Mapping[str, Any], retries: int) -> Completion:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(retries + 1),
            wait=self._wait,
            retry=tenacity.retry_if_exception(api_errors.is_transient),
            reraise=True,
        )
        return await retrying(self._ask_once, parameters)

    async def _ask_once(self, parameters: Mapping[str, Any]) -> Completion:
        started = time.perf_counter()
        try:
            # litellm's own timeout is for a silence; this one is for the whole answer.
            async with asyncio.timeout(self.options.timeout):
                response = await load_litellm().acompletion(**parameters)
        except TimeoutError as error:
            limit = self.options.timeout
            raise TimeoutError(f"no complete answer within {limit:g} s") from error
        return read_answer(response, time.perf_counter() - started)

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        route = self._routed()
        parameters = {
            "messages": [_message(m, marked=route.marks_prefix) for m in request.messages],
            **route.fixed,
        }
        if self.options.seed is not None and route.takes_seed and "seed" not in parameters:
            parameters["seed"] = self.options.seed + request.sample
        if request.json_schema is not None and route.takes_schema:
            parameters.setdefault("response_format", _response_format(request.json_schema))
        if request.top_logprobs and route.takes_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        for name in self._refused:
            parameters.pop(name, None)
        return parameters

    def _limiter(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop not in self._limiters:
            self._limiters[loop] = asyncio.Semaphore(self.options.concurrency)
        return self._limiters[loop]


#: Models that may hold HTTP sessions: litellm shares its sessions among them.
_IN_USE: WeakSet[ApiModel] = WeakSet()
#: Parameters that mean nothing without another one.
_WITH: Mapping[str, tuple[str, ...]] = {"logprobs": ("logprobs", "top_logprobs")}
#: They have other ways to log in than a key in the environment, or need none.
_KEYLESS_PROVIDERS = frozenset(
    {"azure", "azure_ai", "bedrock", "ollama", "ollama_chat", "sagemaker", "vertex_ai"}
)


class _Wait(tenacity.wait.wait_base):
    """What the server asks for in `Retry-After`, else exponential; jitter on both; bounded."""

    def __init__(self, first: float) -> None:
        backoff = tenacity.wait_exponential(multiplier=first, max=_LONGEST_BACKOFF)
        self.backoff = backoff + tenacity.wait_random(0, 2 * first)
        self.jitter = tenacity.wait_random(0, first)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = api_errors.retry_after(error)
        if asked is None:
            return self.backoff(retry_state)
        return min(asked, _LONGEST_WAIT) + self.jitter(retry_state)


def _find_route(litellm: Any, name: str, options: ModelOptions) -> _Route:
    try:
        model, provider, key, _ = litellm.get_llm_provider(name, api_base=options.api_base)
    except litellm.BadRequestError as error:
        raise PluginError(_unknown_model(litellm, name)) from error
    supported = litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ()
    fixed: dict[str, Any] = {
        "model": name,
        "timeout": options.timeout,
        "max_retries": 0,
        "num_retries": 0,
        **_temperature(litellm, model, provider, options),
        **_endpoint(litellm, name, key, options.api_base),
    }
    if "max_completion_tokens" not in options.extra:
        fixed["max_tokens"] = options.max_tokens
    return _Route(
        provider=provider,
        fixed=fixed | dict(options.extra),
        takes_seed="seed" in supported,
        takes_schema=_takes_schema(litellm, model, provider, options.api_base),
        takes_logprobs={"logprobs", "top_logprobs"} <= {*supported},
        marks_prefix=_marks_prefix(litellm, model, provider),
    )


def _temperature(
    litellm: Any, model: str, provider: str, options: ModelOptions
) -> dict[str, float]:
    """The temperature to send: as asked, else 0 unless litellm knows that the model refuses it."""
    if options.temperature is not None:
        return {"temperature": options.temperature}
    effort = {k: v for k, v in options.extra.items() if k == "reasoning_effort"}
    try:
        litellm.get_optional_params(
            model=model, custom_llm_provider=provider, temperature=0.0, drop_params=False, **effort
        )
    except litellm.UnsupportedParamsError:
        return {}
    return {"temperature": 0.0}


def _endpoint(litellm: Any, name: str, key: str | None, api_base: str | None) -> dict[str, str]:
    if api_base is None:
        return {}
    # Self-hosted servers want no key, but the clients refuse to start without one.
    keyless = key is None and bool(_missing_keys(litellm, name))
    return {"api_base": api_base} | ({"api_key": "none"} if keyless else {})


def _takes_schema(litellm: Any, model: str, provider: str, api_base: str | None) -> bool:
    if provider in _SCHEMA_PROVIDERS:
        return True
    if litellm.supports_response_schema(model, custom_llm_provider=provider):
        return True
    # A server of one's own behind OpenAI's protocol: nobody lists its models, so it is tried.
    return provider == "openai" and api_base is not None and model not in litellm.model_cost


def _marks_prefix(litellm: Any, model: str, provider: str) -> bool:
    """Whether the provider caches only the beginnings that a request marks, as Anthropic does."""
    if provider not in _MARKING_PROVIDERS or "claude" not in model:
        return False
    info = litellm.utils.supports_prompt_caching(model, custom_llm_provider=provider)
    return provider == "anthropic" or bool(info)


def _message(message: Message, *, marked: bool) -> dict[str, Any]:
    """A message as it is sent, its shared beginning marked for the cache where that is asked."""
    if not marked or not message.shared:
        return {"role": message.role, "content": message.content}
    shared, own = message.content[: message.shared], message.content[message.shared :]
    first = {"type": "text", "text": shared, "cache_control": {"type": "ephemeral"}}
    rest = [{"type": "text", "text": own}] if own else []
    return {"role": message.role, "content": [first, *rest]}


def _missing_keys(litellm: Any, name: str) -> list[str]:
    """The variables, one of which has to hold the provider's key; empty when one does."""
    check = litellm.validate_environment(name)
    if check["keys_in_environment"]:
        return []
    return [key for key in check["missing_keys"] if key.endswith(("_KEY", "_TOKEN"))]


def _unknown_model(litellm: Any, name: str) -> str:
    prefix, slash, _ = name.partition("/")
    providers = [str(getattr(p, "value", p)) for p in litellm.provider_list]
    hint = did_you_mean(prefix, providers if slash else litellm.model_list_set)
    what = f"provider {prefix!r}" if slash else "such model"
    return (
        f"model {name!r}: litellm knows no {what}; "
        + (f"{hint} " if hint.startswith("did") else "")
        + "write PROVIDER/MODEL, for example openai/gpt-4o (for an OpenAI-compatible server of "
        f"your own: openai/{name} with --api-base)"
    )


def _response_format(schema: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": dict(schema), "strict": True},
    }
