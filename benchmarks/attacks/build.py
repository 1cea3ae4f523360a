"""Writes `suite.jsonl`, the frozen expansion of the attack suite, beside this file.

python benchmarks/attacks/build.py           # after a change of the suite or of the anchors
python benchmarks/attacks/build.py --check   # exit with 1 where the file is not what it should be
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kardiabench.attacks import load_suite, suite_fingerprint

SUITE = Path(__file__).resolve().parent / "suite.jsonl"


def expansion() -> str:
    """The suite as JSON lines. All of it is ASCII: what is hidden in it can be seen."""
    return "".join(json.dumps(case.to_json()) + "\n" for case in load_suite())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write or check the frozen attack suite")
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    if parser.parse_args().check:
        sys.exit(0 if SUITE.read_text("utf-8") == expansion() else f"{SUITE} is out of date")
    SUITE.write_text(expansion(), "utf-8")
    print(f"{len(load_suite())} cases, fingerprint {suite_fingerprint()}: {SUITE}")


if __name__ == "__main__":
    main()
