"""Standard output belongs to the results.

While a command runs, whatever plugins and libraries print goes to standard error, so that
`--json` stays JSON; results go out through `echo` and `console`.
"""

from __future__ import annotations

import functools
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
    """Print a result."""
    click.echo(text, file=_results.get())


def console() -> Console:
    """Where result tables are printed."""
    from rich.console import Console

    return Console(file=_results.get())
