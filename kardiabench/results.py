"""A run's logs as compact columns in a canonical order: what every number is computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.emotions import match_emotion
from kardiabench.records import Dimension, Usage, Verdict
from kardiabench.scoring import MissingPolicy, composite
from kardiabench.stats import Codes, Floats
from kardiabench.store import Manifest, StoredReply, iterate_replies, iterate_verdicts, reply_digest


@dataclass(slots=True)
class TurnResult:
    """One turn, without its text."""

    persona_id: str
    gold_emotion: str
    gold_source: str
    digest: str
    status: str
    error_kind: str
    predicted: str | None
    problems: tuple[str, ...]
    usage: Usage
    latency: float
    verdicts: dict[str, JudgeResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """One judge's verdict on one turn, without its evidence."""

    status: str
    scores: tuple[float | None, ...]
    usage: Usage


@dataclass(frozen=True)
class Results:
    """The turns of a run, sorted by id, and its judges in the manifest's order."""

    turns: Mapping[str, TurnResult]
    dimensions: Mapping[str, tuple[Dimension, ...]]
    weights: Mapping[str, float]
    missing: MissingPolicy

    @cached_property
    def personas(self) -> Codes:
        """The persona of each turn, as a code from 0."""
        names = {name: code for code, name in enumerate(self.persona_names)}
        codes = [names[turn.persona_id] for turn in self.turns.values()]
        return np.array(codes, dtype=np.int64)

    def column(self, judge: str, dimension: int) -> Floats:
        """The scores of one dimension, NaN where there is none."""
        return _floats(self._score(turn, judge, dimension) for turn in self.turns.values())

    def composites(self) -> Floats:
        """The composite of each turn, NaN where it is None."""
        return _floats(map(self._composite, self.turns.values()))

    @property
    def persona_names(self) -> tuple[str, ...]:
        """The persona that each code of `personas` stands for."""
        return tuple(sorted({turn.persona_id for turn in self.turns.values()}))

    @staticmethod
    def _score(turn: TurnResult, judge: str, dimension: int) -> float | None:
        verdict = turn.verdicts.get(judge)
        return None if verdict is None else verdict.scores[dimension]

    def _composite(self, turn: TurnResult) -> float | None:
        scores = {
            judge: {d.name: s for d, s in zip(self.dimensions[judge], v.scores, strict=True)}
            for judge, v in turn.verdicts.items()
        }
        return composite(scores, self.dimensions, self.weights, self.missing)


def read_results(path: Path, manifest: Manifest) -> Results:
    """Read the logs of the run at `path`. The last reply to a turn counts, with its verdicts."""
    turns: dict[str, TurnResult] = {}
    for _, stored in iterate_replies(path):
        turns[stored.reply.turn_id] = _turn_result(stored)
    judges = judges_of(manifest)
    digests = {turn_id: turn.digest for turn_id, turn in turns.items()}
    for verdict in current_verdicts(path, manifest, digests):
        result = _judge_result(verdict, judges[verdict.judge])
        turns[verdict.turn_id].verdicts[verdict.judge] = result
    scorer = manifest["protocol"]["scorer"]
    ordered = dict(sorted(turns.items(), key=lambda pair: turn_order(pair[0])))
    return Results(ordered, judges, scorer["weights"], scorer["missing"])


def current_verdicts(
    path: Path, manifest: Manifest, digests: Mapping[str, str]
) -> Iterator[Verdict]:
    """The stored verdicts that count, in the order of writing; the last on a turn replaces others.

    Those of the manifest's judges, as they are now, on the replies whose `digests` are given by
    turn: not on a reply that was replaced, not by a judge that was changed since.
    """
    judges = manifest["protocol"]["scorer"]["judges"]
    fingerprints = {name: judge["fingerprint"] for name, judge in judges.items()}
    for line in iterate_verdicts(path):
        verdict = line.verdict
        is_of_reply = digests.get(verdict.turn_id) == line.reply_digest
        if is_of_reply and fingerprints.get(verdict.judge) == verdict.fingerprint:
            yield verdict


def judges_of(manifest: Manifest) -> dict[str, tuple[Dimension, ...]]:
    """The dimensions of each judge that the manifest names."""
    judges: dict[str, Any] = manifest["protocol"]["scorer"]["judges"]
    return {
        name: tuple(Dimension(**dimension) for dimension in judge["dimensions"])
        for name, judge in judges.items()
    }


def turn_order(turn_id: str) -> tuple[str, int]:
    """The canonical order of turns: by dialogue, then by their place in it."""
    dialogue, _, index = turn_id.rpartition("/")
    return dialogue, int(index)


def count(values: Sequence[str]) -> dict[str, int]:
    """How often each value occurs, by name."""
    return dict(sorted(Counter(values).items()))


def _turn_result(stored: StoredReply) -> TurnResult:
    reply = stored.reply
    spans = reply.spans
    failed = reply.status == "error"
    return TurnResult(
        persona_id=stored.persona_id,
        gold_emotion=stored.gold_emotion,
        gold_source=stored.gold_source,
        digest=reply_digest(reply),
        status=reply.status,
        error_kind=reply.detail.partition(":")[0] if failed else "",
        predicted=match_emotion(spans.emotion) if spans.emotion else None,
        problems=() if failed else spans.problems,
        usage=reply.usage,
        latency=reply.latency,
    )


def _judge_result(verdict: Verdict, dimensions: Sequence[Dimension]) -> JudgeResult:
    scores = tuple(verdict.scores.get(dimension.name) for dimension in dimensions)
    return JudgeResult(verdict.status, scores, verdict.usage)


def _floats(values: Iterator[float | None]) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
