"""The Scorer: the only way from replies to numbers, for `run`, `score` and the trainer alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, SupportsFloat, get_args

from kardiabench.contracts import Identity, Judge
from kardiabench.errors import ConfigError, PluginError, ScoringError, did_you_mean
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
    clean_text,
    missing_scores,
)
from kardiabench.redaction import known_secrets, redact, without_keys

MissingPolicy = Literal["mask", "fail_fast", "zero"]

#: A third each, as the paper's reward has it; only the quotients of the weights matter.
DEFAULT_WEIGHTS: Mapping[str, float] = {"format": 1.0, "emotion": 1.0, "rubric": 1.0}

#: Beyond these the sum of weights would lose digits or overflow.
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1e-6, 1e6

_STATUSES: tuple[VerdictStatus, ...] = get_args(VerdictStatus)

#: Statuses that are nobody's judgement: the composite of such a reply is unknown.
_FAILED: frozenset[VerdictStatus] = frozenset({"unparsed", "refused", "error", "skipped"})

#: Statuses whose verdicts have scores.
JUDGED: frozenset[VerdictStatus] = frozenset({"ok", "partial"})


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

    `scores[judge][dimension]` as in `Verdict.scores`. Pure, float64, summed over judges by name
    and over each judge's dimensions in their order, so that stored verdicts give the same bits
    again. None when a judge with a weight is absent or one of its dimensions has no score; under
    the policy `zero` that dimension counts as the bottom of its range.
    """
    total = weight_sum = 0.0
    for judge in sorted(weights):  # a manifest does not keep the order in which they were given
        if judge not in scores:
            return None
        part, weight = 0.0, weights[judge]
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
    """A digest of all that a judge may look at; equal items have equal verdicts.

    Left out are names (turn, dialogue, persona) and what the reply took (usage, latency).
    """
    dialogue = turn.dialogue
    return digest(
        [
            [dialogue.profile, dialogue.mbti, dialogue.emotion, dialogue.situation],
            [[m.role, m.content] for m in dialogue.messages[: turn.end]],
            [turn.gold, turn.gold_emotion],
            [reply.text, reply.status, reply.detail, reply.finish_reason, reply.reasoning],
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
    #: Where each judge's models are asked, when that is not their provider's own address.
    endpoints: Mapping[str, str] = field(default_factory=dict)
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
        for judge in self.judges:
            _check_dimensions(judge)
        if self.weights is not DEFAULT_WEIGHTS and dict(self.weights) != dict(DEFAULT_WEIGHTS):
            self._check_weights(names)
        self._fingerprints = {judge.name: fingerprint(judge.identity) for judge in self.judges}
        self._secrets = known_secrets()

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
        if not items:
            return []
        if not getattr(judge, "cacheable", True):
            return await self._ask(judge, items)
        # Two servers may give different models one name, so their verdicts are kept apart.
        asked = f"{self._fingerprints[judge.name]}:{self.endpoints.get(judge.name, '')}"
        keys = [f"{asked}:{item_key(*item)}" for item in items]
        by_key = await self._by_key(judge, dict(zip(keys, items, strict=True)))
        return [
            replace(by_key[key], turn_id=item.turn.id, judge=judge.name)
            for key, item in zip(keys, items, strict=True)
        ]

    async def _by_key(self, judge: Judge, items: Mapping[str, Item]) -> dict[str, Verdict]:
        landed = {key: verdict for key in items if (verdict := self._cached(judge, key))}
        shared = {key: self._flights[key] for key in items if key in self._flights}
        fresh = {k: i for k, i in items.items() if k not in landed and k not in shared}
        if fresh:
            landed |= await self._fly(judge, fresh)
        if not shared:
            return landed
        await asyncio.wait(shared.values())  # unlike gather, it leaves the flights of others alone
        for key, flight in shared.items():
            if not flight.cancelled():
                landed[key] = flight.result()
        orphans = {key: item for key, item in items.items() if key not in landed}
        return landed | (await self._by_key(judge, orphans) if orphans else {})

    def _cached(self, judge: Judge, key: str) -> Verdict | None:
        verdict = self.cache.get_verdict(key) if self.cache else None
        wanted = {dimension.name for dimension in judge.dimensions}
        return verdict if verdict is not None and verdict.scores.keys() == wanted else None

    async def _fly(self, judge: Judge, fresh: Mapping[str, Item]) -> dict[str, Verdict]:
        """Ask the judge; whoever asks for an equal item meanwhile waits for this answer.

        When it is cancelled its flights are, and those who waited ask for themselves.
        """
        loop = asyncio.get_running_loop()
        flights: dict[str, asyncio.Future[Verdict]] = {key: loop.create_future() for key in fresh}
        self._flights.update(flights)
        try:
            verdicts = await self._ask(judge, list(fresh.values()))
            for (key, flight), verdict in zip(flights.items(), verdicts, strict=True):
                flight.set_result(verdict)
                if self.cache and verdict.status == "ok":
                    self.cache.put_verdict(key, verdict)
        finally:
            for key, flight in flights.items():
                del self._flights[key]
                flight.cancel()  # nothing to one that has landed
        return dict(zip(fresh, verdicts, strict=True))

    async def _ask(self, judge: Judge, items: Sequence[Item]) -> list[Verdict]:
        seconds = getattr(judge, "time_limit", self.timeout)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                verdicts = await judge.judge(items)
            return self._paid(self._checked(judge, items, verdicts))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            if limit.expired():
                return [self._failed(judge, i, f"no verdict in {seconds:g} s") for i in items]
            if len(items) > 1:  # one item must not take the others with it
                alone = await asyncio.gather(*(self._ask(judge, [item]) for item in items))
                return [verdict for (verdict,) in alone]
            return [self._failed(judge, items[0], f"{type(error).__name__}: {error}")]

    def _paid(self, verdicts: list[Verdict]) -> list[Verdict]:
        if self.on_usage:
            for verdict in verdicts:
                self.on_usage(verdict.usage)
        return verdicts

    def _checked(
        self, judge: Judge, items: Sequence[Item], verdicts: Sequence[Verdict]
    ) -> list[Verdict]:
        if len(verdicts) != len(items):
            raise ValueError(f"{len(verdicts)} verdicts for {len(items)} items")
        return [self._sound(judge, i, v) for i, v in zip(items, verdicts, strict=True)]

    def _sound(self, judge: Judge, item: Item, verdict: Verdict) -> Verdict:
        """`verdict` as it can be stored and read again, or a failed one that says what is wrong."""
        try:
            scores = _sound_scores(judge, verdict)
            parts = _sound_parts(judge, verdict)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            failed = self._failed(judge, item, str(error))
            return replace(failed, usage=verdict.usage) if _is_usage(verdict.usage) else failed
        return replace(
            verdict,
            turn_id=item.turn.id,
            judge=judge.name,
            fingerprint=self._fingerprints[judge.name],
            scores=scores,
            evidence={
                str(key): without_keys(clean_text(str(text)), self._secrets)
                for key, text in verdict.evidence.items()
            },
            parts=parts,
        )

    def _failed(self, judge: Judge, item: Item, why: str) -> Verdict:
        return Verdict(
            turn_id=item.turn.id,
            judge=judge.name,
            fingerprint=self._fingerprints[judge.name],
            scores=missing_scores(judge.dimensions),
            status="error",
            evidence={"judge": clean_text(redact(why))},
        )

    def _check_weights(self, names: Sequence[str]) -> None:
        if not self.weights:
            raise ConfigError("no judge has a weight; give --weight NAME=1 for one that runs")
        for name, weight in self.weights.items():
            if name not in names:
                raise ConfigError(
                    f"--weight {name}: no judge of that name runs; {did_you_mean(name, names)}"
                )
            if not _SMALLEST_WEIGHT <= weight <= _LARGEST_WEIGHT:  # a NaN is in no range
                raise ConfigError(
                    f"--weight {name}={weight}: give a number from {_SMALLEST_WEIGHT:g} to "
                    f"{_LARGEST_WEIGHT:g}"
                )


def describe(judge: Judge) -> dict[str, object]:
    """A judge as the manifest records it."""
    return {
        "fingerprint": fingerprint(judge.identity),
        "identity": dict(judge.identity),
        "smoke_test": bool(getattr(judge, "smoke_test", False)),
        "dimensions": [
            {"name": d.name, "low": d.low, "high": d.high, "description": d.description}
            | ({"flag": True} if d.flag else {})
            for d in judge.dimensions
        ],
    }


def _is_being_cancelled() -> bool:
    """Whether this task was told to stop; else a judge let a cancellation of its own escape."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _check_dimensions(judge: Judge) -> None:
    names = [dimension.name for dimension in judge.dimensions]
    if not names or len(set(names)) < len(names):
        raise PluginError(
            f"judge {judge.name!r} has {'two dimensions of one name' if names else 'no dimension'};"
            " mend it or leave it out"
        )
    for d in judge.dimensions:
        if not -math.inf < d.low < d.high < math.inf:
            raise PluginError(
                f"judge {judge.name!r}: the range of {d.name} is {d.low}..{d.high}; it has to rise "
                "from one finite number to another: mend the judge or leave it out"
            )


def _sound_scores(judge: Judge, verdict: Verdict) -> dict[str, float | None]:
    """The scores of every dimension of `judge`; raises for what is no score of it."""
    if verdict.status not in _STATUSES:
        raise ValueError(f"status {verdict.status!r} is none of {', '.join(_STATUSES)}")
    if not _is_usage(verdict.usage):
        raise TypeError(f"usage {verdict.usage!r} is no Usage")
    if verdict.status not in JUDGED:
        return missing_scores(judge.dimensions)
    odd = set(verdict.scores) ^ {dimension.name for dimension in judge.dimensions}
    if odd:
        name = min(odd, key=str)
        raise ValueError(
            f"{name} is none of its dimensions"
            if name in verdict.scores
            else f"no score for {name} (None says that there is none)"
        )
    return {d.name: _sound_score(d, verdict.scores[d.name]) for d in judge.dimensions}


def _sound_parts(judge: Judge, verdict: Verdict) -> dict[str, dict[str, float | None]]:
    """What the verdict was put together from; raises for a score that is none of `judge`."""
    known = {dimension.name: dimension for dimension in judge.dimensions}
    return {
        clean_text(str(part)): {
            name: _sound_score(known[name], score) for name, score in scores.items()
        }
        for part, scores in verdict.parts.items()
    }


def _is_usage(value: object) -> bool:
    return isinstance(value, Usage)


def _sound_score(dimension: Dimension, score: object) -> float | None:
    if score is None:
        return None
    # Numbers of numpy and the like are numbers; text that reads as one is a mistake.
    if isinstance(score, str | bytes) or not isinstance(score, SupportsFloat):
        raise TypeError(f"{dimension.name} {score!r} is not a number")
    number = float(score)
    if not dimension.low <= number <= dimension.high:  # a NaN is in no range
        span = f"{dimension.low:g}..{dimension.high:g}"
        raise ValueError(f"{dimension.name} {score!r} is not in {span}")
    return number


def _fail_fast(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.status in _FAILED and verdict.status != "skipped":
            raise ScoringError(
                f"judge {verdict.judge} failed on turn {verdict.turn_id} ({verdict.status}: "
                f"{' '.join(verdict.evidence.values())}) and --on-missing is fail-fast; "
                "resume the run, or use --on-missing mask"
            )
