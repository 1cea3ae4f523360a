"""Models that vLLM runs on this machine: `vllm/NAME_OR_PATH`.

The engine is vLLM's `AsyncLLM`, not `LLM`: whoever asks (many workers that generate, judges on the
same weights) adds requests to one running batch and gets each answer as it is done. `LLM.generate`
takes a list and returns when the longest of it is done, so that the batch runs empty towards its
end, and can serve one caller at a time.

Prompts go as token ids and replies come as token ids: templates, BOS, special tokens and thinking
are read by the same code as for `hf/`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import KardiaBenchError, PreflightError
from kardiabench.models.local.chances import chances_of
from kardiabench.models.local.chat import ChatFormat, Prompt, TemplateError
from kardiabench.models.local.decoding import ReplyDecoder, completion_of
from kardiabench.models.local.rooms import room_for
from kardiabench.models.local.vllm_arguments import (
    deciding,
    engine_part,
    local_arguments,
    sampling_values,
    split_arguments,
)
from kardiabench.models.local.vllm_engine import (
    INSTALL,
    Adapter,
    EngineFailedError,
    SharedEngine,
    acquire,
    check_installed,
    load_vllm,
    release,
)
from kardiabench.models.local.vllm_guided import spans_grammar
from kardiabench.models.local.vllm_stats import EngineStats
from kardiabench.models.local.weights import locate, locate_adapter, model_identity
from kardiabench.records import ChatRequest, Completion, Message

#: Turns of a dialogue, about, and so many more dialogues than would fill the engine exactly.
_TURNS, _SPARE = 8, 1.5
_MOST_DIALOGUES = 128
#: vLLM's own default on most accelerators.
_SEQUENCES = 256
_MOST_LOGPROBS = 20
#: Free white space between the parts of an object is where a small model goes on for ever.
_CONSTRAINING = {"backend": "guidance", "disable_any_whitespace": True}


def build(name: str, options: ModelOptions) -> VllmModel:
    """The `ModelFactory` of `vllm/…`; raises `PreflightError` where vLLM is missing."""
    check_installed()
    return VllmModel(name, options)


class _Asked(NamedTuple):
    """What a request needs: the running engine, how to speak to it, its context in tokens."""

    engine: SharedEngine
    form: ChatFormat
    decoder: ReplyDecoder
    context: int


class VllmModel:
    """One model in vLLM's engine. Greedy unless a temperature is given.

    Of the generation config only the end tokens are used. Models of the same weights and engine
    arguments share one engine, which starts with the first request and ends with the last model.
    """

    batch_size = 1
    is_local = True
    takes_guided_spans = True

    def __init__(self, name: str, options: ModelOptions) -> None:
        self.name = name
        self.options = options
        self._place = name.partition("/")[2]
        own = split_arguments(options.extra)
        self._sampling = own.sampling
        self._given = {**engine_part(options.engine), **own.engine}
        self._fixed = local_arguments(options.local)
        self._engine: SharedEngine | None = None
        self._format: tuple[ChatFormat, ReplyDecoder, int | None] | None = None
        self._reading = asyncio.Lock()

    @cached_property
    def identity(self) -> Identity:
        """Backend, name, what is in its files, and how tokens are chosen; no device, no memory."""
        extra = {**deciding(self._given), **self._sampling}
        return model_identity("vllm", self._place, self.options, extra)

    @property
    def dialogues_at_once(self) -> int:
        """Dialogues that keep the engine full, with some to spare; 128 at most."""
        given = self._given.get("max_num_seqs")
        sequences = given if isinstance(given, int) and given > 0 else _SEQUENCES
        if self._engine is not None and self._engine.running is not None:
            sequences = self._engine.running.scheduler_config.max_num_seqs
        return min(_MOST_DIALOGUES, math.ceil(math.ceil(sequences / _TURNS) * _SPARE))

    @property
    def stats(self) -> EngineStats | None:
        """What the engine has counted so far, for all its users; None before it is asked."""
        return None if self._engine is None else self._engine.stats.copy()

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer every request, in order; all are in the engine at once."""
        try:
            asked = await self._ready()
        except KardiaBenchError as error:
            kind = "install" if str(error) == INSTALL else "engine"
            return [Completion(status="error", detail=f"{kind}: {error}") for _ in requests]
        most = self.options.max_tokens
        return list(await asyncio.gather(*(self._answer(asked, one, most) for one in requests)))

    async def preflight(self) -> None:
        """Start the engine and have it answer a tiny request; say in one sentence why it cannot."""
        asked = await self._ready()
        self._check_format(asked.form)
        request = ChatRequest((Message("user", "Answer with the one word: ready"),))
        completion = await self._answer(asked, request, 1)
        if completion.status == "error":
            raise PreflightError(f"model {self.name} does not answer ({completion.detail})")

    async def chat_format(self) -> tuple[ChatFormat, ReplyDecoder, int | None]:
        """How prompts are made and replies are read, and the context in tokens; starts nothing."""
        async with self._reading:
            if self._format is None:
                load_vllm()
                from kardiabench.models.local.formats import read_format

                self._format = await asyncio.to_thread(read_format, self._place, self.options.local)
        return self._format

    async def aclose(self) -> None:
        """Give the engine back; the last who has it ends its process."""
        engine, self._engine = self._engine, None
        if engine is not None:
            release(engine)

    # --- the engine -----------------------------------------------------------------------------

    async def _ready(self) -> _Asked:
        """The engine, running, and the format, with the context that the engine has room for."""
        form, decoder, _ = await self.chat_format()
        if self._engine is None:
            arguments, adapter = await asyncio.to_thread(self._arguments, form.tokenizer)
            if self._engine is None:  # nobody else has meanwhile
                self._engine = acquire(self.name, arguments, adapter)
        engine = self._engine
        running = await engine.started()
        return _Asked(engine, form, decoder, int(running.model_config.max_model_len))

    def _arguments(self, tokenizer: Any) -> tuple[dict[str, Any], Adapter | None]:
        """What the engine is started with."""
        place = locate(self._place, self.options.local)
        if place.kind == "gguf":
            raise PreflightError(f"{self.name}: vLLM reads no GGUF files; use hf/{self._place}")
        pinned = {"revision": place.revision} if place.revision else {}
        fixed = {"model": place.source, **pinned, **self._fixed}
        return {**fixed, **_defaults(tokenizer), **self._given}, self._adapter()

    def _adapter(self) -> Adapter | None:
        if self.options.local.adapter is None:
            return None
        place = locate_adapter(self.options.local.adapter)
        if place.config.get("peft_type", "LORA") != "LORA":
            raise PreflightError(
                f"{place.name} is a {place.config['peft_type']} adapter, and vLLM takes only LoRA; "
                "merge it into its base and give the result as the model"
            )
        return Adapter(place.name, _adapter_folder(place), _rank(place.config))

    def _check_format(self, form: ChatFormat) -> None:
        try:
            kind, switch = form.kind, form.has_switch
        except TemplateError as error:
            raise PreflightError(f"model {self.name}: {error}; give another model") from error
        if self.options.local.thinking is not None and not switch:
            what = "has no chat template" if kind == "plain" else "has no switch for thinking"
            raise PreflightError(
                f"--thinking/--no-thinking: {self.name} {what}; leave the option out"
            )

    # --- one request ----------------------------------------------------------------------------

    async def _answer(self, asked: _Asked, request: ChatRequest, most: int) -> Completion:
        """Answer one request with `most` tokens at most."""
        started = time.perf_counter()
        try:
            prompt = asked.form.prompt(request.messages)
        except TemplateError as error:
            return Completion(status="error", detail=f"template: {error}")
        room = room_for(len(prompt.ids), most, asked.context)
        if isinstance(room, str):
            return Completion(status="error", detail=f"context: {room}")
        try:
            parameters = self._parameters(asked, request, prompt, room)
            adapted = self.options.local.adapter is not None
            output = await asked.engine.generate(prompt.ids, parameters, adapted=adapted)
        except Exception as error:
            return _failed(error, time.perf_counter() - started)
        return _completion(asked.decoder, prompt, output, time.perf_counter() - started)

    def _parameters(self, asked: _Asked, request: ChatRequest, prompt: Prompt, room: int) -> Any:
        """The `SamplingParams` of one request, which may have `room` tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        decoder = asked.decoder
        seed, temperature = self.options.seed, self.options.temperature or 0.0
        return SamplingParams(
            **sampling_values(self._sampling),
            temperature=temperature,
            max_tokens=room,
            seed=None if seed is None or not temperature else seed + request.sample,
            stop=list(decoder.stops) or None,
            stop_token_ids=sorted(decoder.eos_ids),
            detokenize=bool(decoder.stops),
            skip_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprobs=min(request.top_logprobs, _MOST_LOGPROBS) or None,
            structured_outputs=self._constraint(request, prompt, asked.form),
        )

    def _constraint(self, request: ChatRequest, prompt: Prompt, form: ChatFormat) -> Any:
        """What the answer is held to, if anything.

        A JSON schema is left out where the prompt has opened a think block: the answer comes after.
        """
        from vllm.sampling_params import StructuredOutputsParams

        if request.guided_spans:
            grammar = spans_grammar(
                form.tokenizer,
                prefill=prompt.prefill,
                thinking=form.has_switch and self.options.local.thinking is not False,
                opened=prompt.opens_thinking,
            )
            return StructuredOutputsParams(grammar=grammar)
        if request.json_schema is not None and not prompt.opens_thinking:
            return StructuredOutputsParams(json=dict(request.json_schema))
        return None


def _defaults(tokenizer: Any) -> dict[str, object]:
    """Engine arguments unless others are given: prefix cache, no bars, how answers are held."""
    return {
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,  # ours counts; theirs only logs
        **({"structured_outputs_config": _CONSTRAINING} if tokenizer.is_fast else {}),
    }


def _adapter_folder(place: Any) -> str:
    """Where an adapter lies; one of the Hub is fetched at the commit that identifies it."""
    if place.path is not None:
        return str(place.source)
    from huggingface_hub import snapshot_download

    return str(snapshot_download(place.name, revision=place.revision))


def _rank(config: Mapping[str, Any]) -> int:
    """The highest rank of an adapter's layers."""
    patterns = config.get("rank_pattern") or {}
    return max(int(config.get("r", 8)), *map(int, patterns.values()), 1)


