"""One go at a run: preflight, the runner under signal handlers, the summary, the exit code."""

from __future__ import annotations

import asyncio
import gc
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kardiabench import preflight
from kardiabench.anchoring import Job, pending_jobs, score_anchors
from kardiabench.calibration import keep_calibration
from kardiabench.cards import DEFAULT_FOLDER, find_cards, keep_cards
from kardiabench.errors import (
    EXIT_INCOMPLETE,
    EXIT_INTERRUPT,
    ConfigError,
    first_failure,
)
from kardiabench.estimate import estimate
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
    anchors: bool = True
    judge_cards: Path = DEFAULT_FOLDER


@dataclass(frozen=True)
class Outcome:
    """How it ended: the exit code, one sentence (empty when all is well) and the summary."""

    exit_code: int
    sentence: str
    summary: dict[str, Any]


def execute(
    session: Session,
    store: RunStore,
    manner: Manner,
    progress: Progress,
    manifest: Mapping[str, Any] | None = None,
    *,
    calibration: Mapping[str, Any] | None = None,
) -> Outcome:
    """Do what is pending in `store`; write the summary; never raise for a failed turn.

    A new `manifest` and a new `calibration` take the old ones' place as soon as the preflight went
    well.
    """

    def begin() -> None:
        if manifest is not None:
            store.save_manifest(manifest)
        if calibration is not None:
            keep_calibration(store.path, calibration)
        keep_cards(store.path, cards)

    control = Control(max_cost=manner.max_cost)
    cards = find_cards(manner.judge_cards, session.scorer.fingerprints)
    pending = Pending(
        store.path,
        session.scorer.fingerprints,
        retry_verdicts=manner.retry_errors,
        retry_replies=manner.retry_errors and manner.generate,
    )
    runner = Runner(session, store, pending, control, progress, generate=manner.generate)
    with warnings.catch_warnings():
        # What a cancelled call inside a client library had prepared and never awaited.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        asyncio.run(_drive(runner, manner, progress, begin))
    summary = summarise(store.path, store.manifest)
    store.save_summary(summary)
    code, sentence = _verdict_on_run(summary, control, manner, store.path)
    return Outcome(code, sentence, summary)


async def _drive(
    runner: Runner,
    manner: Manner,
    progress: Progress,
    begin: Callable[[], None],
) -> None:
    session, pending, control = runner.session, runner.pending, runner.control
    try:
        with _signals(control, progress):
            if manner.max_cost is not None:
                control.dearest = _dearest_call(session)
            if manner.preflight:
                await _preflight(session, pending, manner)
            begin()
            control.begun = True
            with _rare_collections(), progress.running(session.dialogues.n_turns, pending, control):
                await runner.run()
                await _score_anchors(runner, manner, progress)
    except asyncio.CancelledError:
        if control.stop is None:
            raise
    except BaseExceptionGroup as group:
        raise first_failure(group) from group
    finally:
        await session.aclose()


async def _score_anchors(runner: Runner, manner: Manner, progress: Progress) -> None:
    """Once the turns are judged: a run that was stopped scores them when it goes on."""
    if not manner.anchors or runner.control.stop:
        return
    jobs = pending_jobs(runner.session, runner.store, retry=manner.retry_errors)
    if jobs and not progress.quiet:
        progress.say(_announcement(jobs))
    await score_anchors(runner.session, runner.store, runner.control, jobs)


def _announcement(jobs: Sequence[Job]) -> str:
    judges = ", ".join(dict.fromkeys(job.judge.name for job in jobs))
    number = sum(len(job.anchors) for job in jobs)
    return f"scoring the frozen anchors, to see drift: {number} judgements by {judges}"


