"""What a training shows while it goes: a live table in a terminal, plain lines elsewhere.

Everything goes to standard error. Names and sentences are somebody's: shown as text, never as
markup, and without control characters.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from trainer.live_view import IN_LINES, NAMES, PART, Course, duration, make_table, one_line, shown

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text
    from transformers import TrainerCallback

#: Steps between two plain lines.
EVERY = 10
#: Redrawn so often a second: the time left moves, and the table costs the training next to nothing.
_REDRAWN = 2


class LiveTable:
    """Shows a training. A context manager, so that an error leaves the terminal as it was.

    `callback()` is what a trainer of transformers takes, in place of its own progress bar. Every
    other process but the first shows notes alone. In a terminal there is a table unless `quiet`;
    else a line every `every` steps.
    """

    def __init__(self, title: str = "training", *, quiet: bool = False, every: int = EVERY) -> None:
        self.title = one_line(title)
        self.every = every
        self.step = self.total = 0
        self.courses: dict[str, Course] = {}
        self._quiet = quiet
        # Guards the state alone, and is never held while rich is called, which has its own.
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._begun_at: tuple[int, float] | None = None
        self._tokens: tuple[float, float] | None = None
        self._note = ""
        self._notes = 0
        self._shown_at = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def callback(self) -> TrainerCallback:
        """The callback that tells this table of a trainer's steps and logs."""
        from transformers import TrainerCallback

        table = self

        class LiveTableCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
                if state.is_world_process_zero:
                    table.begin(state.global_step, state.max_steps)

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
                table.stepped(state.global_step)

            def on_log(
                self,
                args: Any,  # noqa: ARG002
                state: Any,  # noqa: ARG002
                control: Any,  # noqa: ARG002
                logs: Mapping[str, Any] | None = None,
                **_: Any,
            ) -> None:
                table.logged(logs or {})

            def on_train_end(self, *_: Any, **__: Any) -> None:
                table.close()

        return LiveTableCallback()

    def begin(self, step: int, total: int) -> None:
        """Show progress from `step` to `total` from now on."""
        from kardiabench.progress import can_redraw

        with self._lock:
            self.step, self.total = step, total
            self._begun_at, self._tokens = (step, time.monotonic()), None
        if self._quiet or not can_redraw() or self._live is not None:
            return
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True),
            refresh_per_second=_REDRAWN,
            get_renderable=self._drawn,
            # What is piped away stays on standard output.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def stepped(self, step: int) -> None:
        """An optimizer step is done."""
        with self._lock:
            self.step = step
        self._write_line()

    def logged(self, logs: Mapping[str, Any]) -> None:
        """Take what TRL logs; what is no number or not finite is left out."""
        numbers = {name: value for name, value in logs.items() if _is_number(value)}
        with self._lock:
            for name, value in numbers.items():
                if name in NAMES or name.startswith(PART):
                    self._add(name, value)
            if "num_tokens" in numbers:
                self._count_tokens(numbers["num_tokens"])
        self._write_line(only_first=True)

    def note(self, sentence: str) -> None:
        """Show a warning or an alarm; it stays in sight until the next. From any thread."""
        sentence = one_line(sentence)
        with self._lock:
            self._note, self._notes = sentence, self._notes + 1
            step, live = self.step, self._live
        if live is not None:
            live.console.print(f"step {step}: {sentence}", markup=False, highlight=False)
        else:
            _write(sentence)

    def close(self) -> None:
        """Show the last state, and give the terminal back. May be called more than once."""
        if self._live is not None:
            self._live.stop()  # draws the last state
            self._live = None
        elif self._begun_at is not None and self._shown_at != self.step:
            self._write_line(always=True)
        self._begun_at = None

    def _add(self, name: str, value: float) -> None:
        self.courses.setdefault(name, Course(value)).add(value)

    def _count_tokens(self, tokens: float) -> None:
        """Tokens a second since the last log: TRL logs how many it has seen in all."""
        now = time.monotonic()
        if self._tokens is not None and now > self._tokens[1] and tokens >= self._tokens[0]:
            self._add("tokens_per_second", (tokens - self._tokens[0]) / (now - self._tokens[1]))
        self._tokens = tokens, now

    def _ordered(self) -> Iterator[tuple[str, str, Course]]:
        """The measures that are known: key, name, course."""
        for key, name in NAMES.items():
            if key in self.courses:
                yield key, name, self.courses[key]
            if key == "reward":
                parts = sorted(one for one in self.courses if one.startswith(PART))
                yield from (
                    (one, f"  {one_line(one[len(PART) :])}", self.courses[one]) for one in parts
                )

    def _write_line(self, *, only_first: bool = False, always: bool = False) -> None:
        """A plain line where one is due: the first log, then every so many steps, then the end."""
        with self._lock:
            if self._begun_at is None or self._live is not None:
                return
            due = self._shown_at < 0 if only_first else self.step >= self._shown_at + self.every
            if not always and not (due and self.courses):
                return
            self._shown_at = self.step
            line = self._summary()
        _write(line)

    def _summary(self) -> str:
        parts = [f"step {self.step}/{self.total}"]
        for key, name, course in self._ordered():
            if key in IN_LINES or key.startswith(PART):
                parts.append(f"{name.strip()} {shown(course.latest[-1])}")
        return ", ".join([*parts, self._left()])

    def _left(self) -> str:
        first, since = self._begun_at or (self.step, time.monotonic())
        done = self.step - first
        if done <= 0:
            return "time left unknown"
        seconds = (self.total - self.step) * (time.monotonic() - since) / done
        return f"about {duration(max(seconds, 0.0))} left"

    def _drawn(self) -> Group:
        """The table as it is now; rich asks for it, from a thread of its own too."""
        from rich.console import Group
        from rich.text import Text

        live = self._live
        with self._lock:
            head = f"{self.title}: step {self.step}/{self.total}, {self._left()}"
            measures = [(n, c.first, [*c.latest]) for _, n, c in self._ordered()]
            count = f" ({self._notes} notes so far)" if self._notes > 1 else ""
            foot = f"{self._note}{count}" if self._note else ""
        body = [make_table(measures, live.console)] if live is not None and measures else []
        last: list[Text] = [Text(foot, style="yellow")] if foot else []
        return Group(Text(head, style="bold"), *body, *last)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
