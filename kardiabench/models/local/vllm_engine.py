"""vLLM's engine in this process's service: shared, restarted once, ended with the process.

An engine belongs to the weights and to the engine's arguments: a model under test and a judge that
have both in common are two users of one engine.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from multiprocessing import resource_tracker
from typing import Any

from kardiabench.errors import KardiaBenchError, PreflightError
from kardiabench.models.local.vllm_arguments import check_engine
from kardiabench.models.local.vllm_reaper import watch
from kardiabench.models.local.vllm_stats import EngineStats, StatLogger

INSTALL = (
    "vllm/… needs vLLM: pip install 'kardiabench[vllm]', in an environment of its own; or serve "
    "the model and use --model hosted_vllm/NAME --api-base URL"
)
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: Seconds that an engine is given to end by itself.
_GRACE = 15.0
#: Set unless the user has: quiet, no reports home, and engines that inherit no locks of ours.
_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


class EngineFailedError(KardiaBenchError):
    """The engine died more often than it is restarted, or could not be started again."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: its name for the user, where it lies, its rank."""

    name: str
    path: str
    rank: int


def check_installed() -> None:
    """Raise `PreflightError` with the install line where vLLM is missing; imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        raise PreflightError(INSTALL)


@cache
def load_vllm() -> Any:
    """Import vLLM late (10 s and more) and quietly; raise `PreflightError` where it is missing."""
    check_installed()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm

    return vllm


@dataclass
class SharedEngine:
    """One engine and its users. It starts with the first request and is made per event loop.

    `name` is what errors call the model; `arguments` are those of `AsyncEngineArgs`.
    """

    name: str
    arguments: Mapping[str, Any]
    adapter: Adapter | None
    users: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    starts: int = 0
    _engine: Any = None
    _loop: asyncio.AbstractEventLoop | None = None
    _lock: asyncio.Lock | None = None
    _deaths: int = 0
    _failed: EngineFailedError | None = None
    _numbers: Any = field(default_factory=count)

    async def generate(self, ids: Sequence[int], parameters: Any, *, adapted: bool) -> Any:
        """The finished `RequestOutput` for a prompt of token `ids`.

        A cancelled call aborts its request. One that was in an engine that died is asked again of
        the next. Raises `EngineFailedError` when the next died too, and what vLLM says of a request
        that it refuses.
        """
        while True:
            engine = await self.started()
            try:
                return await self._ask(engine, ids, parameters, adapted=adapted)
            except Exception as error:
                if not (type(error).__name__ == "EngineDeadError" or engine.errored):
                    raise
            await self._replace(engine)

    async def started(self) -> Any:
        """The running `AsyncLLM`; raise `PreflightError` or `ConfigError` if it cannot start."""
        async with self._lock_of_this_loop():
            if self._failed is not None:  # nobody starts it again
                raise self._failed
            if self._engine is None:
                self._engine = await self._start()
            return self._engine

    @property
    def running(self) -> Any:
        """The `AsyncLLM` if there is one."""
        return self._engine

    def stop(self) -> None:
        """End the engine's process."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        _end(engine)

    async def _ask(self, engine: Any, ids: Sequence[int], parameters: Any, *, adapted: bool) -> Any:
        prompt = load_vllm().TokensPrompt(prompt_token_ids=list(ids))
        lora = _lora_request(self.adapter) if adapted and self.adapter else None
        answer = None
        number = f"kardiabench-{next(self._numbers)}"
        async for output in engine.generate(prompt, parameters, number, lora_request=lora):
            answer = output
        return answer

    async def _replace(self, dead: Any) -> None:
        """Start a new engine for the `dead` one, if nobody has yet and it was the first."""
        async with self._lock_of_this_loop():
            if self._failed is not None:
                raise self._failed
            if self._engine is not dead:
                return
            self._deaths += 1
            if self._deaths > 1:
                self._failed = EngineFailedError(
                    f"vLLM's engine of {self.name} died a second time; what it said of that stands "
                    "above, if anything"
                )
                raise self._failed
            self.stop()
            try:
                self._engine = await self._start()
            except KardiaBenchError as error:
                self._failed = EngineFailedError(f"vLLM's engine died, and a new one: {error}")
                raise self._failed from error

    def _lock_of_this_loop(self) -> asyncio.Lock:
        """What guards the engine; an engine of another loop, which must be over, is ended."""
        loop = asyncio.get_running_loop()
        if self._lock is None or self._loop is not loop:
            self.stop()
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _start(self) -> Any:
        load_vllm()
        engine = await _in_thread(self._build)
        self.starts += 1
        if self.adapter is not None:
            await _put_on(engine, self.adapter, self.name)
        return engine

    def _logger(self, _config: Any, _index: int = 0) -> StatLogger:
        return StatLogger(self.stats)

    def _build(self) -> Any:
        """Make the engine; blocks until its weights are loaded."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        check_engine(self.arguments, AsyncEngineArgs.__dataclass_fields__)
        try:
            arguments = AsyncEngineArgs(**{**_lora_arguments(self.adapter), **self.arguments})
            with _spawning():
                # As for `LLM`: batches of the size that throughput asks for, not latency.
                manner = UsageContext.LLM_CLASS
                return AsyncLLM.from_engine_args(
                    arguments, usage_context=manner, stat_loggers=[self._logger]
                )
        except Exception as error:
            raise PreflightError(
                f"vLLM cannot start {self.name}: {_brief(error)}; what its engine said stands "
                "above, if anything"
            ) from error


#: The engines of this process; those of one key differ in their adapter.
_ENGINES: dict[str, list[SharedEngine]] = {}


def acquire(name: str, arguments: Mapping[str, Any], adapter: Adapter | None) -> SharedEngine:
    """The engine of these `arguments`, for one more user, who gives it back with `release`.

    An engine with an adapter serves users without one as well.
    """
    engines = _ENGINES.setdefault(_key(arguments), [])
    engine = next((e for e in engines if adapter is None or e.adapter == adapter), None)
    if engine is None:
        engine = SharedEngine(name, arguments, adapter)
        engines.append(engine)
    engine.users += 1
    return engine


def release(engine: SharedEngine) -> None:
    """Give the engine back; it ends with its last user."""
    engine.users -= 1
    if engine.users == 0:
        _ENGINES[_key(engine.arguments)].remove(engine)
        engine.stop()


@atexit.register
def _stop_all() -> None:
    """End the engines of whoever did not give theirs back."""
    for engines in _ENGINES.values():
        for engine in engines:
            engine.stop()


def _key(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True, default=repr)


def _lora_arguments(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    rank = next((rank for rank in _RANKS if rank >= adapter.rank), adapter.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


def _lora_request(adapter: Adapter) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, 1, adapter.path)


async def _put_on(engine: Any, adapter: Adapter, name: str) -> None:
    """Load the adapter now: one that does not fit would end the engine with the first request."""
    try:
        await engine.add_lora(_lora_request(adapter))
    except Exception as error:
        _end(engine)
        raise PreflightError(
            f"the adapter {adapter.name} does not fit {name}: {_brief(error)}; give the model that "
            "it was trained on"
        ) from error


def _end(engine: Any) -> None:
    """Shut vLLM's engine down for good."""
    engine.shutdown(timeout=_GRACE)
    engine.shutdown = _done  # its `__del__` calls it again, maybe when its modules are gone