async def _preflight(session: Session, pending: Pending, manner: Manner) -> None:
    """Try the model if there is something left to generate, the judges if to judge."""
    turns = session.dialogues.n_turns
    if pending.n_judged < turns:
        preflight.check_keys(session, generate=manner.generate and pending.n_replied < turns)
    if manner.generate and pending.n_replied < turns:
        await session.model.preflight()
        await preflight.check_format(session)
    if pending.n_judged < turns:
        await preflight.check_judges(session)


def _dearest_call(session: Session) -> float:
    """The price of one ordinary call, of the model or the judge that asks most for it."""
    prices = [0.0]
    for line in estimate(session):
        if line.price_low is None:
            raise ConfigError(
                f"--max-cost cannot be kept: no price is known for {line.model}; leave it out, "
                "or bound the run with --limit"
            )
        prices.append(line.price_low / session.dialogues.n_turns)  # a judgement: all samples
    return max(prices)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector run less often: it costs a tenth of a run's requests per second.

    What is loaded by now, hundreds of thousands of objects of litellm's, stays for good and need
    not be looked at again; what a request leaves behind is mostly freed without the collector.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _signals(control: Control, progress: Progress) -> Iterator[None]:
    """First interrupt: finish what is in flight. Second, or after `GRACE` seconds: cancel."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    cancel: Callable[[], object] = task.cancel if task else loop.stop

    def interrupt() -> None:
        if control.stop == "interrupt" or not control.begun:  # a second one, or in the preflight
            control.stop = "interrupt"
            cancel()
            return
        control.stop = "interrupt"  # it goes before any other reason: the user wants to leave
        progress.say(
            f"interrupted: finishing the calls in flight, {GRACE:g} s at most; "
            "press Ctrl-C again to stop now"
        )
        loop.call_later(GRACE, cancel)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _verdict_on_run(
    summary: dict[str, Any], control: Control, manner: Manner, path: Path
) -> tuple[int, str]:
    resume = f"go on with: kardiabench resume {path}"
    if control.stop == "interrupt":
        return EXIT_INTERRUPT, f"interrupted; everything received is kept; {resume}"
    if control.stop == "fatal":
        return EXIT_INCOMPLETE, f"stopped: {control.detail}; then {resume}"
    if control.stop == "max_cost":
        limit = f"--max-cost {manner.max_cost:g} reached: ${control.spent:.4f} was spent this time"
        return EXIT_INCOMPLETE, f"{limit}; {resume} --max-cost USD"
    return how_it_ended(summary, path, manner.min_coverage)


def how_it_ended(summary: Mapping[str, Any], path: Path, min_coverage: float) -> tuple[int, str]:
    """The exit code for what is at `path`, and a sentence with the next step, if there is one."""
    resume = f"go on with: kardiabench resume {path}"
    errors = summary["turns"]["by_status"].get("error", 0)
    if errors:
        kinds = ", ".join(f"{kind} {n}" for kind, n in summary["turns"]["errors_by_kind"].items())
        again = f"retry them with: kardiabench resume {path} --retry-errors"
        if set(summary["turns"]["errors_by_kind"]) == {"missing"}:
            again = (
                "the replayed replies lack them: add them to the file and run it with a new --out"
            )
        return EXIT_INCOMPLETE, f"{errors} turns ended in an error ({kinds}); {again}"
    turns = summary["turns"]
    if turns["answered"] < turns["planned"]:
        what = f"only {turns['answered']} of {turns['planned']} turns have a reply"
        return EXIT_INCOMPLETE, f"{what}; {resume}"
    return _check_coverage(summary, min_coverage, path)


def _check_coverage(summary: Mapping[str, Any], least: float, path: Path) -> tuple[int, str]:
    for judge, numbers in summary["judges"].items():
        if numbers["coverage"] < least:
            return EXIT_INCOMPLETE, (
                f"judge {judge} judged only {numbers['coverage']:.1%} of the turns, less than "
                f"--min-coverage {least:g}; retry the failed ones with: "
                f"kardiabench resume {path} --retry-errors"
            )
    return 0, ""
