"""One loaded transformers model with its runner and its queue, shared by all who ask for it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from kardiabench.contracts import LocalOptions
from kardiabench.models.local.batching import Batcher
from kardiabench.models.local.devices import free_memory, kv_bytes_per_token
from kardiabench.models.local.held import acquire, release
from kardiabench.models.local.jobs import Job, Runner, Written
from kardiabench.models.local.loading import Loaded
from kardiabench.models.local.out_of_memory import is_out_of_memory, release_memory
from kardiabench.models.local.prefix_check import can_share_prefixes, use_shared_prefixes
from kardiabench.models.local.shared_prefix import SharedPrefixRunner
from kardiabench.models.local.turn_by_turn import TurnByTurnRunner

#: Rows written together at most, and the part of free memory that a batch may take.
_ROWS_ON_CPU, _ROWS_ON_GPU = 64, 256
_SHARE_ON_CPU, _SHARE_ON_GPU = 0.25, 0.7
_LEAST_TOKENS = 4096


@dataclass(frozen=True)
class Capacity:
    """How much is run together: rows, tokens of memory; None leaves it to the machine."""

    rows: int | None = None
    tokens: int | None = None
    prefix_sharing: bool = True


class Engine:
    """Runs jobs on one loaded model. `runner` is chosen at the first of them."""

    def __init__(self, loaded: Loaded, capacity: Capacity) -> None:
        self.loaded = loaded
        self.capacity = capacity
        self.batcher = Batcher(self._run)
        self.holders = 0
        self.runner: Runner | None = None

    async def run(self, jobs: Sequence[Job]) -> list[Written]:
        """One reply a job, in order, run together with whatever else waits."""
        return await self.batcher.submit(jobs)

    def _run(self, jobs: Sequence[Job]) -> list[Written]:
        if self.runner is None:
            self.runner = self._choose(jobs)
        return self.runner.run(jobs)

    def _choose(self, jobs: Sequence[Job]) -> Runner:
        """The runner that shares beginnings, if it gives what the model itself gives."""
        loaded, model = self.loaded, self.loaded.model
        if self.capacity.prefix_sharing:
            problem = _trouble_with_sharing(model, max((job.ids for job in jobs), key=len))
            if problem is None:
                use_shared_prefixes(model)
                return SharedPrefixRunner(model, self.rows, self._tokens(), self.batcher.cancelled)
            sys.stderr.write(
                f"note: turns are generated one at a time, since prefixes cannot be shared: "
                f"{problem}\n"
            )
        return TurnByTurnRunner(model, loaded.pad_id, self.batcher.cancelled)

    @property
    def rows(self) -> int:
        """How many replies are written together at most."""
        return self.capacity.rows or (_ROWS_ON_CPU if self._on_cpu else _ROWS_ON_GPU)

    def _tokens(self) -> int:
        if self.capacity.tokens is not None:
            return self.capacity.tokens
        each = kv_bytes_per_token(self.loaded.model.config, self.loaded.model.dtype)
        share = _SHARE_ON_CPU if self._on_cpu else _SHARE_ON_GPU
        return max(_LEAST_TOKENS, int(free_memory(self.loaded.device) * share / each))

    @property
    def _on_cpu(self) -> bool:
        return self.loaded.device == "cpu"

    def close(self) -> None:
        """Stop the queue and give the model back."""
        self.batcher.close()
        release(self.loaded)


_LOCK = threading.Lock()
_ENGINES: WeakKeyDictionary[Loaded, Engine] = WeakKeyDictionary()


async def open_engine(name: str, local: LocalOptions, capacity: Capacity) -> Engine:
    """The engine of `name`: loaded now, in a thread, or the one that is there already.

    Each needs a `close_engine`. Raises as `loading.load`.
    """
    _be_considerate()
    loaded = await asyncio.to_thread(acquire, name, local)
    with _LOCK:
        engine = _ENGINES.get(loaded)
        is_new = engine is None
        if engine is None:
            engine = _ENGINES[loaded] = Engine(loaded, capacity)
        engine.holders += 1
    if not is_new:
        release(loaded)  # the engine holds it once, for everybody
    return engine


async def close_engine(engine: Engine) -> None:
    """Give an engine back; with the last holder it ends."""
    with _LOCK:
        engine.holders -= 1
        last = engine.holders == 0
        if last:
            _ENGINES.pop(engine.loaded, None)
    if last:
        await asyncio.to_thread(engine.close)


def _be_considerate() -> None:
    """Settings that have to stand before torch starts its threads."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def _trouble_with_sharing(model: Any, ids: Sequence[int]) -> str | None:
    try:
        return can_share_prefixes(model, ids)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return "there was not memory enough to try it"
