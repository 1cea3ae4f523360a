"""Has a run's judges score the frozen anchors, at the end of a run: the measurement of drift."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from kardiabench.anchors import Anchor, load_anchors
from kardiabench.contracts import Judge
from kardiabench.drift import LEAST_TURNS, read_anchor_verdicts
from kardiabench.files import Log
from kardiabench.runner import Control, reason_given
from kardiabench.scoring import JUDGED, Scorer
from kardiabench.session import Session
from kardiabench.store import ANCHORS, RunStore, verdict_lines


class Job(NamedTuple):
    """Anchors that one judge is asked about together."""

    judge: Judge
    anchors: Sequence[Anchor]


def anchored_judges(session: Session) -> list[Judge]:
    """The judges that score the anchors: those that ask a model, in a run of enough turns.

    None in a part of a run: the merged run scores them once.
    """
    if session.dialogues.part is not None or session.dialogues.n_turns < LEAST_TURNS:
        return []
    return [judge for judge in session.scorer.judges if getattr(judge, "cacheable", True)]


def pending_jobs(session: Session, store: RunStore, *, retry: bool) -> list[Job]:
    """What the run directory lacks; with `retry` what failed counts as lacking."""
    judges = anchored_judges(session)
    if not judges:
        return []
    known, marks = read_anchor_verdicts(store.path), session.scorer.fingerprints
    jobs = []
    for judge in judges:
        there = known.of(marks[judge.name]).items()
        done = {name for name, verdict in there if verdict.status in JUDGED or not retry}
        todo = [anchor for anchor in load_anchors() if anchor.id not in done]
        size = max(1, getattr(judge, "batch_size", 1))
        jobs += [Job(judge, todo[at : at + size]) for at in range(0, len(todo), size)]
    return jobs


async def score_anchors(
    session: Session, store: RunStore, control: Control, jobs: Sequence[Job]
) -> None:
    """Do `jobs` until all are done or `control` says stop.

    No cache is read: yesterday's verdicts would hide what has changed since.
    """
    if not jobs:
        return
    with closing(Log(store.path / ANCHORS)) as log:
        work = _Work(session, control, log, iter(jobs))
        async with asyncio.TaskGroup() as group:
            for _ in range(session.settings.concurrency):
                group.create_task(work.run())


@dataclass
class _Work:
    session: Session
    control: Control
    log: Log
    jobs: Iterator[Job]

    async def run(self) -> None:
        for job in self.jobs:
            if self.control.stop or not self.control.affordable():
                return
            await self._judge(job)

    async def _judge(self, job: Job) -> None:
        judge, anchors = job
        scorer = Scorer([judge], {judge.name: 1.0}, on_usage=self.control.pay)
        with self.control.call():
            verdicts = await scorer.verdicts(judge, [anchor.item for anchor in anchors])
        for anchor, verdict in zip(anchors, verdicts, strict=True):
            if not self.control.ends_over(verdict.status, reason_given(verdict)):
                self.log.append(verdict_lines(anchor.item.reply, [verdict]))
