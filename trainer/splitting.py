"""Draws the samples of a `split` and has them judged, both at the same time."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from kardiabench.contracts import ChatModel, Judge
from kardiabench.dialogues import Dialogues
from kardiabench.errors import RunError, first_failure
from kardiabench.progress import steps
from kardiabench.prompts import PromptPlan
from kardiabench.queues import waiting
from kardiabench.records import ChatRequest, Completion, Item, Reply, Turn
from kardiabench.rows import turns_of
from kardiabench.runner import Control
from kardiabench.scoring import Scorer
from trainer.preflight import ask_judges
from trainer.scorers import Scorers
from trainer.split_log import SplitLog, is_whole

if TYPE_CHECKING:
    from trainer.config import Split

#: Replies that may wait for a judge, a worker: drawing runs ahead of a slow judge this far.
_QUEUE_PER_WORKER = 2


@dataclass(frozen=True)
class Work:
    """Everything that is opened before the first call."""

    stage: Split
    scorers: Scorers
    scorer: Scorer
    model: ChatModel
    dialogues: Dialogues
    prompts: PromptPlan

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges' names."""
        return tuple(judge.name for judge in self.scorer.judges)


class _Sample(NamedTuple):
    turn: Turn
    number: int


class _ToJudge(NamedTuple):
    sample: _Sample
    reply: Reply
    judges: Sequence[str]


