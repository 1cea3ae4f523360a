"""What a training shows while it goes: a table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.live import LiveTable
from trainer.live_view import curve

ROOT = Path(__file__).resolve().parent.parent


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a terminal; called in the test, since pytest puts its own back."""

    def plugged() -> Terminal:
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        return made

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    return plugged


def seen(text: str) -> str:
    """What a terminal was sent, without its commands."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def state(step: int, total: int = 40, first: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=total, is_world_process_zero=first)


def train(table: LiveTable, steps: int, total: int = 40, **logs: Any) -> Any:
    """What a trainer of transformers calls; the trainer is at the end of `steps` steps."""
    callback = table.callback()
    control = SimpleNamespace()
    callback.on_train_begin(None, state(0, total), control, model=None)
    for step in range(1, steps + 1):
        callback.on_step_begin(None, state(step - 1, total), control, model=None)
        callback.on_step_end(None, state(step, total), control, model=None)
        entry = {"reward": step / 100, "num_tokens": 100.0 * step, "step": step, **logs}
        callback.on_log(None, state(step, total), control, logs=entry, model=None)
    return callback


def test_plain_lines_come_every_so_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    table = LiveTable(every=10)
    callback = train(table, 25, masked_share=0.125, kl=0.0004, **{"parts/format": 1.0})
    callback.on_train_end(None, state(25), None)
    table.close()
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"step (\d+)/40, ", line)[1] for line in lines] == ["1", "11", "21", "25"]
    for part in ("reward 0.200", "format 1.000", "masked share 0.125", "KL 0.0004", "tokens/s "):
        assert part in lines[2]
    assert re.search(r"about \d+ s left$", lines[-1])


def test_a_log_at_the_last_step_is_in_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    train(LiveTable(every=10), 11)
    table = LiveTable(every=1)
    with table:
        train(table, 3)
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 3/40, reward 0.0")


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_and_dumb_terminals_get_plain_lines(
    plug: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    terminal = plug()
    if not quiet:
        monkeypatch.setenv("TERM", "dumb")
    with LiveTable(quiet=quiet, every=2) as table:
        train(table, 4)
    shown = terminal.getvalue()
    assert "step 4/40" in shown
    assert "\x1b" not in shown


def test_a_terminal_gets_a_table(plug: Callable[[], Terminal]) -> None:
    terminal = plug()
    with LiveTable("grpo", every=1) as table:
        train(
            table,
            12,
            kl=0.25,
            frac_reward_zero_std=1.0,
            **{"held_out/score": 0.5, "parts/rubric": 0.75, "completions/mean_length": 120.0},
            **{"watch/zero_spread_share": 0.25},
        )
    last = seen(terminal.getvalue()).split("grpo: step 12/40")[-1]
    assert re.search(r"groups without spread +0\.250", last)
    for row in ("reward", "  rubric", "held-out score", "KL", "length, tokens", "tokens/s"):
        assert f"\n{row}" in last
    assert re.search(r"reward +0\.120 +0\.010 +▁.*█", last)


def test_the_terminal_is_given_back_after_an_error(plug: Callable[[], Terminal]) -> None:
    terminal = plug()
    with pytest.raises(RuntimeError), LiveTable() as table:
        train(table, 1)
        raise RuntimeError
    assert "\x1b[?25l" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(("columns", "has"), [(100, 3), (60, 2), (30, 1)])
def test_narrow_terminals_get_fewer_columns(
    plug: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, columns: int, has: int
) -> None:
    terminal = plug()
    monkeypatch.setenv("COLUMNS", str(columns))
    with LiveTable() as table:
        train(table, 3, **{"parts/a judge with a name that is longer than the line is": 0.5})
    last = seen(terminal.getvalue()).split("training: step 3/40")[-1]
    assert sum(word in last for word in ("last", "first", "course")) == has
    assert max(map(len, last.splitlines())) <= columns


def test_no_color_is_kept(plug: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = plug()
    monkeypatch.setenv("NO_COLOR", "1")
    with LiveTable() as table:
        train(table, 2)
        table.note("a warning")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", terminal.getvalue())


HOSTILE = "[bold]x[/bold] [/red] \x1b[2J\x1b]0;title\x07 \u202eabc\nnext"


@pytest.mark.parametrize("redraws", [True, False])
def test_sentences_and_names_are_text_and_never_commands(
    plug: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, redraws: bool
) -> None:
    terminal = plug()
    if not redraws:
        monkeypatch.setenv("TERM", "dumb")
    with LiveTable(HOSTILE, every=1) as table:
        train(table, 2, **{f"parts/{HOSTILE}": 0.5})
        table.note(HOSTILE)
    shown = terminal.getvalue()
    assert "[bold]x[/bold] [/red]" in seen(shown)
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert "\u202e" not in shown


def test_a_note_stays_in_sight_and_notes_are_counted(plug: Callable[[], Terminal]) -> None:
    terminal = plug()
    with LiveTable() as table:
        train(table, 1)
        table.note("judge a failed")
        table.note("judge b failed")
    shown = seen(terminal.getvalue())
    assert "step 1: judge a failed" in shown
    assert "judge b failed (2 notes so far)" in shown.split("training: step 1/40")[-1]


def test_notes_come_through_before_the_training_and_on_other_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = LiveTable()
    table.note("early")
    callback = table.callback()
    callback.on_train_begin(None, state(0, first=False), None)
    callback.on_step_end(None, state(1, first=False), None)
    callback.on_log(None, state(1, first=False), None, logs={"reward": 1.0})
    table.note("from another process")
    table.close()
    assert capsys.readouterr().err.splitlines() == ["early", "from another process"]


def test_notes_from_many_threads_are_all_shown(plug: Callable[[], Terminal]) -> None:
    terminal = plug()
    with LiveTable() as table:
        train(table, 1)
        threads = [
            threading.Thread(
                target=lambda n=n: [table.note(f"note {n}-{m};") for m in range(20)], daemon=True
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for _ in range(50):
            table.logged({"reward": 0.5, "parts/x": 0.1})
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
    shown = seen(terminal.getvalue())
    assert all(f"note {n}-{m};" in shown for n in range(8) for m in range(20))


def test_what_is_no_number_is_left_out() -> None:
    table = LiveTable()
    table.logged({"reward": float("nan"), "kl": "0.5", "loss": None, "masked_share": True})
    table.logged({"reward": 0.5, "held_out/rewarded": float("inf"), "unknown": 3.0})
    assert set(table.courses) == {"reward"}


def test_time_left_goes_by_the_steps_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("trainer.live.time.monotonic", lambda: now[0])
    table = LiveTable(every=1)
    table.begin(90, 100)  # resumed
    table.logged({"reward": 0.5, "num_tokens": 1000})
    now[0] += 600.0
    table.stepped(91)
    table.logged({"reward": 0.5, "num_tokens": 7000})
    now[0] += 600.0
    table.stepped(92)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.endswith("time left unknown")
    assert second.endswith("about 1.5 h left")
    assert third.endswith("tokens/s 10.0, about 80 min left") or "tokens/s 10" in third


def test_a_course_is_drawn_from_its_lowest_to_its_highest() -> None:
    assert curve([0.0, 0.5, 1.0]) == "▁▅█"
    assert curve([2.0, 2.0]) == "▄▄"


def test_a_real_trainer_shows_it_in_a_real_terminal(tmp_path: Path) -> None:
    code = """
import sys
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from trainer.live import LiveTable
torch.set_num_threads(1)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))
    def forward(self, x, labels=None):
        return {"loss": (self.w * x.float() - 1).pow(2).mean()}

with LiveTable("a training") as table:
    trainer = Trainer(
        Model(),
        TrainingArguments(sys.argv[1], max_steps=5, logging_steps=1, report_to=[],
                          save_strategy="no", use_cpu=True),
        train_dataset=[{"x": torch.tensor([float(n)])} for n in range(40)],
        callbacks=[table.callback()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
print("done")
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "90", "LINES": "30"},
        stderr=theirs,
        stdout=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b"".join(iter(lambda: _read(ours), b"")).decode()
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert out == b"done\n"
    assert "a training: step 5/5" in seen(shown)
    assert re.search(r"loss +\d", seen(shown))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other end is closed
        return b""
