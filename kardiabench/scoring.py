"""The Scorer: the only way from replies to numbers, for `run`, `score` and the trainer alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from kardiabench.contracts import Identity, Judge
from kardiabench.errors import ConfigError, ScoringError, did_you_mean
from kardiabench.fingerprints import digest, fingerprint
from kardiabench.records import (
    Dimension,
    Item,
    Reply,
    Scorecard,
    Turn,
    Usage,
    Verdict,
    VerdictStatus,
    missing_scores,
)
from kardiabench.redaction import redact

MissingPolicy = Literal["mask", "fail_fast", "zero"]

#: A third each, as the paper's reward has it; only the quotients of the weights matter.
DEFAULT_WEIGHTS: Mapping[str, float] = {"format": 1.0, "emotion": 1.0, "rubric": 1.0}

#: Statuses that are nobody's judgement: the composite of such a reply is unknown.
_FAILED: frozenset[VerdictStatus] = frozenset({"unparsed", "refused", "error", "skipped"})


class VerdictCache(Protocol):
    """Where verdicts are kept by content."""

    def get_verdict(self, key: str) -> Verdict | None:
        """The stored verdict, or None."""

    def put_verdict(self, key: str, verdict: Verdict) -> None:
        """Store a verdict whose status is `ok`."""


def composite(
    scores: Mapping[str, Mapping[str, float | None]],
    dimensions: Mapping[str, Sequence[Dimension]],
    weights: Mapping[str, float],
    missing: MissingPolicy = "mask",
) -> float | None:
    """The weighted mean, in [0, 1], of each judge's mean scaled score.

    `scores[judge][dimension]` as in `Verdict.scores`. Pure, float64, summed in the order of
    `weights` and of each judge's dimensions, so that stored verdicts give the same bits again.
    None when a judge with a weight is absent or one of its dimensions has no score; under the
    policy `zero` that dimension counts as the bottom of its range.
    """
    total = weight_sum = 0.0
    for judge, weight in weights.items():
        if judge not in scores:
            return None
        part = 0.0
        for dimension in dimensions[judge]:
            score = scores[judge].get(dimension.name)
            if score is None:
                if missing != "zero":
                    return None
                score = dimension.low
            part += dimension.scaled(score)
        total += weight * (part / len(dimensions[judge]))
        weight_sum += weight
    return total / weight_sum


def item_key(turn: Turn, reply: Reply) -> str:
    """A digest of all that a judge may look at; equal items have equal verdicts."""
    dialogue = turn.dialogue
    return digest(
        [
            dialogue.profile,
            dialogue.situation,
            [[m.role, m.content] for m in turn.history],
            turn.gold,
            turn.gold_emotion,
            reply.text,
            reply.status,
        ],
        length=32,
    )


@dataclass
class Scorer:
    """Judges with weights.

    It owns what judges need not care about: the cache, one flight for equal items that are asked
    for at the same time, a time limit in seconds a batch, and the policy for what is missing.
    Retries of a model's calls belong to its backend, which knows what the server asked for.
    """

    judges: Sequence[Judge]
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    missing: MissingPolicy = "mask"
    cache: VerdictCache | None = None
    timeout: float = 900.0
    #: Told what was paid for a judgement that came from no cache.
    on_usage: Callable[[Usage], None] | None = None
    _flights: dict[str, asyncio.Future[Verdict]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = [judge.name for judge in self.judges]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"judge {twice[0]!r} is given twice; name one of them: {twice[0]}:as=OTHER_NAME"
            )
        if self.weights is not DEFAULT_WEIGHTS and dict(self.weights) != dict(DEFAULT_WEIGHTS):
            self._check_weights(names)
        self._fingerprints = {judge.name: fingerprint(judge.identity) for judge in self.judges}

    @property
    def dimensions(self) -> dict[str, tuple[Dimension, ...]]:
        """The dimensions of every judge."""
        return {judge.name: judge.dimensions for judge in self.judges}

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of every judge."""
        return dict(self._fingerprints)

    @property
    def identity(self) -> Identity:
        """What the manifest records: judges, weights and policy."""
        return {
            "judges": {judge.name: describe(judge) for judge in self.judges},
            "weights": dict(self.weights),
            "missing": self.missing,
        }

    @property
    def batch_size(self) -> int:
        """How many items the hungriest judge wants at a time."""
        return max((getattr(judge, "batch_size", 1) for judge in self.judges), default=1)

    async def score(self, items: Sequence[Item]) -> list[Scorecard]:
        """A scorecard an item, in order."""
        columns = await asyncio.gather(*(self.verdicts(judge, items) for judge in self.judges))
        return [
            self.card(item.turn.id, verdicts)
            for item, *verdicts in zip(items, *columns, strict=True)
        ]

    def card(self, turn_id: str, verdicts: Sequence[Verdict]) -> Scorecard:
        """The scorecard of verdicts on one reply, its composite under this Scorer's policy."""
        if self.missing == "fail_fast":
            _fail_fast(verdicts)
        scores = {verdict.judge: verdict.scores for verdict in verdicts}
        value = composite(scores, self.dimensions, self.weights, self.missing)
        return Scorecard(turn_id, tuple(verdicts), value)

    async def verdicts(self, judge: Judge, items: Sequence[Item]) -> list[Verdict]:
        """One judge's verdicts, from the cache, from a flight under way or from the judge."""
        if not getattr(judge, "cacheable", True):
            return await self._ask(judge, items)
        keys = [f"{self._fingerprints[judge.name]}:{item_key(*item)}" for item in items]
        fresh: dict[str, Item] = {}
        for key, item in zip(keys, items, strict=True):
            if key not in self._flights and not self._land_from_cache(key):
                fresh[key] = item
                self._flights[key] = asyncio.get_running_loop().create_future()
        flights = [self._flights[key] for key in keys]
        if fresh:
            await self._fly(judge, fresh)
        verdicts = await asyncio.gather(*flights)
        for key in keys:
            self._flights.pop(key, None)
        return [
            replace(verdict, turn_id=item.turn.id, judge=judge.name)
            for verdict, item in zip(verdicts, items, strict=True)
        ]

    def _land_from_cache(self, key: str) -> bool:
        cached = self.cache.get_verdict(key) if self.cache else None
        if cached is None:
            return False
        landed: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        landed.set_result(cached)
        self._flights[key] = landed
        return True

    async def _fly(self, judge: Judge, fresh: Mapping[str, Item]) -> None:
        flights = {key: self._flights[key] for key in fresh}
        try:
            verdicts = await self._ask(judge, list(fresh.values()))
        except BaseException:  # cancelled: those who share the flight get a failure, not a hang
            for key, flight in flights.items():
                self._flights.pop(key, None)
                flight.set_result(self._failed(judge, fresh[key], "the shared call was cancelled"))
            raise
        for (key, flight), verdict in zip(flights.items(), verdicts, strict=True):
            if self.cache and verdict.status == "ok":
                self.cache.put_verdict(key, verdict)
            if not flight.done():
                flight.set_result(verdict)

    async def _ask(self, judge: Judge, items: Sequence[Item]) -> list[Verdict]:
        try:
            async with asyncio.timeout(self.timeout):
                verdicts = await judge.judge(items)
            if self.on_usage:
                for verdict in verdicts:
                    self.on_usage(verdict.usage)
            return self._checked(judge, items, verdicts)
        except TimeoutError:
            return [self._failed(judge, i, f"no verdict in {self.timeout:g} s") for i in items]
        except Exception as error:
            if len(items) > 1:  # one item must not take the others with it
                alone = [await self._ask(judge, [item]) for item in items]
                return [verdict for (verdict,) in alone]
            return [self._failed(judge, items[0], f"{type(error).__name__}: {error}")]

    def _checked(
        self, judge: Judge, items: Sequence[Item], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        if len(verdicts) != len(items):
            raise ValueError(f"{len(verdicts)} verdicts for {len(items)} items")
        return [self._sound(judge, i, v) for i, v in zip(items, verdicts, strict=True)]

    def _sound(self, judge: Judge, item: Item, verdict: Verdict) -> Verdict:
        if verdict.status != "ok":
            verdict = replace(verdict, scores=missing_scores(judge.dimensions))
        else:
            for dimension in judge.dimensions:
                score = verdict.scores.get(dimension.name)
                # A NaN is in no range, so it fails here too.
                if score is not None and not dimension.low <= score <= dimension.high:
                    span = f"{dimension.low:g}..{dimension.high:g}"
                    what = f"{dimension.name} {score!r} is not in {span}"
                    return self._failed(judge, item, what)
        own = self._fingerprints[judge.name]
        return replace(verdict, turn_id=item.turn.id, judge=judge.name, fingerprint=own)

    def _failed(self, judge: Judge, item: Item, why: str) -> Verdict:
        return Verdict(
            turn_id=item.turn.id,
            judge=judge.name,
            fingerprint=self._fingerprints[judge.name],
            scores=missing_scores(judge.dimensions),
            status="error",
            evidence={"judge": redact(why)},
        )

    def _check_weights(self, names: Sequence[str]) -> None:
        for name, weight in self.weights.items():
            if name not in names:
                raise ConfigError(
                    f"--weight {name}: no judge of that name runs; {did_you_mean(name, names)}"
                )
            if not 0 < weight < float("inf"):
                raise ConfigError(f"--weight {name}={weight}: give a positive number")


def describe(judge: Judge) -> dict[str, object]:
    """A judge as the manifest records it."""
    return {
        "fingerprint": fingerprint(judge.identity),
        "identity": dict(judge.identity),
        "smoke_test": bool(getattr(judge, "smoke_test", False)),
        "dimensions": [
            {"name": d.name, "low": d.low, "high": d.high, "description": d.description}
            for d in judge.dimensions
        ],
    }


def _fail_fast(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.status in _FAILED and verdict.status != "skipped":
            raise ScoringError(
                f"judge {verdict.judge} failed on turn {verdict.turn_id} ({verdict.status}: "
                f"{' '.join(verdict.evidence.values())}) and --on-missing is fail-fast; "
                "resume the run, or use --on-missing mask"
            )
