"""The command line: thin commands that compose the rest. Nobody imports it.

Every command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from kardiabench import __version__
from kardiabench.cli import (
    attacking,
    calibrating,
    checking,
    comparing,
    inspecting,
    looking,
    merging,
    options,
    publishing,
    rescoring,
    running,
    submitting,
    training,
)
from kardiabench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPT, EXIT_USAGE, KardiaBenchError
from kardiabench.redaction import without_keys
from kardiabench.report import plain

EXIT_INTERNAL = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kardiabench")
def cli() -> None:
    """Evaluate emotionally supportive dialogue on KardiaBench, with pluggable judges.

    Start with `kardiabench demo`: it runs offline, within a minute.
    """


for command in (
    *running.COMMANDS,
    *merging.COMMANDS,
    *comparing.COMMANDS,
    *looking.COMMANDS,
    *inspecting.COMMANDS,
    *publishing.COMMANDS,
    *submitting.COMMANDS,
    *training.COMMANDS,
    *rescoring.COMMANDS,
):
    cli.add_command(command)
looking.judges.add_command(checking.check)
looking.judges.add_command(attacking.attack)
looking.judges.add_command(calibrating.calibrate)


def main(*prefix: str) -> NoReturn:
    """Run the command line; every expected failure is one sentence on standard error.

    `prefix` stands before the arguments of the process.
    """
    _prepare_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        name = "kardiabench" if prefix else None
        code = cli.main([*prefix, *sys.argv[1:]], prog_name=name, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _say("interrupted; the same command again goes on from there", EXIT_INTERRUPT)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _say(_usage_sentence(error), EXIT_USAGE)
    except KardiaBenchError as error:
        code = _say(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sentence = f"{where}{error.strerror or error}; check the path, its rights and the space"
        full = error.errno == errno.ENOSPC
        code = _say(sentence, EXIT_INCOMPLETE if full else EXIT_USAGE)
    except Exception as error:
        sentence = f"internal error: {type(error).__name__}: {error}; please report it, with the"
        code = _say(f"{sentence} output of the same command and --debug", EXIT_INTERNAL)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare_streams() -> None:
    """Closed ones go nowhere; one that lacks a character shows a question mark in its place."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _say(sentence: str, code: int) -> int:
    if "--debug" in sys.argv or options.debugging():
        traceback.print_exc()
    one_line = plain(without_keys(" ".join(sentence.split())))
    click.echo(f"kardiabench: {one_line}", err=True)
    return code


def _usage_sentence(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" See: {context.command_path} --help" if context is not None else ""
    return error.format_message() + hint