@dataclass
class Splitting:
    """Draws what is missing and scores it, both at the same time; on disk as soon as it is there.

    Samples go to the judges over a bounded queue, so that memory does not grow with the dataset.
    """

    work: Work
    log: SplitLog
    control: Control = field(default_factory=Control)
    #: What failed this time, by its kind.
    failures: Counter[str] = field(default_factory=Counter)
    _queue: asyncio.Queue[_ToJudge | None] = field(init=False)
    _jobs: Iterator[Sequence[_Sample]] = field(init=False)
    _done: Callable[[], None] = field(init=False)

    async def run(self) -> None:
        """Do everything that is pending; raises for what stops the work, after storing the rest."""
        pending = self._count()
        try:
            if pending:
                await self._preflight()
                with steps("samples", pending) as self._done, _stoppable(self.control):
                    await self._work_off()
        except BaseExceptionGroup as group:
            raise first_failure(group) from group
        except asyncio.CancelledError:
            if self.control.stop != "interrupt":
                raise
        finally:
            await self.work.model.aclose()
            await self.work.scorers.aclose()
        if self.control.stop == "interrupt":
            raise KeyboardInterrupt
        if self.control.stop is not None:
            raise RunError(
                f"stopped: {self.control.detail}; then give the same command again, which goes on "
                "where it stopped"
            )

    async def _preflight(self) -> None:
        await self.work.model.preflight()
        await ask_judges(self.work.scorers)

    def _count(self) -> int:
        """Samples that lack something."""
        samples = range(self.work.stage.samples)
        return sum(
            self._is_pending(f"{entry.id}/{index}", number)
            for entry in self.work.dialogues.entries
            for index in range(entry.n_turns)
            for number in samples
        )

    def _is_pending(self, turn_id: str, number: int) -> bool:
        return bool(self.log.missing_judges(turn_id, number))  # none without a reply has a verdict

    async def _work_off(self) -> None:
        judging_workers = self.work.stage.judging.concurrency
        self._queue = asyncio.Queue(_QUEUE_PER_WORKER * judging_workers)
        self._jobs = self._plan()
        async with asyncio.TaskGroup() as judging:
            for _ in range(judging_workers):
                judging.create_task(self._judge_worker())
            async with asyncio.TaskGroup() as drawing:
                for _ in range(self._drawers()):
                    drawing.create_task(self._draw_worker())
            for _ in range(judging_workers):
                await self._queue.put(None)

    def _plan(self) -> Iterator[Sequence[_Sample]]:
        """Jobs: whole dialogues where the model shares their beginnings, else as it likes them."""
        whole = (
            [
                _Sample(turn, number)
                for turn in turns_of(dialogue)
                for number in range(self.work.stage.samples)
                if self._is_pending(turn.id, number)
            ]
            for dialogue in self.work.dialogues
        )
        if self._at_once is not None:
            return (job for job in whole if job)
        single = (sample for job in whole for sample in job)
        return iter(lambda: tuple(islice(single, self.work.model.batch_size)), ())

    @property
    def _at_once(self) -> int | None:
        """How many whole dialogues the model wants at a time, if it wants them whole."""
        at_once: int | None = getattr(self.work.model, "dialogues_at_once", None)
        return at_once

    def _drawers(self) -> int:
        """How many jobs are asked for at a time."""
        if self._at_once is not None:
            return max(1, self._at_once // self.work.stage.samples)
        return self.work.stage.concurrency if self.work.model.batch_size == 1 else 1

    async def _draw_worker(self) -> None:
        for job in self._jobs:
            if self.control.stop:
                return
            await self._draw([s for s in job if self.log.needs_reply(s.turn.id, s.number)])
            for sample in job:
                await self._hand_over(sample)

    async def _draw(self, samples: Sequence[_Sample]) -> None:
        if not samples:
            return
        completions = await self.work.model.complete([self._request(s) for s in samples])
        for sample, completion in zip(samples, completions, strict=True):
            self._keep(sample, completion)

    def _request(self, sample: _Sample) -> ChatRequest:
        turn = sample.turn
        messages = self.work.prompts.messages(turn)
        return ChatRequest(messages, turn.id, turn.dialogue.persona_id, sample=sample.number)

    def _keep(self, sample: _Sample, completion: Completion) -> None:
        if self.control.ends_over(completion.status, completion.detail):
            return
        reply = Reply.of(sample.turn.id, completion)
        self.log.add_reply(sample.number, reply)
        if reply.status == "error":  # nothing to judge
            self.failures[reply.detail.partition(":")[0] or "error"] += 1
            self._done()

    async def _hand_over(self, sample: _Sample) -> None:
        turn_id, number = sample.turn.id, sample.number
        if not self.log.needs_reply(turn_id, number):
            judges = self.log.missing_judges(turn_id, number)
            await self._queue.put(_ToJudge(sample, self.log.reply(turn_id, number), judges))

    async def _judge_worker(self) -> None:
        while (first := await self._queue.get()) is not None:
            batch = [first, *waiting(self._queue, self.work.scorer.batch_size - 1)]
            if not self.control.stop:  # else drain, so that drawing is never left waiting
                await self._judge(batch)

    async def _judge(self, batch: Sequence[_ToJudge]) -> None:
        await asyncio.gather(*(self._ask(judge, batch) for judge in self.work.scorer.judges))
        for work in batch:
            self._card(work.sample.turn.id, work.sample.number)
            self._done()

    async def _ask(self, judge: Judge, batch: Sequence[_ToJudge]) -> None:
        asked = [work for work in batch if judge.name in work.judges]
        items = [Item(work.sample.turn, work.reply) for work in asked]
        verdicts = await self.work.scorer.verdicts(judge, items)
        for work, verdict in zip(asked, verdicts, strict=True):
            self.log.add_verdict(work.sample.number, verdict)
            if not is_whole(verdict):
                self.failures[f"judge {judge.name} {verdict.status}"] += 1

    def _card(self, turn_id: str, number: int) -> float | None:
        """The composite of a sample; raises `ScoringError` where a failure is to end it all."""
        return self.work.scorer.card(turn_id, self.log.verdicts(turn_id, number)).composite


@contextmanager
def _stoppable(control: Control) -> Iterator[None]:
    """First Ctrl-C: finish the calls in flight, which are paid for. Second: leave at once."""
    task = asyncio.current_task()
    if threading.current_thread() is not threading.main_thread() or task is None:
        yield
        return

    def interrupt() -> None:
        if control.stop == "interrupt":
            task.cancel()
        control.stop = "interrupt"  # it goes before any other reason: the user wants to leave

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
