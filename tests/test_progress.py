"""What is shown while a run goes."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import Cli
from openai_server import OpenAIServer

from kardiabench.pending import Pending
from kardiabench.progress import Progress
from kardiabench.records import Reply, Usage, Verdict
from kardiabench.runner import Control

SMALL = ("--limit", "5", "--out", "out")


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _go(progress: Progress, folder: Path, turns: int = 3) -> None:
    control = Control()
    with progress.running(turns, Pending(folder, {}), control):
        for number in range(turns):
            failed = number == 1
            progress.replied(Reply(f"d/{number}", "", "error" if failed else "ok"))
            control.pay(Usage(cost=0.25))
            progress.judged([Verdict(f"d/{number}", "j", "", {}, "unparsed" if failed else "ok")])


def test_plain_lines_hold_turns_rate_cost_failures_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _go(Progress(interval=0.0), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("0/3 turns, ")
    assert lines[0].endswith("time left unknown")
    assert lines[-1].startswith("3/3 turns, ")
    for part in (
        "turns/s",
        "$0.7500",
        "1 reply failures",
        "1 verdict failures",
        "about 0 s left",
    ):
        assert part in lines[-1]


@pytest.mark.parametrize(
    ("usages", "shown"),
    [
        ([Usage(calls=1)], "no price known"),
        ([Usage(calls=1), Usage(calls=1, cost=0.5)], "$0.5000 + calls of unknown price"),
        ([Usage(calls=1, cost=0.0)], "$0.0000"),
    ],
)
def test_an_unknown_price_is_not_shown_as_nothing_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], usages: list[Usage], shown: str
) -> None:
    control, progress = Control(), Progress(interval=0.0)
    for usage in usages:
        control.pay(usage)
    with progress.running(1, Pending(tmp_path, {}), control):
        progress.replied(Reply("d/0", ""))
    assert f", {shown}, " in capsys.readouterr().err


def test_plain_lines_come_no_oftener_than_the_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _go(Progress(interval=60.0), tmp_path)
    assert capsys.readouterr().err == ""


def test_quiet_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _go(Progress(quiet=True, interval=0.0), tmp_path)
    captured = capsys.readouterr()
    assert captured.err + captured.out == ""


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", Terminal())
    _go(Progress(interval=0.0), tmp_path)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "3/3 turns" in shown
    assert "\x1b" not in shown


def test_a_live_line_is_drawn_on_a_terminal(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    server.delay = 0.02
    shown = _on_terminal(cli, [*api, *SMALL], TERM="xterm")
    assert "\x1b[" in shown
    assert "19/19" in shown
    assert "turns/s" in shown


def _on_terminal(cli: Cli, command: list[str], **env: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kardiabench", *command],
        cwd=cli.folder,
        env=cli.env | {"COLUMNS": "150"} | env,
        stderr=theirs,
        stdout=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert process.wait(60) == 0
    return shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
