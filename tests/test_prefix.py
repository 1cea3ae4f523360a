"""The calls of one dialogue share most of their prompt, so that providers can cache it."""

from __future__ import annotations

import os
from itertools import groupby

import pytest

from judges.rubric import RubricJudge
from kardiabench.dialogues import load
from kardiabench.models.scripted import ScriptedModel
from kardiabench.records import Item, Reply
from kardiabench.sources import open_sample


@pytest.mark.parametrize("options", [{}, {"samples": 2}])
def test_at_least_seven_tenths_of_what_is_sent_is_a_beginning_that_all_calls_share(options):
    judge = RubricJudge(ScriptedModel([]), **options)
    turns = load(open_sample("sample", None, None)).turns()
    for _, group in groupby(turns, key=lambda turn: turn.dialogue.id):
        items = [Item(turn, Reply(turn.id, turn.gold)) for turn in group]
        questions = [question for item in items for question in judge.questions(item)]
        sent = ["".join(m.content for m in question.request.messages) for question in questions]
        common = os.path.commonprefix(sent)  # noqa: RUF071 - of texts
        assert len(common) * len(sent) >= 0.7 * sum(map(len, sent))
