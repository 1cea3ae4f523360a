"""A judge outside of a run: opened by its spec, asked about items, every verdict kept at once.

`judges attack`, `judges check`, `judges calibrate` and `compare` measure with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kardiabench.contracts import ChatModel, Judge
from kardiabench.errors import EXIT_INCOMPLETE, KardiaBenchError, PreflightError, first_failure
from kardiabench.fingerprints import fingerprint
from kardiabench.journal import Journal
from kardiabench.models.api_errors import FATAL_KINDS, advice
from kardiabench.plugins import load_registry
from kardiabench.preflight import sample_item
from kardiabench.progress import INTERVAL, bar, can_redraw
from kardiabench.records import Item, Usage, Verdict
from kardiabench.redaction import refuse_secrets
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import JUDGED, Scorer, item_key
from kardiabench.session import Models, judge_context
from kardiabench.settings import RunSettings

_T = TypeVar("_T")
#: After so many judgements, all of them failed, nothing more is asked.
PATIENCE = 10
_SHOWN = 3


class InstrumentError(KardiaBenchError):
    """A judge cannot be measured: it judges nothing, or its provider refuses every call."""

    exit_code = EXIT_INCOMPLETE


@dataclass
class Bench:
    """Opens judges and asks them about items. `usage` sums what was paid for in this go."""

    registry: Registry
    models: Models
    journal: Journal | None = None
    quiet: bool = False
    usage: Usage = field(default_factory=Usage)
    _meter: _Meter | None = None

    def make(self, spec: str) -> Judge:
        """The judge of a spec (`rubric:model=…`); raises as `Registry.make_judge`.

        An option that holds a key is refused: a judge's identity ends in its card.
        """
        name, options = parse_spec(spec)
        refuse_secrets(options, f"--judge {name}")
        return self.registry.make_judge(spec, judge_context(self.models))

    async def verdicts(
        self, judge: Judge, items: Sequence[Item], task: str, *, patient: bool = False
    ) -> list[Verdict]:
        """One verdict an item, in order, as many at a time as the settings' concurrency allows.

        `task` names what they are for: under another task the same item is judged anew. Whole
        judgements go into the journal as they come and are not asked for again. Raises
        `InstrumentError` when the first `PATIENCE` judgements fail, all of them, with what the
        judge said, unless `patient`; and when the provider refuses every call.
        """
        scorer = Scorer([judge], weights={judge.name: 1.0}, on_usage=self._pay)
        work = _Work(self, scorer, judge, task, patient)
        size = max(1, getattr(judge, "batch_size", 1))
        slots = asyncio.Semaphore(self.models.settings.concurrency)
        chunks = [items[start : start + size] for start in range(0, len(items), size)]

        async def one(chunk: Sequence[Item]) -> list[Verdict]:
            async with slots:
                return await work.judge(chunk)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(chunk)) for chunk in chunks]
        work.check()
        return [verdict for task_ in tasks for verdict in task_.result()]

    async def preflight(self, judge: Judge) -> None:
        """Have the judge's models answer and the judge judge one sample reply.

        Raises `PreflightError` with the next step.
        """
        for model in self.models.opened.values():
            check_key: Callable[[], None] | None = getattr(model, "check_key", None)
            if check_key is not None:
                check_key()
            await model.preflight()
        scorer = Scorer([judge], weights={judge.name: 1.0}, on_usage=self._pay)
        (verdict,) = await scorer.verdicts(judge, [sample_item()])
        if verdict.status == "error":
            raise PreflightError(
                f"judge {judge.name} did not judge a sample reply ({_said(verdict)}); mend it, or "
                "choose another --judge"
            )

    @contextmanager
    def measuring(self, total: int, what: str) -> Iterator[None]:
        """Show progress towards `total` judgements while the block runs."""
        with _Meter(total, what, self).shown() as meter:
            self._meter = meter
            try:
                yield
            finally:
                self._meter = None

    @property
    def opened(self) -> list[ChatModel]:
        """The models that judges have opened so far."""
        return list(self.models.opened.values())

    def _pay(self, usage: Usage) -> None:
        self.usage = Usage.total([self.usage, usage])

    def done(self, number: int) -> None:
        """Count judgements towards what is shown."""
        if self._meter is not None:
            self._meter.advance(number)


def open_bench(
    plugins: Sequence[str] = (),
    *,
    judge_model: str | None = None,
    concurrency: int = 32,
    timeout: float = 120.0,
    retries: int = 6,
    quiet: bool = False,
) -> Bench:
    """A bench whose judges talk to their models in the manner given; nothing is called."""
    settings = RunSettings(
        "(none)",
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        plugins=list(plugins),
        judge_model=judge_model,
    )
    registry = load_registry(settings.plugins)
    return Bench(registry, Models(registry, settings), quiet=quiet)


def run(bench: Bench, work: Callable[[], Awaitable[_T]]) -> _T:
    """Run `work` on an event loop of its own and close the models; one failure is raised alone."""

    async def main() -> _T:
        try:
            return await work()
        finally:
            for model in bench.opened:
                await model.aclose()

    try:
        return asyncio.run(main())
    except BaseExceptionGroup as group:
        raise first_failure(group) from group


@dataclass
class _Work:
    """One task of one judge."""

    bench: Bench
    scorer: Scorer
    instrument: Judge
    task: str
    patient: bool = False
    judged: int = 0
    failed: list[Verdict] = field(default_factory=list)

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        journal, mark = self.bench.journal, fingerprint(self.instrument.identity)
        keys = [item_key(*item) for item in items]
        known = [journal.get(self.task, mark, key) if journal else None for key in keys]
        asked = [item for item, verdict in zip(items, known, strict=True) if verdict is None]
        fresh = iter(await self.scorer.verdicts(self.instrument, asked))
        verdicts = [verdict or next(fresh) for verdict in known]
        for key, old, verdict in zip(keys, known, verdicts, strict=True):
            if journal and old is None:
                journal.put(self.task, key, verdict)
            self._note(verdict)
        self.bench.done(len(items))
        return verdicts

    def _note(self, verdict: Verdict) -> None:
        if verdict.status in JUDGED:
            self.judged += 1
            return
        said = _said(verdict)
        if verdict.status == "error" and said.partition(":")[0] in FATAL_KINDS:
            raise InstrumentError(f"judge {self.instrument.name}: {said}; {advice(said)}")
        self.failed.append(verdict)
        if len(self.failed) >= PATIENCE:
            self.check()

    def check(self) -> None:
        """Raise `InstrumentError` when everything so far failed."""
        if self.patient or self.judged or not self.failed:
            return
        answers = "; ".join(
            f"{number}. {verdict.status}: {_said(verdict)}"
            for number, verdict in enumerate(self.failed[:_SHOWN], 1)
        )
        raise InstrumentError(
            f"judge {self.instrument.name} judged none of the first {len(self.failed)} replies, so "
            f"there is nothing to measure; its first answers: {answers}; choose another model, "
            f"or see its prompt with: kardiabench judges show {self.instrument.name}"
        )


@dataclass
class _Meter:
    """Progress of judgements: a live line in a terminal, plain lines elsewhere."""

    total: int
    what: str
    bench: Bench
    done: int = 0
    _bar: Any = None
    _task: Any = None
    _shown: float = field(default_factory=time.monotonic)

    @contextmanager
    def shown(self) -> Iterator[_Meter]:
        if self.bench.quiet or not can_redraw():
            yield self
            return
        self._bar = bar()
        self._task = self._bar.add_task(self.what, total=self.total, note="")
        with self._bar:
            yield self

    def advance(self, number: int) -> None:
        self.done += number
        note = spent(self.bench.usage)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif not self.bench.quiet and time.monotonic() - self._shown >= INTERVAL:
            self._shown = time.monotonic()
            sys.stderr.write(f"{self.what}: {self.done}/{self.total} judgements, {note}\n")


def spent(usage: Usage) -> str:
    """What was used, in words: `12 calls, $0.0100`."""
    price = "no price known" if usage.cost is None else f"${usage.cost:.4f}"
    return f"{usage.calls:,} calls, {price}" if usage.calls else "no calls"


def _said(verdict: Verdict) -> str:
    return " ".join(verdict.evidence.values()) or "no reason given"
