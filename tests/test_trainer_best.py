"""Which checkpoint is best: floors first, then the held-out score, then the earlier."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_rows import make_evaluation

from trainer.best import COVERAGE_FLOOR, choose
from trainer.config import Best


def held(step, score, **changes):
    """An evaluation of four personas with this held-out score on average."""
    spread = (-0.03, -0.01, 0.01, 0.03)
    values = score if isinstance(score, list) else [score + off for off in spread]
    return make_evaluation(step, [0.5] * len(values), values, **changes)


def best(*evaluations, **config):
    return choose(evaluations, Best(**config))


def test_the_highest_held_out_score_wins_whatever_the_reward_is():
    found = best(held(5, 0.4), held(10, 0.6), held(20, 0.5))
    assert found.step == 10
    assert found.score.mean == pytest.approx(0.6)
    assert found.why == (
        "step 10 has the highest held-out score, 0.600 (0.559 to 0.641), of 3 evaluations above "
        "the floors (3 in all); scored by: held-out judge other"
    )
    assert found.others == {
        5: "lower: 0.400 (0.359 to 0.441)",
        20: "lower: 0.500 (0.459 to 0.541)",
    }


def test_it_is_compared_with_the_first_and_the_last_over_personas():
    found = best(held(5, [0.1, 0.2, 0.3]), held(10, [0.4, 0.4, 0.4]), held(20, [0.2, 0.2, 0.2]))
    assert found.vs_first.mean == pytest.approx(0.2)
    assert found.vs_first.low < 0.2 < found.vs_first.high
    assert found.vs_last.mean == pytest.approx(0.2)
    alone = best(held(5, 0.5))
    assert (alone.step, alone.vs_first, alone.vs_last) == (5, None, None)


def test_of_equal_scores_the_earlier_wins():
    found = best(held(5, 0.4), held(10, [0.5, 0.7]), held(20, [0.7, 0.5]), held(30, 0.6))
    assert found.step == 10
    assert found.others[20] == found.others[30] == "as high as step 10, which is earlier"


def test_a_difference_that_is_rounding_is_none():
    assert best(held(5, [0.6 - 1e-12] * 2), held(10, [0.6] * 2)).step == 5


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format_rate": 0.79}, "the format rate 0.790 is under its floor 0.8"),
        ({"safety": 0.5}, "the safety 0.500 is under its floor 0.8"),
        (
            {"safety": [1.0, 1.0, 1.0, None]},
            "the safety covers 75.0% of the replies, under 95%",
        ),
        (
            {"format_rate": 0.1, "safety": 0.2},
            "the format rate 0.100 is under its floor 0.8; the safety 0.200 is under its floor 0.8",
        ),
    ],
)
def test_below_a_floor_nobody_wins_and_it_is_said_why(changes, why):
    found = best(held(5, 0.3), held(10, 0.9, **changes))
    assert found.step == 5
    assert found.others == {10: why}


def test_at_its_floor_an_evaluation_passes_and_what_is_not_judged_has_none():
    assert best(held(5, 0.3, format_rate=0.8, safety=0.8)).step == 5
    assert best(held(5, 0.3, format_rate=None, safety=None)).step == 5
    assert best(held(5, 0.3, format_rate=0.1), format_floor=0.0).step == 5


def test_an_evaluation_with_a_twentieth_missing_cannot_win():
    missing = [0.9] * 18 + [None] * 2
    found = best(held(5, [0.3] * 20), held(10, missing))
    assert found.step == 5
    assert found.others[10] == "the held-out score covers 90.0% of the replies, under 95%"
    assert COVERAGE_FLOOR == 0.95
    assert best(held(5, [0.3] * 20), held(10, [0.9] * 19 + [None])).step == 10


def test_if_none_passes_none_is_chosen_and_the_reason_is_given():
    found = best(held(5, 0.3, format_rate=0.5), held(10, 0.4, format_rate=0.6))
    assert (found.step, found.score, found.vs_first) == (None, None, None)
    assert found.why == (
        "none of 2 evaluations passes the floors, so no checkpoint is called the best (the last "
        "one, of step 10: the format rate 0.600 is under its floor 0.8)"
    )


def test_without_evaluations_or_scores_there_is_no_best():
    assert best().step is None
    assert "nothing was evaluated" in best().why
    unscored = make_evaluation(5, [0.5, 0.5], None)
    assert best(unscored).others == {5: "it has no held-out score: no held-out judge: format"}
    failed = make_evaluation(5, [0.5, 0.5], [None, None])
    assert "covers 0.0%" in best(failed).why


def test_the_stand_in_chooses_where_no_judge_is_held_out_and_is_called_so():
    first = make_evaluation(0, [0.9, 0.9], None, stand_in=[0.4, 0.5])
    second = make_evaluation(10, [0.1, 0.1], None, stand_in=[0.5, 0.6])
    found = best(first, second)
    assert found.step == 10
    assert "the highest stand-in for a held-out score" in found.why
    assert found.source == "no held-out judge: format"


def test_one_persona_is_chosen_by_its_score_without_an_interval():
    found = best(held(5, [0.4]), held(10, [0.5]))
    assert found.step == 10
    assert "0.500 (no interval: 1 persona)" in found.why
    assert found.vs_first.low is None


def test_the_model_that_it_began_with_is_never_chosen_but_told_of():
    found = best(held(0, 0.9), held(10, 0.6), held(20, 0.5))
    assert found.step == 10
    assert found.others[0] == "it is the model that the training began with"
    assert "; the model that the training began with scored higher: 0.900 (" in found.why
    assert "began with" not in best(held(0, 0.5), held(10, 0.6)).why
    assert best(held(0, 0.9)).step is None


share = st.none() | st.floats(0, 1)
kinds = st.tuples(st.lists(share, min_size=2, max_size=2), share, share)


@given(st.lists(kinds, max_size=8))
@settings(max_examples=80, deadline=None)
def test_the_choice_is_the_first_of_the_highest_that_pass(kinds):
    evaluations = [
        held(n, scores, format_rate=form, safety=safe)
        for n, (scores, form, safe) in enumerate(kinds, 1)
    ]
    found = choose(evaluations, Best())
    passing = {
        n: sum(scores) / 2
        for n, (scores, form, safe) in enumerate(kinds, 1)
        if None not in scores and all(x is None or x >= 0.8 - 1e-9 for x in (form, safe))
    }
    if not passing:
        assert found.step is None
    else:
        assert passing[found.step] == pytest.approx(max(passing.values()), abs=1e-8)
        assert all(score < passing[found.step] for n, score in passing.items() if n < found.step)
    named = set(found.others or {}) | ({found.step} - {None})
    assert named == set(range(1, len(kinds) + 1))
    json.dumps(found.to_json(), allow_nan=False)
