"""Our side of `throughput.py`: the whole run, from the first request to the summary.

python contender_ours.py DATASET URL OUT       measure
python contender_ours.py --prompts DATASET     write the same prompts for the others
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

IN_FLIGHT = 256


def settings_for(dataset: str, url: str) -> object:
    from kardiabench.settings import RunSettings

    # Generation and judging share the 256 places that the server has.
    return RunSettings(
        model="openai/candidate",
        dataset=dataset,
        api_base=url,
        judge_model="openai/judge",
        judge_api_base=url,
        concurrency=IN_FLIGHT // 2,
    )


def measure(dataset: str, url: str, out: str) -> None:
    from kardiabench.execution import Manner, execute
    from kardiabench.models.api import load_litellm
    from kardiabench.progress import Progress
    from kardiabench.session import make_manifest, open_session
    from kardiabench.store import RunStore, create

    os.environ["KARDIABENCH_CACHE"] = f"{out}.cache.sqlite"
    session = open_session(settings_for(dataset, url))
    create(Path(out), make_manifest(session))
    load_litellm()
    importlib.import_module("sklearn.metrics")
    asyncio.run(session.model.preflight())  # litellm imports its parts at the first call
    with RunStore(Path(out)) as store:
        started = time.perf_counter()
        outcome = execute(session, store, Manner(), Progress(quiet=True))
        seconds = time.perf_counter() - started
    if outcome.exit_code:
        sys.exit(outcome.sentence)
    requests = sum(
        u["calls"]
        for u in (outcome.summary["usage"]["model"], outcome.summary["usage"]["judges"]["rubric"])
    )
    print(json.dumps({"requests": requests, "seconds": seconds}))


def write_prompts(dataset: str) -> None:
    from kardiabench.records import Item, Reply
    from kardiabench.session import open_session

    session = open_session(replace(settings_for(dataset, "http://127.0.0.1:9/v1"), cache=False))
    rubric = session.scorer.judges[-1]
    handle, name = tempfile.mkstemp(suffix=".jsonl")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        for turn in session.dialogues.turns():
            generate = session.prompts.messages(turn)
            judge = rubric.messages(Item(turn, Reply(turn.id, turn.gold)))
            schema = {
                "name": "verdict",
                "schema": dict(rubric.answer_format.schema),
                "strict": True,
            }
            line = {
                "response_format": {"type": "json_schema", "json_schema": schema},
                "generate": [{"role": m.role, "content": m.content} for m in generate],
                "judge": [{"role": m.role, "content": m.content} for m in judge],
            }
            file.write(json.dumps(line) + "\n")
    print(json.dumps({"file": name}))


if __name__ == "__main__":
    if sys.argv[1] == "--prompts":
        write_prompts(sys.argv[2])
    else:
        measure(*sys.argv[1:4])
