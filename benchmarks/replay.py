"""20,290 turns through `replay/` and the deterministic judges: time, and memory beside 2,000.

    python benchmarks/replay.py

Targets: within 60 s on 2 cores; peak memory at most 1.3 times that of 2,000 turns. Whole processes,
import and summary included.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from synthetic import write_dataset, write_replies

# 2,547 dialogues of 8 turns are 20,376 turns; the benchmark's test split has 20,290.
SIZES = {"2,000 turns": 250, "20,376 turns": 2547}


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, dialogues in SIZES.items():
            work = Path(folder) / name.replace(",", "").replace(" ", "-")
            work.mkdir()
            data = write_dataset(work / "test.jsonl", dialogues=dialogues, personas=32)
            replies = write_replies(data, work / "replies.jsonl")
            results[name] = measure(data, replies, work / "run")
            print(f"{name:14} {results[name][0]:6.1f} s   {results[name][1] / 1024:6.1f} MiB peak")
    small, large = results.values()
    print(f"peak memory ratio {large[1] / small[1]:.2f} (target 1.3)")
    print(f"time {large[0]:.1f} s (target 60)")


def measure(data: Path, replies: Path, out: Path) -> tuple[float, int]:
    """Wall seconds and peak resident KiB of `kardiabench run`."""
    command = [sys.executable, "-m", "kardiabench", "run", "--model", f"replay/{replies}"]
    command += [
        "--dataset",
        str(data),
        "--judge",
        "smoke",
        "--out",
        str(out),
        "--quiet",
        "--no-cache",
    ]
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        sys.exit("the run failed")
    return seconds, usage.ru_maxrss


if __name__ == "__main__":
    main()
