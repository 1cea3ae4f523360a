"""A bare `litellm.acompletion` loop over prepared prompts: the ceiling of `throughput.py`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import litellm

IN_FLIGHT = 256


async def main(turns: list[dict[str, Any]], url: str) -> None:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(model: str, messages: list[dict[str, str]], **more: object) -> None:
        async with slots:
            await litellm.acompletion(
                model=model,
                messages=messages,
                api_base=url,
                api_key="none",
                max_tokens=4096,
                temperature=0.0,
                seed=0,
                max_retries=0,
                **more,
            )

    async def one(turn: dict[str, Any]) -> None:
        await ask("openai/candidate", turn["generate"])
        await ask("openai/judge", turn["judge"], response_format=turn["response_format"])

    await ask("openai/candidate", turns[0]["generate"])  # warm, as our preflight is
    started = time.perf_counter()
    await asyncio.gather(*map(one, turns))
    seconds = time.perf_counter() - started
    print(json.dumps({"requests": 2 * len(turns), "seconds": seconds}))


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text("utf-8").splitlines()
    asyncio.run(main([json.loads(line) for line in lines], sys.argv[2]))
