"""A run's logs as compact columns in a canonical order: what every number is computed from."""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kardiabench.emotions import match_emotion
from kardiabench.manifests import Manifest
from kardiabench.records import Dimension, Usage, Verdict
from kardiabench.scoring import MissingPolicy, composite
from kardiabench.shortening import is_shortened
from kardiabench.stats import Codes, Floats
from kardiabench.store import StoredReply, iterate_replies, iterate_verdicts, reply_digest

Scores = tuple[float | None, ...]

#: A part of a verdict that is a repeat of the same question: the second sample is `2`, or `first 2`
#: and `second 2` where each sample asks in two orders. Members of a panel are called by their model
#: and the orders of a single sample by their place: those are no repeats.
_SAMPLE = re.compile(r"(?:(?:first|second) )?([0-9]+)")


@dataclass(slots=True)
class TurnResult:
    """One turn, without its text.

    `error_kind` is what an error was; of a reply to a shortened history it is `shortened`.
    """

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
    """One judge's verdict on one turn, without its evidence.

    `scores` are in the order of the judge's dimensions, and so are those of each of `parts`: the
    repeated samples that the verdict is the mean of, where there were several; else it is empty.
    """

    status: str
    scores: Scores
    usage: Usage
    parts: tuple[Scores, ...] = ()


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
        """The scores of one dimension, NaN where there is none; read only."""
        known = self._columns.get((judge, dimension))
        if known is None:
            scores = (self._score(turn, judge, dimension) for turn in self.turns.values())
            known = self._columns[judge, dimension] = _floats(scores)
        return known

    @cached_property
    def composites(self) -> Floats:
        """The composite of each turn, NaN where it is None; read only."""
        return _floats(map(self._composite, self.turns.values()))

    @cached_property
    def _columns(self) -> dict[tuple[str, int], Floats]:
        """The columns that were asked for: making one takes a while."""
        return {}

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
    with collector_at_rest():
        return _read_results(path, manifest)


def _read_results(path: Path, manifest: Manifest) -> Results:
    turns: dict[str, TurnResult] = {}
    for _, stored in iterate_replies(path):
        turns[stored.reply.turn_id] = _turn_result(stored)
    judges = judges_of(manifest)
    names = {judge: [d.name for d in dimensions] for judge, dimensions in judges.items()}
    digests = {turn_id: turn.digest for turn_id, turn in turns.items()}
    for verdict in current_verdicts(path, manifest, digests):
        result = _judge_result(verdict, names[verdict.judge])
        turns[verdict.turn_id].verdicts[verdict.judge] = result
    return results_of(turns, manifest)


def results_of(turns: Mapping[str, TurnResult], manifest: Manifest) -> Results:
    """The results that `turns`, in any order, are under the manifest's judges and weights."""
    scorer = manifest["protocol"]["scorer"]
    ordered = dict(sorted(turns.items(), key=lambda pair: turn_order(pair[0])))
    return Results(ordered, judges_of(manifest), scorer["weights"], scorer["missing"])


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Read many small objects, none of them in a cycle, without looking for cycles among them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
        error_kind=_kind(reply.detail) if failed or is_shortened(reply) else "",
        predicted=match_emotion(spans.emotion) if spans.emotion else None,
        problems=() if failed else spans.problems,
        usage=reply.usage,
        latency=reply.latency,
    )


def _judge_result(verdict: Verdict, names: Sequence[str]) -> JudgeResult:
    get = verdict.scores.get
    parts = _samples(verdict.parts, names) if verdict.parts else ()
    return JudgeResult(verdict.status, tuple([get(name) for name in names]), verdict.usage, parts)


def _samples(
    parts: Mapping[str, Mapping[str, float | None]], names: Sequence[str]
) -> tuple[Scores, ...]:
    """The scores of each sample, the mean over its orders; empty unless all parts are samples."""
    found: dict[int, list[Mapping[str, float | None]]] = {}
    for part, scores in parts.items():
        sample = _SAMPLE.fullmatch(part)
        if sample is None:
            return ()
        found.setdefault(int(sample[1]), []).append(scores)
    return tuple(
        tuple(_mean([scores.get(name) for scores in orders]) for name in names)
        for _, orders in sorted(found.items())
    )


def _mean(scores: Sequence[float | None]) -> float | None:
    """None where one is missing: a sample that was asked in one order alone is half a sample."""
    there = [score for score in scores if score is not None]
    return sum(there) / len(there) if len(there) == len(scores) else None


def _floats(values: Iterator[float | None]) -> Floats:
    array = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    array.flags.writeable = False
    return array


def _kind(detail: str) -> str:
    return detail.partition(":")[0]
