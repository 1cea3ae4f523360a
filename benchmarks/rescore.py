"""Rejudging a ledger from the cache: time and peak memory at 1,000 and at 10,000 rows.

    python benchmarks/rescore.py [--rows 10000]

Targets: 10,000 rows within 20 s; peak memory at most 1.3 times that of a tenth of them. The ledger
is of `format`, `emotion` and a rubric judge, every reply another; a local server judged them when
the ledger was made, and is gone when it is rescored. Whole processes, import and dataset included.

The other way in the same run: the same rows through the Scorer one at a time and without a cache
(500 of them, times the rows), its server answering at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

from common import ROOT, server
from rewards import texts
from synthetic import write_dataset

sys.path.insert(0, str(ROOT / "tests"))

from trained_ledger import Rewarding

from kardiabench.records import Item
from trainer.ledger import iterate_rows

_BATCH = 40  # whole batches in 1,000 and in 10,000
_ONE_BY_ONE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    os.environ.setdefault("OPENAI_API_KEY", "sk-none-0123456789abcdef")
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["KARDIABENCH_CACHE"] = str(folder / "cache.sqlite")
        data = write_dataset(folder / "train.jsonl", dialogues=200, personas=32)
        for number in (rows // 10, rows):
            each = write_ledger(folder / str(number), data, number)
            results[number] = (*rescored(folder / str(number) / "ledger.jsonl", number), each)
            seconds, peak, _ = results[number]
            rate = f"{number / seconds:.0f} rows/s"
            print(f"{number:6} rows {seconds:6.1f} s {rate:>14} {peak / 1024:7.1f} MiB peak")
    small, large = results.values()
    other = large[2] * rows
    print(f"  one at a time, no cache: {other:.1f} s ({1 / large[2]:.0f} rows/s, of {_ONE_BY_ONE})")
    ratio = large[1] / small[1]
    print(f"time {large[0]:.1f} s (target 20), peak memory ratio {ratio:.2f} (target 1.3)")
    sys.exit(0 if large[0] <= 20 and ratio <= 1.3 else "a target was missed")


def write_ledger(folder: Path, data: Path, rows: int) -> float:
    """Make the ledger; returns the seconds a row of judging one at a time without a cache."""
    with server(delay=0.0, capacity=256) as url:
        options = {"judge_model": "openai/judge", "judge_api_base": url}
        with Rewarding(folder, dataset=str(data), judges=["rubric"], **options) as it:
            turns = list(it.turns)
            for start in range(0, rows, _BATCH):
                size = min(_BATCH, rows - start)
                ids = [turns[(start + n) // 8 % len(turns)] for n in range(size)]
                it.batch(texts(size), ids, step=start // _BATCH, per_group=8)
            it.rows.clear()
            return asyncio.run(one_by_one(it))


async def one_by_one(it: Rewarding) -> float:
    scorer = replace(it.scorers.rewarded, cache=None, _flights={})
    items = [
        Item(it.turns[row.turn_id], row.reply())
        for row in islice(iterate_rows(it.path), _ONE_BY_ONE)
    ]
    started = time.perf_counter()
    for item in items:
        await scorer.score([item])
    return (time.perf_counter() - started) / len(items)


def rescored(ledger: Path, rows: int) -> tuple[float, int]:
    """Wall seconds and peak resident KiB of `kardiabench rescore`; all verdicts were cached."""
    out, report = ledger.with_name("again.jsonl"), ledger.with_name("report.json")
    program = "import sys; from kardiabench.cli.rescoring import rescore; rescore(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(ledger), "--out", str(out), "--json"]
    started = time.perf_counter()
    to_file = [(os.POSIX_SPAWN_OPEN, 1, str(report), os.O_WRONLY | os.O_CREAT, 0o600)]
    process = os.posix_spawn(sys.executable, command, os.environ, file_actions=to_file)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    found = json.loads(report.read_text())
    whole = (
        found["judges"]["rubric"]["compared"] == rows and out.read_bytes() == ledger.read_bytes()
    )
    if os.waitstatus_to_exitcode(status) or not whole:
        sys.exit(f"rescoring failed: {found}")
    return seconds, usage.ru_maxrss


if __name__ == "__main__":
    main()
