"""What a run shows while it goes: a live line in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kardiabench.pending import Pending
from kardiabench.records import Reply, Verdict
from kardiabench.runner import Control

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

#: Seconds between plain lines.
INTERVAL = 10.0


class Progress:
    """Counts what happens and shows it on standard error (a `runner.Watcher`)."""

    def __init__(self, *, quiet: bool = False, interval: float = INTERVAL) -> None:
        self.quiet = quiet
        self.interval = interval
        self.judged_now = 0
        self.judged_total = 0
        self.failures: Counter[str] = Counter()
        self._control = Control()
        self._total = 0
        self._started = self._shown = time.monotonic()
        self._bar: RichProgress | None = None

    @contextmanager
    def running(self, total: int, pending: Pending, control: Control) -> Iterator[None]:
        """Show progress towards `total` turns while the block runs."""
        self._total, self._control = total, control
        self.judged_total = pending.n_judged
        self._started = self._shown = time.monotonic()
        if self.quiet or not can_redraw():
            yield
            return
        self._bar = bar()
        self._task = self._bar.add_task("turns", total=total, completed=self.judged_total, note="")
        try:
            with self._bar:
                yield
        finally:
            self._bar = None

    def replied(self, reply: Reply) -> None:
        """Count a reply."""
        if reply.status == "error":
            self.failures["reply"] += 1
        self._show()

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """Count a judged turn."""
        self.judged_now += 1
        self.judged_total += 1
        self.failures["verdict"] += sum(v.status not in ("ok", "skipped") for v in verdicts)
        self._show()

    def say(self, sentence: str) -> None:
        """Show one sentence, above the live line if there is one."""
        if self._bar is not None:
            self._bar.console.print(sentence, markup=False)
        else:
            sys.stderr.write(sentence + "\n")
            sys.stderr.flush()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.judged_total, note=self._note())
        elif not self.quiet and time.monotonic() - self._shown >= self.interval:
            self._shown = time.monotonic()
            self.say(f"{self.judged_total}/{self._total} turns, {self._note()}, {self._eta()}")

    def _note(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{self.judged_now / elapsed:.1f} turns/s", self._cost()]
        parts += [f"{n} {kind} failures" for kind, n in self.failures.items() if n]
        return ", ".join(parts)

    def _cost(self) -> str:
        control = self._control
        if not control.unpriced:
            return f"${control.spent:.4f}"
        return (
            f"${control.spent:.4f} + calls of unknown price" if control.spent else "no price known"
        )

    def _eta(self) -> str:
        elapsed = time.monotonic() - self._started
        if not self.judged_now:
            return "time left unknown"
        seconds = (self._total - self.judged_total) * elapsed / self.judged_now
        left = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        return f"about {left} left"


def can_redraw() -> bool:
    """Whether standard error is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def bar() -> RichProgress:
    """The live line, with a field `note`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )


@contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on standard error how many of `total` steps are done; call what is yielded after each.

    Without a terminal a line comes at most every ten seconds.
    """
    if can_redraw():
        with bar() as shown:
            task = shown.add_task(what, total=total, note="")
            yield lambda: shown.advance(task)
        return
    count, last = 0, time.monotonic()

    def done() -> None:
        nonlocal count, last
        count += 1
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            sys.stderr.write(f"{count}/{total} {what}\n")
            sys.stderr.flush()

    yield done