def _completion(decoder: ReplyDecoder, prompt: Prompt, output: Any, seconds: float) -> Completion:
    written = output.outputs[0]
    if written.finish_reason not in ("stop", "length"):
        why = f"internal: vLLM ended the reply ({written.finish_reason or 'no reason given'})"
        return Completion(status="error", detail=why, latency=round(seconds, 4))
    ids = list(written.token_ids)
    completion = completion_of(
        decoder,
        prompt,
        ids,
        "length" if written.finish_reason == "length" else "stop",
        latency=seconds,
        cached_tokens=output.num_cached_tokens or 0,
    )
    if not written.logprobs:
        return completion
    chosen = [{number: one.logprob for number, one in at.items()} for at in written.logprobs]
    found = chances_of(decoder, ids, chosen, completion.text, prompt.prefill)
    return replace(completion, chances=found)


def _failed(error: Exception, seconds: float) -> Completion:
    """A request that has no answer: the engine is gone, refuses it, or failed over it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, EngineFailedError):
        kind = "engine"
    elif names & {"VLLMClientError", "VLLMValidationError", "ValueError", "TypeError"}:
        kind = "bad_request"
    else:
        kind = "internal"
    said = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return Completion(status="error", detail=f"{kind}: {said}", latency=round(seconds, 4))
