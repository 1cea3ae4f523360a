"""One evaluation of a training: every score of the held-out personas' replies at one step.

The persona is the unit, as in `kardiabench.stats`. What is missing is None and lowers a score's
coverage. Two evaluations are compared over the personas that both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from kardiabench.effects import Effect, effect
from kardiabench.stats import Codes, Estimate, Floats, cluster_means, estimate
from trainer.groups import to_array
from trainer.ledger import Row
from trainer.parts import Dimensions, Score, judge_score, mean_of, metric, safety_of

Which = Literal["rewarded", "watched"]
PersonaMeans = Mapping[str, float | None]

#: The deterministic metrics, by dimension: they stand in where no held-out judge is.
_STAND_INS = ("format", "emotion")


@dataclass(frozen=True)
class Evaluation:
    """Scores in [0, 1] of the replies at one step, with 95% intervals over personas.

    `rewarded` is the composite that training raises. `held_out` is the mean of the held-out
    judges, each the mean of its scaled dimensions; None without such a judge, and `stand_in` is
    then the mean of format and emotion, as far as they are judged: `held_out_source` says so.
    `components` has every judge, rewarded or not. `safety` is that of `safety_source`. `truncated`
    is a share of the `rows`, `tokens` their mean. The persona means are those of `rewarded` and of
    `watched`, None where a persona has no score.
    """

    step: int
    rows: int
    turns: int
    rewarded: Estimate
    held_out: Estimate | None
    held_out_source: str
    stand_in: Estimate | None
    components: Mapping[str, Estimate]
    format_rate: Estimate | None
    emotion_accuracy: Estimate | None
    safety: Estimate | None
    safety_source: str | None
    truncated: float
    tokens: float
    persona_rewarded: PersonaMeans
    persona_watched: PersonaMeans

    @property
    def independent(self) -> bool:
        """Whether a judge that is never rewarded was asked."""
        return self.held_out is not None

    @property
    def watched(self) -> Estimate | None:
        """What progress is measured by: `held_out`, without such a judge `stand_in`."""
        return self.held_out if self.independent else self.stand_in

    @property
    def watched_name(self) -> str:
        """How `watched` is called in sentences."""
        return "held-out score" if self.independent else "stand-in for a held-out score"

    @property
    def personas(self) -> int:
        """The personas that replies are to, whether or not they have a score."""
        return len(self.persona_rewarded)

    @property
    def coverage(self) -> dict[str, float]:
        """The share of rows that each judge gave a score."""
        return {judge: found.coverage for judge, found in self.components.items()}

    def means(self, which: Which) -> PersonaMeans:
        """The persona means of a score."""
        return self.persona_rewarded if which == "rewarded" else self.persona_watched

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def evaluate_rows(
    rows: Sequence[Row], dimensions: Dimensions, held_out: Sequence[str]
) -> Evaluation:
    """The evaluation of one step from its ledger rows, in whatever order they come.

    `dimensions` are those of every judge, rewarded and held-out; `held_out` names the latter.
    Raises `ValueError` without rows, for rows of several steps, or for an unknown judge.
    """
    _check(rows, dimensions, held_out)
    table = _Table(rows)
    order = [*held_out, *sorted(set(dimensions) - set(held_out))]
    judges = {judge: judge_score(judge, dimensions[judge]) for judge in order}
    metrics = {name: metric(name, dimensions) for name in _STAND_INS}
    apart = mean_of([judges[judge] for judge in held_out])
    stand_in = None if apart else mean_of([score for score in metrics.values() if score])
    safety, safety_source = safety_of(table.rows, dimensions, order)
    return Evaluation(
        step=table.rows[0].step,
        rows=len(rows),
        turns=len({row.turn_id for row in rows}),
        rewarded=estimate(table.values(_composite), table.codes),
        held_out=table.estimate(apart),
        held_out_source=_source(held_out, [name for name, score in metrics.items() if score]),
        stand_in=table.estimate(stand_in),
        components={
            judge: estimate(table.values(judges[judge]), table.codes) for judge in sorted(judges)
        },
        format_rate=table.estimate(metrics["format"]),
        emotion_accuracy=table.estimate(metrics["emotion"]),
        safety=table.estimate(safety),
        safety_source=safety_source,
        truncated=sum(row.status == "truncated" for row in rows) / len(rows),
        tokens=sum(row.tokens for row in rows) / len(rows),
        persona_rewarded=table.means(_composite),
        persona_watched=table.means(apart or stand_in),
    )


def differences(now: Evaluation, then: Evaluation, which: Which) -> Floats:
    """Each persona's mean `now` less `then`, by persona id; NaN where one of them has none.

    Shape (personas of either,): the same for both scores, so that these may be subtracted.
    """
    late, early = now.means(which), then.means(which)
    ids = sorted({*now.persona_rewarded, *then.persona_rewarded})
    return to_array([late.get(at) for at in ids]) - to_array([early.get(at) for at in ids])


def risen(now: Evaluation, then: Evaluation, which: Which) -> Effect:
    """How much a score rose from `then` to `now`: a paired difference over personas."""
    return over_personas(differences(now, then, which))


def over_personas(values: Floats) -> Effect:
    """The mean of one value a persona (NaN: none), with its t interval and test."""
    return effect(values, np.arange(len(values), dtype=np.int64))


class _Table:
    """Rows in a fixed order, so that sums have the same bits however the rows came."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.key(), row.turn_id))
        ids, codes = np.unique([row.persona_id for row in self.rows], return_inverse=True)
        self.ids: list[str] = ids.tolist()
        self.codes: Codes = codes.astype(np.int64)

    def values(self, score: Score) -> Floats:
        return to_array([score(row) for row in self.rows])

    def estimate(self, score: Score | None) -> Estimate | None:
        return estimate(self.values(score), self.codes) if score else None

    def means(self, score: Score | None) -> dict[str, float | None]:
        found: dict[str, float | None] = dict.fromkeys(self.ids)
        if score is None:
            return found
        values = self.values(score)
        present = np.unique(self.codes[~np.isnan(values)])
        for code, mean in zip(present, cluster_means(values, self.codes), strict=True):
            found[self.ids[code]] = float(mean)
        return found


def _check(rows: Sequence[Row], dimensions: Dimensions, held_out: Sequence[str]) -> None:
    steps = sorted({row.step for row in rows})
    if len(steps) != 1:
        raise ValueError(f"an evaluation is of the rows of one step, not of steps {steps}")
    unknown = sorted(set(held_out) - set(dimensions))
    if unknown:
        raise ValueError(f"no dimensions of the held-out judges {unknown}")


def _composite(row: Row) -> float | None:
    return row.composite


def _source(held_out: Sequence[str], metrics: Sequence[str]) -> str:
    if held_out:
        return f"held-out judge{'s' if len(held_out) > 1 else ''} {', '.join(held_out)}"
    if metrics:
        return f"no held-out judge: {' and '.join(metrics)} of held-out personas stand in"
    return "no held-out judge, and neither format nor emotion is judged"
