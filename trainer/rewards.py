"""The reward: the Scorer's composite of every candidate, as TRL's GRPO trainer wants it.

One function, not one a component: where several functions answer, TRL counts a missing component
as 0 as soon as another one is there. A missing reward is None here, which masks the candidate.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from kardiabench.errors import ConfigError, ScoringError
from kardiabench.records import Dimension, Item, Reply, Scorecard, Turn
from kardiabench.scoring import MissingPolicy, Scorer
from trainer.ledger import Phase, Row
from trainer.scoring_thread import ScoringThread

Place = tuple[Phase, int]


@dataclass
class Batch:
    """Candidates under judgement: what was written for which turn, and where in the training."""

    items: Sequence[Item]
    tokens: Sequence[int]
    phase: Phase
    step: int
    call: int
    first: int
    per_group: int
    future: Future[list[Scorecard]]
    cards: list[Scorecard] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Reward:
    """An async reward function for TRL: `await reward(completion_ids=…, turn_id=…)`.

    `turns` are the turns by id; `reply` makes a reply from a turn and token ids. `write` is given
    the rows of a batch, with advantages where `settle` is called. A trainer that knows when
    candidates are there calls `begin` and `settle`; with any other the function does it all.
    """

    def __init__(
        self,
        turns: Mapping[str, Turn],
        reply: Callable[[Turn, Sequence[int]], Reply],
        scoring: ScoringThread,
        write: Callable[[Sequence[Row]], None],
        *,
        rank: int = 0,
    ) -> None:
        self.__name__ = "composite"
        self.rank = rank
        self._turns = turns
        self._reply = reply
        self._scoring = scoring
        self._write = write
        self._batch: Batch | None = None
        self._calls: dict[Place, int] = {}

    async def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        turn_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        trainer_state: Any = None,
        **_: Any,
    ) -> list[float | None]:
        """The reward of every candidate, in order; None where a required judgement is missing."""
        alone = self._batch is None
        if self._batch is None:
            step = getattr(trainer_state, "global_step", 0)
            self.begin(turn_id, completion_ids, phase="train", step=step, per_group=1)
        cards = await asyncio.to_thread(self.cards)
        self.log(log_metric, log_extra)
        rewards = [_finite(card) for card in cards]
        if alone:
            self.settle(None)
        return rewards

    def begin(
        self,
        turn_ids: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        *,
        phase: Phase,
        step: int,
        per_group: int,
    ) -> None:
        """Hand candidates to the judges, who work while the caller does something else.

        `per_group` candidates of one turn follow one another, over all processes; every process
        has as many candidates as this one.
        """
        items = [
            Item(self._turn(turn_id), self._reply(self._turn(turn_id), ids))
            for turn_id, ids in zip(turn_ids, completion_ids, strict=True)
        ]
        call = self._calls.get((phase, step), -1) + 1
        self._calls = {(phase, step): call}
        self._batch = Batch(
            items=items,
            tokens=[len(ids) for ids in completion_ids],
            phase=phase,
            step=step,
            call=call,
            first=self.rank * len(items),
            per_group=per_group,
            future=self._scoring.start(phase, items),
        )

    def cards(self) -> list[Scorecard]:
        """The scorecards of the batch under judgement; waits for them."""
        batch = self._batch
        if batch is None:
            raise RuntimeError("no candidates were handed over")
        with batch.lock:
            if batch.cards is None:
                batch.cards = self._scoring.finish(batch.phase, batch.future, batch.items)
            return batch.cards

    def settle(self, advantages: Sequence[float] | None) -> list[Row]:
        """Write the batch into the ledger; `advantages` as the trainer made them of its rewards."""
        cards, batch = self.cards(), self._batch
        self._batch = None
        if batch is None:
            return []
        known = [None] * len(cards) if advantages is None else advantages
        rows = [
            _row(batch, place, card, advantage, self.rank)
            for place, (card, advantage) in enumerate(zip(cards, known, strict=True))
        ]
        self._write(rows)
        return rows

    def _turn(self, turn_id: str) -> Turn:
        turn = self._turns.get(turn_id)
        if turn is None:
            raise ConfigError(
                f"the training data have a row for turn {turn_id!r}, which the dataset lacks; make "
                "the rows anew from this dataset"
            )
        return turn

    def log(
        self,
        log_metric: Callable[[str, float], None] | None,
        log_extra: Callable[[str, list[Any]], None] | None,
    ) -> None:
        """Tell TRL the means of the batch's components, and the components of each candidate."""
        cards, scorer = self.cards(), self._scoring.scorers["train"]
        parts = [component_scores(card, scorer) for card in cards]
        for name in sorted(scorer.dimensions):
            found = [part[name] for part in parts]
            known = [value for value in found if value is not None]
            if log_metric is not None:
                for value in known:  # one by one: TRL averages over processes
                    log_metric(f"parts/{name}", value)
            if log_extra is not None:
                log_extra(name, found)
        masked = sum(card.composite is None for card in cards) / len(cards)
        if log_metric is not None:
            log_metric("masked_share", masked)


