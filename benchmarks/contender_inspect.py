"""inspect-ai's side of `throughput.py`: generate, then grade with a model, on the same prompts.

Runs in an environment of its own; imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENAI_API_KEY", "none")

from inspect_ai import Task, eval  # noqa: A004 - inspect's own name
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import Score, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

IN_FLIGHT = 256
_MESSAGE = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def chat(messages: list[dict[str, str]]) -> list[object]:
    return [_MESSAGE[m["role"]](content=m["content"]) for m in messages]


def grader(url: str) -> object:
    config = GenerateConfig(max_connections=IN_FLIGHT // 2, max_tokens=4096, temperature=0.0)
    judge = get_model("openai/judge", base_url=url, config=config, responses_api=False)

    @scorer(metrics=[mean()])
    def rubric() -> object:
        async def score(state: TaskState, target: Target) -> Score:  # noqa: ARG001
            answer = await judge.generate(chat(state.metadata["judge"]))
            verdict = json.loads(answer.completion)
            return Score(value=sum(v["score"] for v in verdict.values()) / len(verdict))

        return score

    return rubric()


def main(prompts: str, url: str, folder: str) -> None:
    turns = [json.loads(line) for line in Path(prompts).read_text("utf-8").splitlines()]
    samples = [Sample(input=chat(t["generate"]), metadata={"judge": t["judge"]}) for t in turns]
    config = GenerateConfig(max_connections=IN_FLIGHT // 2, max_tokens=4096, temperature=0.0)
    model = get_model("openai/candidate", base_url=url, config=config, responses_api=False)
    task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=grader(url))
    started = time.perf_counter()
    (log,) = eval(task, model=model, max_samples=IN_FLIGHT, display="none", log_dir=folder)
    seconds = time.perf_counter() - started
    if log.status != "success":
        sys.exit(f"inspect-ai: {log.error}")
    print(json.dumps({"requests": 2 * len(turns), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
