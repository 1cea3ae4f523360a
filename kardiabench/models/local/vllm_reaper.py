"""Ends an engine whose process lost its parent: `python -m …vllm_reaper PID…` watches its own.

vLLM's engine is a process of its own and does not notice when the one that started it is killed:
it would keep the accelerator's memory for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PERIOD = 0.5


def watch(pids: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start a process that kills `pids` once this one is gone, and ends when they are."""
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *map(str, pids)]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and file
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent
    )


def _main(parent: int, pids: list[int]) -> None:
    begun = {pid: start for pid in pids if (start := _start_of(pid)) is not None}
    while begun:
        if os.getppid() != parent:
            for pid, start in begun.items():
                if _start_of(pid) == start:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return
        begun = {pid: start for pid, start in begun.items() if _start_of(pid) == start}
        time.sleep(_PERIOD)


def _start_of(pid: int) -> str | None:
    """When the process started, so that its number is not taken for another's; None if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


if __name__ == "__main__":
    _main(int(sys.argv[1]), [int(pid) for pid in sys.argv[2:]])