class Component:
    """One judge's part of the reward by itself, for normalisation per component (GDPO).

    None for a candidate without a composite, so that no component counts as 0 in its stead.
    """

    def __init__(self, reward: Reward, scorer: Scorer, judge: str, *, logs: bool = False) -> None:
        self.__name__ = judge
        self._reward = reward
        self._scorer = scorer
        self._judge = judge
        self._logs = logs

    async def __call__(
        self,
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """The judge's mean scaled score of every candidate, in [0, 1].

        One of a trainer's components `logs` for them all.
        """
        cards = await asyncio.to_thread(self._reward.cards)
        if self._logs:
            self._reward.log(log_metric, log_extra)
        return [
            None
            if card.composite is None
            else component_scores(card, self._scorer, self._scorer.missing)[self._judge]
            for card in cards
        ]


@dataclass
class MaskedBudget:
    """Ends a training whose judges no longer judge.

    `add` takes the share of masked candidates of a batch, over all processes, and raises
    `ScoringError` as soon as the last `window` batches have more of them than a share of `budget`.
    """

    budget: float
    window: int
    _shares: deque[float] = field(default_factory=deque)

    def add(self, share: float) -> None:
        """Count a batch."""
        self._shares.append(share)
        if len(self._shares) > self.window:
            self._shares.popleft()
        masked = sum(self._shares)
        if masked > self.budget * self.window:
            raise ScoringError(
                f"of the candidates of the last {len(self._shares)} batches "
                f"{masked / len(self._shares):.0%} had no reward, which is more than "
                f"{self.budget:.0%} of {self.window} batches (judging.masked_budget, "
                "masked_window); mend the judges, then give the same command again, which goes on "
                "from the last checkpoint"
            )


def component_scores(
    card: Scorecard, scorer: Scorer, missing: MissingPolicy = "mask"
) -> dict[str, float | None]:
    """Every judge's mean scaled score on a candidate, in [0, 1].

    What is missing stays so, unless `missing` is `zero`, under which the composite counts it as
    the bottom.
    """
    return {
        verdict.judge: part_of(verdict.scores, scorer.dimensions[verdict.judge], missing)
        for verdict in card.verdicts
        if verdict.judge in scorer.dimensions
    }


def part_of(
    scores: Mapping[str, float | None],
    dimensions: Sequence[Dimension],
    missing: MissingPolicy = "mask",
) -> float | None:
    """The mean scaled score over a judge's dimensions, in [0, 1].

    None when one of them is missing, unless that counts as the bottom (`zero`).
    """
    part = 0.0
    for dimension in dimensions:
        score = scores.get(dimension.name)
        if score is None:
            if missing != "zero":
                return None
            score = dimension.low
        part += dimension.scaled(score)
    return part / len(dimensions)


def _finite(card: Scorecard) -> float | None:
    if card.composite is not None and not math.isfinite(card.composite):
        raise ScoringError(f"the composite of a candidate for {card.turn_id} is {card.composite}")
    return card.composite


def _row(batch: Batch, place: int, card: Scorecard, advantage: float | None, rank: int) -> Row:
    reply = batch.items[place].reply
    overall = batch.first + place
    return Row(
        step=batch.step,
        phase=batch.phase,
        call=batch.call,
        group=overall // batch.per_group,
        candidate=overall % batch.per_group,
        turn_id=card.turn_id,
        persona_id=batch.items[place].turn.dialogue.persona_id,
        text=reply.text,
        reasoning=reply.reasoning,
        status=reply.status,
        detail=reply.detail,
        finish_reason=reply.finish_reason,
        tokens=batch.tokens[place],
        verdicts=card.verdicts,
        composite=card.composite,
        reward=card.composite,
        advantage=advantage,
        rank=rank,
    )
