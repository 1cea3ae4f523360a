"""Candidates of one turn share its id: a plugin's judge that mixes them up is found out."""

from __future__ import annotations

import asyncio

import pytest
from rowdata import in_memory, make_row

from kardiabench.dialogues import load
from kardiabench.guards import GuardedJudge
from kardiabench.records import Dimension, Item, Reply, Verdict
from trainer.patience import PatientJudge


class LengthJudge:
    """Scores a reply's length; `order` turns the verdicts of a batch around."""

    name = "length"
    dimensions = (Dimension("length", 0.0, 100.0, "characters"),)
    identity = {"judge": "length"}  # noqa: RUF012

    def __init__(self, order):
        self.order = order
        self.batches = []

    async def judge(self, items):
        self.batches.append(len(items))
        return self.order(
            [Verdict(i.turn.id, "length", "", {"length": float(len(i.reply.text))}) for i in items]
        )


def candidates(turns=2, each=4):
    dialogues = load(in_memory([make_row(number) for number in range(turns)]))
    chosen = list(dialogues.turns())[:turns]
    return [
        Item(turn, Reply(turn.id, "x" * (1 + 4 * at + n)))
        for at, turn in enumerate(chosen)
        for n in range(each)
    ]


def patient(judge, failures=3):
    guarded = GuardedJudge(judge, "length", "judge 'length'")
    return PatientJudge(
        guarded, timeout=5, retries=0, failures=failures, rest=1, warn=lambda _: None
    )


def scores(items, judge):
    verdicts = asyncio.run(patient(judge).judge(items))
    return [verdict.scores["length"] for verdict in verdicts]


def test_every_candidate_gets_its_own_score_in_batches_of_one_a_turn():
    items, judge = candidates(), LengthJudge(list)
    assert scores(items, judge) == [float(len(item.reply.text)) for item in items]
    assert judge.batches == [2, 2, 2, 2]


@pytest.mark.parametrize("order", [lambda v: v[::-1], lambda v: v[1:] + v[:1]], ids=["back", "on"])
def test_a_judge_that_answers_in_another_order_judges_nothing(order):
    assert scores(candidates(), LengthJudge(order)) == [None] * 8


def test_one_turn_alone_needs_no_trust_in_the_order():
    items = candidates(turns=1)
    expected = [float(len(item.reply.text)) for item in items]
    assert scores(items, LengthJudge(lambda v: v[::-1])) == expected


@pytest.mark.parametrize(("failures", "asked"), [(3, 4), (None, 5)])
def test_the_breaker_is_for_those_who_want_one(failures, asked):
    """Whoever asks about one candidate at a time has none: a few hard ones would open it."""

    def fails(verdicts):
        raise RuntimeError("too hard")

    judge = LengthJudge(fails)
    patiently = patient(judge, failures)
    for item in candidates(turns=1, each=5):
        asyncio.run(patiently.judge([item]))
    assert len(judge.batches) == asked
