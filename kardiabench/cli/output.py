"""Standard output belongs to the results.

While a command runs, whatever plugins and libraries print goes to standard error, so that
`--json` stays JSON; results go out through `echo` and `console`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

_Command = TypeVar("_Command", bound=Callable[..., Any])
_results: ContextVar[TextIO | None] = ContextVar("results", default=None)


def results_only(command: _Command) -> _Command:
    """Keep standard output for `echo` and `console` while `command` runs."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        token = _results.set(sys.stdout)
        try:
            with redirect_stdout(sys.stderr):
                return command(*arguments, **options)
        finally:
            _results.reset(token)

    return run  # type: ignore[return-value]


def echo(text: str) -> None:
    """Print a result; a reader of a pipe that went away is nobody to tell."""
    try:
        click.echo(text, file=_results.get())
    except BrokenPipeError:
        _go_nowhere()


def console() -> Console:
    """Where result tables are printed."""
    from rich.console import Console

    class Results(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            _go_nowhere()

    return Results(file=_results.get())


def _go_nowhere() -> None:
    """Let what is still buffered, and what comes after, vanish without an error."""
    stream = _results.get() or sys.stdout
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
