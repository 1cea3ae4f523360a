"""A plugin with judges that do whatever a judge should not: `odd:how=block,seconds=2`.

Each scores one dimension, `d` in [0, 1]. A reply with `bad` in its text sets off what is about one
item only. `fails` is how many batches misbehave (by default all); after those a judge is good.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence

from kardiabench.contracts import JudgeContext
from kardiabench.hookspecs import API_VERSION, RegisterJudge, hookimpl
from kardiabench.records import Dimension, Item, Verdict

KARDIABENCH_API = API_VERSION


def content_score(text: str) -> float:
    """A score with many digits, by the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


class OddJudge:
    """Misbehaves in the way that `how` names."""

    name = "odd"
    dimensions: tuple[Dimension, ...] = (Dimension("d", 0.0, 1.0, "a number by the text"),)

    def __init__(self, how: str, seconds: float, fails: int, cacheable: bool) -> None:
        self.how, self.seconds, self.fails, self.cacheable = how, seconds, fails, cacheable
        self.batches = 0

    @property
    def identity(self) -> Mapping[str, object]:
        """What it does is no part of it, so that the cold and the warm run are of one judge."""
        return {"judge": "odd"}

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, or something else."""
        self.batches += 1
        if self.batches <= self.fails:
            await getattr(self, f"_{self.how}")(items)
        verdicts = [self._verdict(item) for item in items]
        if self.batches <= self.fails and self.how == "short":
            return verdicts[1:]
        return verdicts

    def _verdict(self, item: Item) -> Verdict:
        text = item.reply.text
        scores: dict[str, float | None] = {"d": content_score(text)}
        if self.how in ("nan", "inf", "outside") and "bad" in text:
            scores = {"d": {"nan": float("nan"), "inf": float("inf"), "outside": 7.0}[self.how]}
        if self.how == "text" and "bad" in text:
            scores = {"d": "0.5"}  # type: ignore[dict-item]  # what a careless plugin writes
        return Verdict(item.turn.id, self.name, "", scores)

    async def _good(self, items: Sequence[Item]) -> None:
        await asyncio.sleep(self.seconds)

    async def _at_once(self, items: Sequence[Item]) -> None:
        """Nothing to wait for."""

    _short = _nan = _inf = _outside = _text = _at_once

    async def _block(self, items: Sequence[Item]) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - the fault

    async def _hang(self, items: Sequence[Item]) -> None:
        await asyncio.Event().wait()

    async def _stubborn(self, items: Sequence[Item]) -> None:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                continue

    async def _exit(self, items: Sequence[Item]) -> None:
        raise SystemExit(3)

    async def _exit_in_a_task(self, items: Sequence[Item]) -> None:
        async def leave() -> None:
            raise SystemExit(3)

        await asyncio.gather(leave(), asyncio.sleep(60))

    async def _interrupt(self, items: Sequence[Item]) -> None:
        raise KeyboardInterrupt

    async def _cancel(self, items: Sequence[Item]) -> None:
        raise asyncio.CancelledError

    async def _fail(self, items: Sequence[Item]) -> None:
        raise RuntimeError("no judgement today")

    async def _fail_on_bad(self, items: Sequence[Item]) -> None:
        if any("bad" in item.reply.text for item in items):
            raise RuntimeError("a bad one")


def build(options: Mapping[str, str], context: JudgeContext) -> OddJudge:
    """`how`, `seconds`, `fails`, `cached`."""
    return OddJudge(
        options.get("how", "good"),
        float(options.get("seconds", 0)),
        int(options.get("fails", 10**9)),
        options.get("cached", "yes") == "yes",
    )


@hookimpl
def register_judges(register: RegisterJudge) -> None:
    """The judge `odd`."""
    register("odd", build)
