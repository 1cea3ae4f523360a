"""One contender of benchmarks/local_speed.py in a process of its own; prints JSON.

`contender_local.py ours|plain|lm-eval:BATCH MODEL PROMPTS.json MAX_TOKENS DTYPE`
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

STOPS = ["\n\nSystem:", "\n\nUser:", "\n\nAssistant:"]


def ours(model: str, prompts: Sequence[Any], max_tokens: int, dtype: str) -> dict[str, Any]:
    from kardiabench.contracts import LocalOptions, ModelOptions
    from kardiabench.models.hf import HfModel
    from kardiabench.records import ChatRequest, Message

    options = ModelOptions(max_tokens=max_tokens, local=LocalOptions(dtype=dtype))
    backend = HfModel(f"hf/{model}", options)
    dialogues = [
        [ChatRequest(tuple(Message(**message) for message in one["messages"])) for one in group]
        for _, group in groupby(prompts, key=lambda prompt: prompt["dialogue"])
    ]

    async def run() -> tuple[float, list[Any]]:
        await backend.preflight()
        started = time.perf_counter()
        done = []
        for start in range(0, len(dialogues), backend.dialogues_at_once):
            batch = dialogues[start : start + backend.dialogues_at_once]
            done += await asyncio.gather(*map(backend.complete, batch))
        seconds = time.perf_counter() - started
        return seconds, [completion for completions in done for completion in completions]

    seconds, completions = asyncio.run(run())
    counts = backend._engine.runner.counts  # type: ignore[union-attr]
    return {
        "seconds": seconds,
        "tokens": sum(c.usage.completion_tokens for c in completions),
        "computed": counts.computed,
        "distinct": counts.distinct,
        "prompt": counts.prompt,
        "texts": [completion.text for completion in completions],
    }


def plain(model: str, prompts: Sequence[Any], max_tokens: int, dtype: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    texts, tokens = [], 0
    started = time.perf_counter()
    with torch.inference_mode():
        for prompt in prompts:
            inputs = tokenizer(prompt["text"], return_tensors="pt")
            out = network.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                stop_strings=STOPS,
                tokenizer=tokenizer,
            )
            new = out[0, inputs.input_ids.shape[1] :]
            tokens += len(new)
            texts.append(_until(tokenizer.decode(new, skip_special_tokens=True)))
    return {"seconds": time.perf_counter() - started, "tokens": tokens, "texts": texts}


def lm_eval(
    model: str, prompts: Sequence[Any], max_tokens: int, dtype: str, batch: int
) -> dict[str, Any]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, device="cpu", dtype=dtype, batch_size=batch, max_length=32768)
    asked = {"until": STOPS, "max_gen_toks": max_tokens, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (prompt["text"], dict(asked)), number)
        for number, prompt in enumerate(prompts)
    ]
    started = time.perf_counter()
    texts = lm.generate_until(requests, disable_tqdm=True)
    return {"seconds": time.perf_counter() - started, "texts": [_until(text) for text in texts]}


def _until(text: str) -> str:
    return text[: min((p for s in STOPS if (p := text.find(s)) >= 0), default=len(text))]


def main() -> None:
    who, model, file, max_tokens, dtype = sys.argv[1:6]
    prompts = json.loads(Path(file).read_text())
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    name, _, batch = who.partition(":")
    if name == "lm-eval":
        found = lm_eval(model, prompts, int(max_tokens), dtype, int(batch))
    else:
        found = {"ours": ours, "plain": plain}[name](model, prompts, int(max_tokens), dtype)
    print(json.dumps(found | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
