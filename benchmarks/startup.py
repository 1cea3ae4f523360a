"""Start-up: `kardiabench --help` within 0.25 s, `import kardiabench` within 0.1 s.

    python benchmarks/startup.py [--runs 10]

`python -X importtime` of each, timed around the whole process, beside `python -c pass`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from common import spread

CASES = {
    "python -c pass": ["-c", "pass"],
    "import kardiabench": ["-c", "import kardiabench"],
    "import pandas (for scale)": ["-c", "import pandas"],
    "kardiabench --help": ["-m", "kardiabench", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in CASES}
    heavy: set[str] = set()
    for _ in range(runs + 1):
        for name, command in CASES.items():
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-X", "importtime", *command],
                capture_output=True,
                text=True,
                check=True,
            )
            times[name].append(time.perf_counter() - started)
            if name == "kardiabench --help":
                heavy |= {
                    module
                    for module in ("litellm", "datasets", "pandas", "sklearn", "pydantic", "rich")
                    if f" {module}\n" in done.stderr
                }
    for name, values in times.items():
        print(f"{name:28} {spread(values[1:])} s")  # the first run warms the disk cache
    print(f"heavy modules imported by --help: {sorted(heavy) or 'none'}")
    help_time = statistics.median(times["kardiabench --help"][1:])
    import_time = statistics.median(times["import kardiabench"][1:])
    print(
        f"targets: --help {help_time / 0.25:.2f} of 0.25 s, import {import_time / 0.1:.2f} of 0.1 s"
    )


if __name__ == "__main__":
    main()
