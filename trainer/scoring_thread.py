"""A Scorer in a thread of its own, so that nothing a judge does can freeze a training step.

TRL runs reward functions on one event loop that it needs itself. A judge that blocks its loop (a
`time.sleep`, a request without a time limit) would stop all others and the step with them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from weakref import WeakKeyDictionary

from kardiabench.records import Item, Scorecard, Verdict, missing_scores
from kardiabench.scoring import Scorer

#: Seconds beyond the judges' own limits before a thread counts as stuck.
GRACE = 30.0
#: Seconds that what was cancelled gets to end.
_WIND_UP = 1.0
#: What ends a loop when a judge raises it. In a thread none of them is the user's.
_ENDS = (SystemExit, KeyboardInterrupt)


class ScoringThread:
    """Scores batches on a loop of its own; a loop that hangs or dies is given up for a new one.

    `limit` is the most seconds that a batch may take in all. `make` gives Scorers by phase
    (`train`, `eval`): each loop gets its own, since a Scorer's flights belong to a loop. `warn` is
    told in one sentence. Several threads may use it.
    """

    def __init__(
        self, make: Callable[[], dict[str, Scorer]], limit: float, warn: Callable[[str], None]
    ) -> None:
        self._make = make
        self._limit = limit
        self._warn = warn
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        #: Which loop scores a batch: only the one that failed is given up.
        self._loops: WeakKeyDictionary[Future[list[Scorecard]], asyncio.AbstractEventLoop] = (
            WeakKeyDictionary()
        )
        self.scorers = make()

    def start(self, phase: str, items: Sequence[Item]) -> Future[list[Scorecard]]:
        """Begin scoring; judges are asked while the caller does something else."""
        with self._lock:
            loop = self._running_loop()
            future = asyncio.run_coroutine_threadsafe(self.scorers[phase].score(items), loop)
            self._loops[future] = loop
        return future

    def finish(
        self, phase: str, future: Future[list[Scorecard]], items: Sequence[Item]
    ) -> list[Scorecard]:
        """A scorecard an item, in order; without verdicts where the thread hung or died.

        Raises what the Scorer raises on purpose (`ScoringError` under `fail_fast`).
        """
        try:
            return future.result(self._limit)
        except FutureTimeoutError:
            why = f"no verdict in {self._limit:g} s: a judge holds up all others"
        except (CancelledError, *_ENDS, GeneratorExit) as error:
            why = f"the judges' thread ended ({type(error).__name__})"
        with self._lock:
            if self._loops.get(future) is self._loop:
                self._give_up(why)
        return [_unjudged(self.scorers[phase], item, why) for item in items]

    def close(self) -> None:
        """End the loop."""
        with self._lock:
            if self._loop is not None and self._loop.is_running():
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._thread = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._thread is not None and not self._thread.is_alive():
            self._give_up("the judges' thread had ended")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run, args=(self._loop,), name="kardiabench-judges", daemon=True
            )
            self._thread.start()
        return self._loop

    def _give_up(self, why: str) -> None:
        """Leave the loop to itself; the next batch gets a new one with a new Scorer."""
        self._warn(f"{why}; its candidates have no reward, and the judges begin anew")
        self.close()
        self.scorers = self._make()


def _unjudged(scorer: Scorer, item: Item, why: str) -> Scorecard:
    verdicts = [
        Verdict(
            turn_id=item.turn.id,
            judge=judge.name,
            fingerprint=scorer.fingerprints[judge.name],
            scores=missing_scores(judge.dimensions),
            status="error",
            evidence={"judge": why},
        )
        for judge in scorer.judges
    ]
    return scorer.card(item.turn.id, verdicts)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    with suppress(*_ENDS):
        loop.run_forever()
    _wind_up(loop)


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, so that nobody waits for it, and close the loop."""
    deadline = time.monotonic() + _WIND_UP
    while (left := asyncio.all_tasks(loop)) and time.monotonic() < deadline:
        for task in left:
            task.cancel()
        with suppress(*_ENDS):  # what ended the loop reaches those who wait for it
            loop.run_until_complete(asyncio.wait(left, timeout=_WIND_UP / 10))
    if not left:
        loop.close()
