"""Requests per second of generate-and-judge, against a bare litellm loop and against inspect-ai.

    python benchmarks/throughput.py [--turns 3200] [--rounds 3] [--inspect PYTHON]

One local server answers everything in 100 ms, 256 requests at a time. Each contender runs in a
process of its own, in turn, round after round, and sends the same prompts: every turn's
generation, then the rubric's judgement of the reply. Imports and dataset loading are not counted;
writing the run directory, parsing, scoring and the cache file are counted for ours.

`--inspect` names the Python of an environment that has inspect-ai and openai (its openai pin
clashes with litellm's):

    python3 -m venv /tmp/inspect && /tmp/inspect/bin/pip install inspect-ai openai
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import child, server, spread
from synthetic import write_dataset

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inspect", metavar="PYTHON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(delay=0.1, capacity=256) as url:
        work = Path(folder)
        data = write_dataset(work / "test.jsonl", dialogues=options.turns // 8, personas=32)
        prompts = child(sys.executable, HERE / "contender_ours.py", "--prompts", str(data))["file"]
        rates: dict[str, list[float]] = {}
        for number in range(options.rounds):
            out = str(work / f"run{number}")
            results = {
                "bare litellm": child(sys.executable, HERE / "contender_bare.py", prompts, url),
                "kardiabench": child(
                    sys.executable, HERE / "contender_ours.py", str(data), url, out
                ),
            }
            if options.inspect:
                inspect = HERE / "contender_inspect.py"
                results["inspect-ai"] = child(options.inspect, inspect, prompts, url, str(work))
            for name, result in results.items():
                rates.setdefault(name, []).append(result["requests"] / result["seconds"])
            print(json.dumps({name: round(rate[-1], 1) for name, rate in rates.items()}))
        Path(prompts).unlink()
    report(rates)


def report(rates: dict[str, list[float]]) -> None:
    ours = rates.pop("kardiabench")
    print(f"kardiabench    {spread(ours)} requests/s")
    for name, values in rates.items():
        pairs = [a / b for a, b in zip(ours, values, strict=True)]
        print(f"{name:14} {spread(values)} requests/s")
        print(f"kardiabench / {name}: {spread(pairs)}")


if __name__ == "__main__":
    main()