def _done(*_: object, **__: object) -> None:
    """Nothing is left to shut down."""


def _brief(error: BaseException) -> str:
    """The first sentence of what went wrong, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


async def _in_thread(build: Any) -> Any:
    """`build()` in a thread of its own; if the caller is cancelled, what it started is killed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def finish(value: Any, error: BaseException | None) -> None:
        if done.cancelled():
            if value is not None:
                _end(value)
        elif error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def work() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = build()
        except BaseException as error:  # it is raised where it is awaited
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, value, failure)

    before = set(multiprocessing.active_children())
    threading.Thread(target=work, name="vllm-start", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        raise


class _spawning:  # noqa: N801 - a context manager, named as it reads
    """Processes started within get no Ctrl-C (it is ours to handle), and die when we do."""

    def __enter__(self) -> None:
        resource_tracker.ensure_running()  # starting it unblocks the signal again
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._before = set(multiprocessing.active_children())
        self._watching = threading.Event()
        threading.Thread(target=self._watch, name="vllm-watch", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._watching.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _watch(self) -> None:
        """Have the engine's processes watched as soon as there are any: loading takes minutes."""
        while not (started := set(multiprocessing.active_children()) - self._before):
            if self._watching.wait(0.1):
                return
        watch(process.pid for process in started if process.pid is not None)
