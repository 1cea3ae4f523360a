"""What judges that ask a model have in common: batches, samples, failures, the model's options."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from judges.asking import Attempt, Question, ask
from judges.combining import (
    asking_note,
    evidence_of,
    failure,
    mean_scores,
    parts_of,
    status_of,
)
from judges.fences import new_nonce
from judges.options import Options
from judges.verdicts import skipped
from kardiabench.contracts import ChatModel, Identity
from kardiabench.fingerprints import fingerprint
from kardiabench.records import (
    Dimension,
    Item,
    Message,
    Usage,
    Verdict,
    VerdictStatus,
    missing_scores,
)

DEFAULT_MODEL = "openai/gpt-5-mini"
#: The options that every judge with a model takes beside its own.
MODEL_OPTIONS = (
    "model", "samples", "seed", "api_base", "temperature", "max_tokens", "concurrency", "timeout",
    "dtype", "device", "quantize", "thinking",
)  # fmt: skip
_NO_USAGE = Usage()


class ModelJudge(ABC):
    """Puts questions on an item to `model`, `samples` times, and makes a verdict of the answers.

    `nonce` gives each call the nonce that its answer has to repeat.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    #: Its model bounds each call; a limit on top would count the wait for a free place too.
    time_limit = None

    def __init__(
        self, model: ChatModel, *, samples: int = 1, nonce: Callable[[], str] = new_nonce
    ) -> None:
        self.model = model
        self.samples = samples
        self._nonce = nonce

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """Everything that decides its verdicts."""

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.identity)

    @property
    @abstractmethod
    def calls_per_item(self) -> int:
        """How many requests one item takes, repairs not counted."""

    @abstractmethod
    def settled(self, item: Item) -> Verdict | None:
        """The verdict on an item that nothing needs to be asked about, else None."""

    @abstractmethod
    def questions(self, item: Item) -> list[Question]:
        """What is asked about an item: `calls_per_item` questions."""

    @property
    def batch_size(self) -> int:
        """How many items its model wants at a time: 1 for an API, more for a local batch."""
        return max(1, self.model.batch_size // self.calls_per_item)

    def messages(self, item: Item) -> tuple[Message, ...]:
        """What the model is sent first for `item`; its nonce is another each time."""
        return self.questions(item)[0].request.messages

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order, judged at once: the model does the limiting."""
        size = self.batch_size
        groups = [items[start : start + size] for start in range(0, len(items), size)]
        judged = await asyncio.gather(*map(self._judge_group, groups))
        return [verdict for group in judged for verdict in group]

    async def _judge_group(self, items: Sequence[Item]) -> list[Verdict]:
        known = [self._without_model(item) for item in items]
        asked = [
            [] if verdict else self.questions(item)
            for item, verdict in zip(items, known, strict=True)
        ]
        attempts = iter(await ask(self.model, [q for questions in asked for q in questions]))
        return [
            verdict or self.combined(item, questions, [next(attempts) for _ in questions])
            for item, verdict, questions in zip(items, known, asked, strict=True)
        ]

    def _without_model(self, item: Item) -> Verdict | None:
        return skipped(self, item) if item.reply.status == "error" else self.settled(item)

    def combined(
        self, item: Item, questions: Sequence[Question], attempts: Sequence[Attempt]
    ) -> Verdict:
        """The verdict that the answers come to: the mean over the parts."""
        usage, status = Usage.total(attempt.usage for attempt in attempts), status_of(attempts)
        if status not in ("ok", "partial"):
            why = {"judge": failure(attempts).note}
            return self.verdict(item, status, missing_scores(self.dimensions), why, usage=usage)
        parts = parts_of(questions, attempts)
        scores = mean_scores(parts, [dimension.name for dimension in self.dimensions])
        note = asking_note(questions, attempts, parts)
        evidence = evidence_of(attempts) | ({"judge": note} if note else {})
        kept = parts if len(parts) > 1 else {}
        return self.verdict(item, status, scores, evidence, usage=usage, parts=kept)

    def verdict(
        self,
        item: Item,
        status: VerdictStatus,
        scores: Mapping[str, float | None],
        evidence: Mapping[str, str],
        *,
        usage: Usage = _NO_USAGE,
        parts: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> Verdict:
        """A verdict of this judge on `item`."""
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint=self._fingerprint,
            scores=scores,
            status=status,
            evidence=evidence,
            usage=usage,
            parts=parts or {},
        )


def model_options(given: Options, seed: int | None, samples: int) -> dict[str, Any]:
    """What was chosen for the model. Greedy samples would be copies: several get temperature 1."""
    own_seed = given.whole("seed", 0, 2**31 - 1)
    temperature = given.number("temperature", 0, 2)
    chosen = {
        "seed": seed if own_seed is None else own_seed,
        "temperature": 1.0 if temperature is None and samples > 1 else temperature,
        "api_base": given.text("api_base", "") if "api_base" in given.values else None,
        "max_tokens": given.whole("max_tokens", 1, 1_000_000),
        "concurrency": given.whole("concurrency", 1, 10_000),
        "timeout": given.number("timeout", 0.001, 86_400),
        **_local_options(given),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _local_options(given: Options) -> dict[str, Any]:
    """What was chosen for a model that runs in this process."""
    texts = {name: given.text(name, "") for name in ("dtype", "device") if name in given.values}
    if "quantize" in given.values:
        texts["quantize"] = given.choice("quantize", ("4bit", "8bit"))
    if "thinking" not in given.values:
        return texts
    return texts | {"thinking": given.choice("thinking", ("no", "yes")) == "yes"}
