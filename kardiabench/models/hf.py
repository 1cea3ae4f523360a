"""Models that transformers runs in this process: `hf/NAME_OR_PATH`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import ConfigError, KardiaBenchError, PreflightError, did_you_mean
from kardiabench.models.local.chances import chances_of
from kardiabench.models.local.chat import ChatFormat, Prompt, TemplateError
from kardiabench.models.local.decoding import ReplyDecoder, completion_of
from kardiabench.models.local.engine import Capacity, Engine, close_engine, open_engine
from kardiabench.models.local.jobs import Job, Sampling, Written
from kardiabench.models.local.loading import check_installed
from kardiabench.models.local.rooms import room_for
from kardiabench.models.local.weights import model_identity
from kardiabench.records import ChatRequest, Completion

#: Model arguments: how tokens are chosen, and how much is run together.
_SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")
#: Turns of a dialogue, about; rows of a batch before the device is known.
_TURNS, _ROWS = 8, 64
_CAPACITY = ("batch_rows", "batch_tokens", "prefix_sharing")


def build(name: str, options: ModelOptions) -> HfModel:
    """The `ModelFactory` of `hf/…`; raises `PreflightError` where a package is missing."""
    check_installed(name.partition("/")[2], options.local)
    return HfModel(name, options)


class HfModel:
    """A causal language model, its chat template, its special tokens.

    Greedy unless a temperature is given; of the generation config only the end tokens are used.
    """

    batch_size = 1
    is_local = True

    def __init__(self, name: str, options: ModelOptions) -> None:
        self.name = name
        self.options = options
        self._place = name.partition("/")[2]
        self._sampling = _sampling(options)
        self._capacity = _capacity(options)
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._format: ChatFormat | None = None

    @property
    def dialogues_at_once(self) -> int:
        """Whole dialogues that are read and written together, by the rows of a batch."""
        rows = self._capacity.rows or (_ROWS if self._engine is None else self._engine.rows)
        return max(1, rows // _TURNS)

    @cached_property
    def identity(self) -> Identity:
        """Backend, name, what is in its files, and how tokens are chosen; no device, no path."""
        extra = {name: self.options.extra[name] for name in _SAMPLING if name in self.options.extra}
        return model_identity("hf", self._place, self.options, extra)

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer every request, in order: those that share a beginning read it once."""
        started = time.perf_counter()
        try:
            form, decoder, context = await self.chat_format()
        except KardiaBenchError as error:
            return [Completion(status="error", detail=f"engine: {error}") for _ in requests]
        prepared = [self._prepared(request, form, decoder, context) for request in requests]
        jobs = [job for job in prepared if isinstance(job, Job)]
        written = iter(await self._written(jobs) if jobs else [])
        seconds = time.perf_counter() - started
        return [
            one if isinstance(one, Completion) else _completion(one, next(written), seconds)
            for one in prepared
        ]

    async def _written(self, jobs: Sequence[Job]) -> Sequence[Written | Completion]:
        """What the model writes; whatever goes wrong there is the failure of these requests."""
        try:
            return await self._engine_now.run(jobs)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return [Completion(status="error", detail=f"internal: {said}")] * len(jobs)

    async def preflight(self) -> None:
        """Load the model and look at its chat template; raise `PreflightError`."""
        form, _, _ = await self.chat_format()
        try:
            kind, switch = form.kind, form.has_switch
        except TemplateError as error:
            raise PreflightError(f"model {self.name}: {error}; give another model") from error
        if self.options.local.thinking is not None and not switch:
            what = "has no chat template" if kind == "plain" else "has no switch for thinking"
            raise PreflightError(
                f"--thinking/--no-thinking: {self.name} {what}; leave the option out"
            )

    async def chat_format(self) -> tuple[ChatFormat, ReplyDecoder, int | None]:
        """How prompts are made and replies are read, and the context in tokens; loads the model."""
        async with self._opening:
            if self._engine is None:
                self._engine = await open_engine(self._place, self.options.local, self._capacity)
        loaded = self._engine.loaded
        if self._format is None:
            self._format = ChatFormat(loaded.tokenizer, self.options.local.thinking)
        ends = (*loaded.eos_ids, *self._format.turn_ends)
        decoder = ReplyDecoder(loaded.tokenizer, ends, self._format.stops)
        return self._format, decoder, loaded.context

    async def aclose(self) -> None:
        """Give the model back; the last who has it frees its memory."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await close_engine(engine)

    @property
    def counts(self) -> Any:
        """What the runner has computed so far; None before it runs."""
        engine = self._engine
        return None if engine is None or engine.runner is None else engine.runner.counts

    @property
    def _engine_now(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the model is not loaded")
        return self._engine

    def _prepared(
        self,
        request: ChatRequest,
        form: ChatFormat,
        decoder: ReplyDecoder,
        context: int | None,
    ) -> Job | Completion:
        """The job of a request, or the completion that says why there is none."""
        try:
            prompt: Prompt = form.prompt(request.messages)
        except TemplateError as error:
            return Completion(status="error", detail=f"template: {error}")
        room = room_for(len(prompt.ids), self.options.max_tokens, context)
        if isinstance(room, str):
            return Completion(status="error", detail=f"context: {room}")
        return Job(prompt, decoder, room, self._of_sample(request.sample), request.top_logprobs)

    def _of_sample(self, sample: int) -> Sampling:
        seed = self.options.seed
        return replace(self._sampling, seed=None if seed is None else seed + sample)


def _completion(job: Job, written: Written | Completion, seconds: float) -> Completion:
    if isinstance(written, Completion):
        return written
    if written.out_of_memory:
        return Completion(
            status="error",
            detail="memory: this prompt alone does not fit; use --dtype bfloat16, --quantize or a "
            "larger device",
        )
    completion = completion_of(
        job.decoder,
        job.prompt,
        written.ids,
        written.finish_reason or "length",
        latency=seconds,
        cached_tokens=written.cached,
    )
    found = chances_of(
        job.decoder, written.ids, written.chances, completion.text, job.prompt.prefill
    )
    return replace(completion, chances=found)


def _sampling(options: ModelOptions) -> Sampling:
    chosen = {key: options.extra[key] for key in _SAMPLING if key in options.extra}
    for key in options.extra:
        if key not in (*_SAMPLING, *_CAPACITY):
            hint = did_you_mean(key, (*_SAMPLING, *_CAPACITY))
            raise ConfigError(f"hf/: unknown model argument {key!r}; {hint}")
    for key, value in chosen.items():
        whole = key == "top_k"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ConfigError(f"--model-arg {key}={value!r} is not a number")
        low, high = _RANGES[key]
        if not low <= value <= high:
            raise ConfigError(f"--model-arg {key}={value!r} is not between {low:g} and {high:g}")
    numbers: Mapping[str, Any] = chosen
    return Sampling(temperature=options.temperature or 0.0, **numbers)


_RANGES: Mapping[str, tuple[float, float]] = {
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
}


def _capacity(options: ModelOptions) -> Capacity:
    given = {**options.engine, **options.extra}
    sizes: dict[str, int | None] = {}
    for key in ("batch_rows", "batch_tokens"):
        value = given.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ConfigError(f"--model-arg {key}={value!r} is not a whole number from 1")
        sizes[key] = value
    sharing = given.get("prefix_sharing", True)
    if not isinstance(sharing, bool):
        raise ConfigError(f"--model-arg prefix_sharing={sharing!r} is neither true nor false")
    return Capacity(sizes["batch_rows"], sizes["batch_tokens"], sharing)
