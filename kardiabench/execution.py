"""One go at a run: preflight, the runner under signal handlers, the summary, the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kardiabench import preflight
from kardiabench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPT, ConfigError
from kardiabench.pending import Pending
from kardiabench.progress import Progress
from kardiabench.runner import Control, Runner
from kardiabench.session import Session
from kardiabench.store import RunStore
from kardiabench.summary import summarise

#: Seconds that calls in flight, which are paid for, are given after the first interrupt.
GRACE = 30.0


@dataclass(frozen=True)
class Manner:
    """How to go about it; nothing here changes what is measured."""

    max_cost: float | None = None
    retry_errors: bool = False
    preflight: bool = True
    generate: bool = True
    min_coverage: float = 0.95


@dataclass(frozen=True)
class Outcome:
    """How it ended: the exit code, one sentence (empty when all is well) and the summary."""

    exit_code: int
    sentence: str
    summary: dict[str, Any]


def execute(session: Session, store: RunStore, manner: Manner, progress: Progress) -> Outcome:
    """Do what is pending in `store`; write the summary; never raise for a failed turn."""
    control = Control(max_cost=manner.max_cost)
    pending = Pending(store.path, session.scorer.fingerprints, retry_errors=manner.retry_errors)
    runner = Runner(session, store, pending, control, progress, generate=manner.generate)
    asyncio.run(_drive(runner, manner, progress))
    summary = summarise(store.path, store.manifest)
    store.save_summary(summary)
    code, sentence = _verdict_on_run(summary, control, manner, store.path)
    return Outcome(code, sentence, summary)


async def _drive(runner: Runner, manner: Manner, progress: Progress) -> None:
    session, pending, control = runner.session, runner.pending, runner.control
    try:
        with _signals(control, progress):
            if manner.preflight and not _nothing_to_do(session, pending):
                await _preflight(session, manner)
            with progress.running(session.dialogues.n_turns, pending, control):
                await runner.run()
    except asyncio.CancelledError:
        if control.stop is None:
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        await session.aclose()


async def _preflight(session: Session, manner: Manner) -> None:
    if manner.generate:
        await preflight.check(session)
    else:
        await preflight.check_judges(session)
    if manner.max_cost is not None:
        _check_prices(session)


def _check_prices(session: Session) -> None:
    for model in (session.model, *session.judge_models.values()):
        price = getattr(model, "price", None)
        if price is not None and price(1000, 1000) is None:
            raise ConfigError(
                f"--max-cost cannot be kept: no price is known for {model.name}; leave it out, "
                "or bound the run with --limit"
            )


def _nothing_to_do(session: Session, pending: Pending) -> bool:
    return pending.n_replied == pending.n_judged == session.dialogues.n_turns


@contextmanager
def _signals(control: Control, progress: Progress) -> Iterator[None]:
    """First interrupt: finish what is in flight. Second, or after `GRACE` seconds: cancel."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    cancel: Callable[[], object] = task.cancel if task else loop.stop

    def interrupt() -> None:
        if control.stop == "interrupt":
            cancel()
            return
        control.halt("interrupt")
        progress.say("interrupted: finishing the calls in flight; press Ctrl-C again to stop now")
        loop.call_later(GRACE, cancel)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The failure that made the others stop."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _verdict_on_run(
    summary: dict[str, Any], control: Control, manner: Manner, path: Path
) -> tuple[int, str]:
    resume = f"go on with: kardiabench resume {path}"
    if control.stop == "interrupt":
        return EXIT_INTERRUPT, f"interrupted; everything received is kept; {resume}"
    if control.stop == "fatal":
        return EXIT_INCOMPLETE, f"stopped: {control.detail}; then {resume}"
    if control.stop == "max_cost":
        limit = f"--max-cost {manner.max_cost:g} reached after ${control.spent:.4f}"
        return EXIT_INCOMPLETE, f"{limit}; {resume} with a higher --max-cost"
    errors = summary["turns"]["by_status"].get("error", 0)
    if errors:
        kinds = ", ".join(f"{kind} {n}" for kind, n in summary["turns"]["errors_by_kind"].items())
        again = f"retry them with: kardiabench resume {path} --retry-errors"
        return EXIT_INCOMPLETE, f"{errors} turns ended in an error ({kinds}); {again}"
    return _check_coverage(summary, manner, path)


def _check_coverage(summary: dict[str, Any], manner: Manner, path: Path) -> tuple[int, str]:
    for judge, numbers in summary["judges"].items():
        if numbers["coverage"] < manner.min_coverage:
            return EXIT_INCOMPLETE, (
                f"judge {judge} judged only {numbers['coverage']:.1%} of the turns, less than "
                f"--min-coverage {manner.min_coverage:g}; retry the failed ones with: "
                f"kardiabench resume {path} --retry-errors"
            )
    return 0, ""
