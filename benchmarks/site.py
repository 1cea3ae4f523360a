"""The leaderboard at its real size: 50 models x 20,376 turns x 3 judges.

    python benchmarks/site.py [--models 50] [--dialogues 2547] [--keep FOLDER]

Whole processes, imports included. Targets: a full build within 60 s and 2 GiB on 2 cores (the sum
of all processes), a build after one new run in a tenth of that, no file over 2 MB, a front page of
at most 500 kB compressed that Chromium shows within 1 s from disk. The runs are made first, which
takes half a minute and 2.4 GB of disk.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from site_runs import write_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--dialogues", type=int, default=2547)
    parser.add_argument("--keep", type=Path, help="folder for runs and site, which stays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.keep or Path(temporary)
        runs = write_runs(work / "runs", options.models + 1, dialogues=options.dialogues)
        measure(runs, work)


def measure(runs: list[Path], work: Path) -> None:
    """Build without the last run, then with it, then with nothing new."""
    site, cache = work / "site", work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    full, peak = build(runs[:-1], site, cache)
    print(f"full build      {full:6.1f} s, {peak / 2**30:.2f} GiB at its peak (targets 60, 2)")
    again, _ = build(runs, site, cache)
    print(f"one new run     {again:6.1f} s, {again / full:.3f} of a full build (target 0.1)")
    nothing, _ = build(runs, site, cache)
    print(f"nothing new     {nothing:6.1f} s")
    files = [file for file in site.rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    total = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {total / 1e6:.0f} MB, the largest {largest.name} with ", end="")
    print(f"{largest.stat().st_size / 1e6:.2f} MB (target 2)")
    page = front_page(site)
    print(f"front page      {page / 1e3:.0f} kB compressed, with style and scripts (target 500)")
    print(f"shown after     {shown(site):.2f} s in Chromium from disk, median of 5 (target 1)")


def build(runs: list[Path], site: Path, cache: Path) -> tuple[float, int]:
    """Wall seconds, and the peak of the resident bytes of all its processes together."""
    command = [sys.executable, "-m", "leaderboard", "build", *map(str, runs)]
    command += ["--out", str(site), "--cache", str(cache)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = Peak(process.pid)
    peak.start()
    if process.wait():
        sys.exit("the build failed")
    return time.perf_counter() - started, peak.bytes


class Peak(threading.Thread):
    """Watches the memory of a process and its children; a page that they share counts once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.bytes = pid, 0

    def run(self) -> None:
        """Look ten times a second until the process is gone."""
        while Path(f"/proc/{self.pid}").exists():
            self.bytes = max(self.bytes, sum(map(proportional, family(self.pid))))
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [pid, *(one for child in text.split() for one in family(int(child)))]


def proportional(pid: int) -> int:
    """The proportional set size in bytes; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) << 10


def front_page(site: Path) -> int:
    """Bytes of the page and what it loads, each compressed with gzip."""
    loaded = [site / "index.html", *(site / "static").iterdir()]
    return sum(len(gzip.compress(file.read_bytes())) for file in loaded)


def shown(site: Path) -> float:
    """Seconds from the navigation until the front page has been painted and its scripts ran."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or sys.exit("install Chromium: apt-get install chromium")
    address = (site / "index.html").resolve().as_uri()
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(5):
            page = browser.new_context().new_page()
            times.append(timed(lambda page=page: page.goto(address, wait_until="load")))
            page.context.close()
        browser.close()
    return sorted(times)[len(times) // 2]


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
