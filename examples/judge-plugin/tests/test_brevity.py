import asyncio

import pytest
from kardiabench.contracts import JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.preflight import sample_item
from kardiabench.records import Item, Reply
from kardiabench.spans import render_spans

from kardiabench_brevity.judge import BrevityJudge, build

CONTEXT = JudgeContext(open_model=None)  # this judge asks no model


def verdict_on(reply: str, *, words: int = 10, status: str = "ok"):
    turn = sample_item().turn
    item = Item(turn, Reply(turn.id, reply, status=status))
    (verdict,) = asyncio.run(BrevityJudge(words).judge([item]))
    return verdict


def spans(words: int) -> str:
    return render_spans("They are sad.", "They say so.", "sad", "word " * words)


@pytest.mark.parametrize(
    ("words", "score"), [(1, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (99, 0.0), (0, 0.0)]
)
def test_the_score_falls_from_the_budget_to_twice_the_budget(words, score):
    assert verdict_on(spans(words)).scores == {"brevity": score}


def test_a_reply_without_a_response_scores_zero():
    assert verdict_on("no spans at all").scores == {"brevity": 0.0}


def test_a_turn_that_nobody_answered_has_no_score():
    verdict = verdict_on("", status="error")
    assert (verdict.status, verdict.scores) == ("skipped", {"brevity": None})


def test_the_budget_is_part_of_the_identity():
    assert BrevityJudge(10).identity != BrevityJudge(20).identity


def test_options_are_read_and_checked():
    assert build({"words": "25"}, CONTEXT).words == 25
    for options in ({"words": "many"}, {"words": "0"}, {"word": "3"}):
        with pytest.raises(ConfigError, match="brevity"):
            build(options, CONTEXT)
