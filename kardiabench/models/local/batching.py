"""Callers ask when they like; whatever waits is run together, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from kardiabench.models.local.jobs import CancelledRunError, Job, Written

#: Seconds to wait for callers that are about to ask as well: a judge is asked item by item.
_GATHER = 0.02

_Run = Callable[[Sequence[Job]], list[Written]]


@dataclass
class _Asked:
    jobs: Sequence[Job]
    answer: asyncio.Future[list[Written]]

    def finish(self, written: list[Written]) -> None:
        """Answer, unless the caller has gone."""
        if not self.answer.done():
            self.answer.set_result(written)

    def fail(self, error: Exception) -> None:
        """Raise `error` at the caller, unless it has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass
class _Queue:
    """What waits on one event loop, and the task that sees to it."""

    waiting: list[_Asked] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Batcher:
    """Runs jobs through `run`, one batch at a time, for all callers of all event loops.

    `cancelled` is true while nobody waits any more for the batch that is running.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = WeakKeyDictionary()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kardiabench-model")
        #: Whether the batch that runs is to be given up: each batch has its own.
        self._running = threading.Event()

    def cancelled(self) -> bool:
        """Whether the running batch is to be given up."""
        return self._running.is_set()

    async def submit(self, jobs: Sequence[Job]) -> list[Written]:
        """One reply a job, in order. A caller that is cancelled frees the machine at once."""
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(loop, _Queue())
        asked = _Asked(jobs, loop.create_future())
        queue.waiting.append(asked)
        if queue.task is None or queue.task.done():
            queue.task = loop.create_task(self._drain(queue))
        return await asked.answer

    async def _drain(self, queue: _Queue) -> None:
        while queue.waiting:
            await asyncio.sleep(_GATHER)
            batch = [asked for asked in queue.waiting if not asked.answer.done()]
            queue.waiting.clear()
            if batch:
                await self._answer(batch)
        queue.task = None  # a task that is kept would keep its loop

    async def _answer(self, batch: Sequence[_Asked]) -> None:
        given_up = threading.Event()

        def note(_: object) -> None:
            """When all callers of the batch have gone, so may the batch."""
            if all(asked.answer.cancelled() for asked in batch):
                given_up.set()

        for asked in batch:
            asked.answer.add_done_callback(note)
        jobs = [job for asked in batch for job in asked.jobs]
        loop = asyncio.get_running_loop()
        run = loop.run_in_executor(self._thread, self._run_unless, given_up, jobs)
        try:
            written = iter(await run)
        except (asyncio.CancelledError, CancelledRunError) as error:
            given_up.set()
            _leave(batch)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        except Exception as error:
            for asked in batch:
                asked.fail(error)
            return
        for asked in batch:
            asked.finish([next(written) for _ in asked.jobs])

    def _run_unless(self, given_up: threading.Event, jobs: Sequence[Job]) -> list[Written]:
        """Run the batch in the machine's thread, unless nobody waits for it any more."""
        self._running = given_up
        if given_up.is_set():
            raise CancelledRunError
        return self._run(jobs)

    def close(self) -> None:
        """Give up what runs, and the thread."""
        self._running.set()
        self._thread.shutdown(wait=True, cancel_futures=True)


def _leave(batch: Sequence[_Asked]) -> None:
    """Nobody is to wait for a batch that was given up: most callers have gone already."""
    for asked in batch:
        asked.answer.cancel()
