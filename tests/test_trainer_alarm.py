"""The alarm: it fires for a reward that is gamed, and not for honest progress or noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_rows import make_evaluation

from trainer.alarm import RewardAlarm, unwatched
from trainer.config import Alarm

PERSONAS, DIALOGUES, EVALUATIONS = 8, 8, 20
#: Small differences between personas, so that intervals have a width.
SPREAD = np.linspace(-0.01, 0.01, PERSONAS)


def at(step, rewarded, held_out, stand_in=None):
    """An evaluation whose personas lie closely around the means that are given."""
    around = (None if x is None else list(x + SPREAD * (1 + step)) for x in (held_out, stand_in))
    held, stand = around
    return make_evaluation(step, list(rewarded + SPREAD), held, stand_in=stand)


def fired(pairs, **config) -> list[int]:
    """The places of the evaluations at which the alarm fires."""
    alarm = RewardAlarm(Alarm(**config))
    return [n for n, (x, y) in enumerate(pairs) if alarm.add(at(n, x, y)) is not None]


# --- the rule -------------------------------------------------------------------------------------


def test_it_fires_when_the_held_out_score_does_not_answer_patience_times_in_a_row():
    pairs = [(0.5, 0.5), (0.6, 0.5), (0.7, 0.5), (0.8, 0.5)]
    assert fired(pairs, patience=1) == [1]
    assert fired(pairs, patience=2) == [2]
    assert fired(pairs, patience=3) == [3]
    assert fired(pairs, patience=4) == []


def test_an_honest_evaluation_between_begins_the_count_anew():
    pairs = [(0.5, 0.5), (0.6, 0.5), (0.7, 0.7), (0.8, 0.5), (0.8, 0.5)]
    assert fired(pairs) == [4]


def test_a_rise_that_is_answered_or_small_is_no_alarm():
    assert fired([(0.5, 0.5)] + [(0.8, 0.54)] * 5) == []  # more than a tenth of .3
    assert fired([(0.5, 0.5)] + [(0.54, 0.5)] * 5) == []  # less than .05
    assert fired([(0.5, 0.5)] + [(0.8, 0.52)] * 5) == [2]


def test_a_held_out_score_that_rises_at_first_and_falls_again_is_seen_early():
    rewarded = [0.5, 0.6, 0.7, 0.8, 0.9]
    held_out = [0.5, 0.7, 0.65, 0.62, 0.6]  # never less than the answer to the whole rise
    alarm = RewardAlarm(Alarm())
    said = [alarm.add(at(n, x, y)) for n, (x, y) in enumerate(zip(rewarded, held_out, strict=True))]
    assert [n for n, sentence in enumerate(said) if sentence] == [3]
    assert "from step 1, the best by the held-out score, to step 3 the rewarded" in said[3]


def test_a_fall_of_the_held_out_score_alone_is_no_alarm():
    assert fired([(0.5, 0.5)] + [(0.5, 0.2)] * 5) == []


def test_it_fires_once_for_a_series_and_again_for_the_next():
    pairs = [(0.5, 0.5), *[(0.8, 0.5)] * 4, (0.8, 0.8), *[(0.9, 0.5)] * 3]
    assert fired(pairs) == [2, 7]


def test_a_rise_of_one_persona_is_not_significant():
    flat = [0.5] * PERSONAS
    alarm = RewardAlarm(Alarm(patience=1))
    assert alarm.add(make_evaluation(0, flat, flat)) is None
    lifted = [1.0, *flat[1:]]  # a mean rise of .0625, its interval around 0
    assert alarm.add(make_evaluation(1, lifted, flat)) is None


@pytest.mark.parametrize("since", ["the first", "the best"])
def test_a_held_out_score_that_scatters_proves_nothing(since):
    """It misses the answer on average, by what may be chance."""
    flat, lifted = [0.5] * PERSONAS, [0.6] * PERSONAS
    scattered = [0.48 + sign * 0.3 for sign in (1, -1) * (PERSONAS // 2)]
    alarm = RewardAlarm(Alarm(patience=1))
    before = [0.5 if since == "the first" else 0.1] * PERSONAS
    said = [
        alarm.add(make_evaluation(0, flat, before)),
        alarm.add(make_evaluation(1, flat, flat)),
        alarm.add(make_evaluation(2, lifted, scattered)),
    ]
    assert said == [None] * 3


def test_a_reward_that_scatters_proves_nothing():
    """Both scores scatter alike, so that only the gap between them is sure."""
    scatter = np.array([0.3, -0.3] * (PERSONAS // 2))
    alarm = RewardAlarm(Alarm(patience=1))
    flat = [0.5] * PERSONAS
    assert alarm.add(make_evaluation(0, flat, flat)) is None
    gamed = make_evaluation(1, list(0.56 + scatter + SPREAD), list(0.46 + scatter))
    assert alarm.add(gamed) is None


def test_a_step_that_is_evaluated_again_is_not_counted_again():
    alarm = RewardAlarm(Alarm(patience=2))
    said = [alarm.add(one) for one in (at(0, 0.5, 0.5), at(1, 0.7, 0.5), at(1, 0.7, 0.5))]
    assert said == [None] * 3
    assert alarm.add(at(2, 0.7, 0.5)) is not None


# --- what it says ---------------------------------------------------------------------------------


def test_the_sentence_has_the_numbers_and_what_to_do():
    alarm = RewardAlarm(Alarm(patience=2, stop=True))
    assert [alarm.add(at(n, 0.5 + n / 10, 0.5)) for n in range(2)] == [None, None]
    assert not alarm.stop
    sentence = alarm.add(at(2, 0.7, 0.5))
    assert sentence is not None
    assert sentence.startswith(
        "from step 0 to step 2 the rewarded score changed by +0.200 (95% interval +0.200 to "
        "+0.200) and the held-out score by +0.000 (95% interval -0.012 to +0.012) (held-out judge "
        "other, 2 evaluations in a row): the policy may be"
    )
    assert "nothing independent" not in sentence
    assert alarm.stop
    assert not RewardAlarm.replayed(Alarm(patience=1), [at(0, 0.5, 0.5), at(1, 0.7, 0.5)]).stop


def test_without_a_held_out_judge_it_says_so_and_stops_nothing():
    alarm = RewardAlarm(Alarm(patience=1, stop=True))
    assert alarm.add(at(0, 0.5, None, 0.5)) is None
    sentence = alarm.add(at(1, 0.7, None, 0.5))
    assert sentence is not None
    assert "the stand-in for a held-out score by +0.000" in sentence
    assert "nothing independent is watched" in sentence
    assert not alarm.stop


def test_a_training_without_anything_independent_is_told_at_its_start():
    assert unwatched(at(0, 0.5, 0.5)) is None
    assert "nothing independent is watched" in unwatched(at(0, 0.5, None, 0.5))
    assert "cannot fire (no held-out judge" in unwatched(at(0, 0.5, None))
    assert "one persona" in unwatched(make_evaluation(0, [0.5], [0.5]))


def test_without_anything_to_watch_it_never_fires():
    assert fired([(0.1 * n, None) for n in range(8)], patience=1) == []


def test_one_persona_never_fires():
    alarm = RewardAlarm(Alarm(patience=1))
    assert [alarm.add(make_evaluation(n, [n / 9], [0.5])) for n in range(9)] == [None] * 9


def test_an_evaluation_without_scores_neither_counts_nor_breaks_the_series():
    nothing = make_evaluation(5, [0.9] * PERSONAS, [None] * PERSONAS)
    alarm = RewardAlarm(Alarm())
    said = [alarm.add(one) for one in (at(0, 0.5, 0.5), at(1, 0.7, 0.5), nothing, at(6, 0.8, 0.5))]
    assert [sentence is not None for sentence in said] == [False, False, False, True]


# --- properties -----------------------------------------------------------------------------------

score = st.none() | st.floats(0, 1)
personas = st.lists(st.tuples(score, score), min_size=3, max_size=3)


@given(st.lists(personas, max_size=8), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_a_resumed_alarm_says_what_the_unbroken_one_says(columns, cut):
    evaluations = [
        make_evaluation(n, [x for x, _ in column], [y for _, y in column])
        for n, column in enumerate(columns)
    ]
    whole = RewardAlarm(Alarm(patience=1, rise=0.0, answer=1.0))
    said = [whole.add(one) for one in evaluations]
    resumed = RewardAlarm.replayed(whole.config, evaluations[:cut])
    assert [resumed.add(one) for one in evaluations[cut:]] == said[cut:]
    assert resumed.stop == whole.stop


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=8))
@settings(deadline=None)
def test_equal_scores_never_fire(columns):
    """Whatever happens to both alike is answered in full."""
    alarm = RewardAlarm(Alarm(patience=1, rise=0.01))
    for n, column in enumerate(columns):
        assert alarm.add(make_evaluation(n, column, column)) is None


# --- how often it is wrong, and how late ----------------------------------------------------------


def simulated(rng, rewarded, held_out, deviation=0.2, shared=0.5, slope=0.3, drift=0.02):
    """A training's evaluations, 8 personas of 8 dialogues, as noisy as is likely.

    Standard deviations: of a reply's score .2, of which half the variance is shared by the two
    scores; of a persona's answer to training 30% of it; of a persona from one evaluation to the
    next .02.
    """
    answers = 1 + slope * rng.normal(size=PERSONAS)
    error = deviation / DIALOGUES**0.5
    for step, (x, y) in enumerate(zip(rewarded, held_out, strict=True)):
        common, own, other = rng.normal(size=(3, PERSONAS)) * error
        noise = [shared**0.5 * common + (1 - shared) ** 0.5 * part for part in (own, other)]
        wander = rng.normal(size=(2, PERSONAS)) * drift
        yield make_evaluation(
            step,
            list(0.5 + x * answers + noise[0] + wander[0]),
            list(0.5 + y * answers + noise[1] + wander[1]),
        )


def delays(rewarded, held_out, runs, seed=0, **noise):
    """When the alarm fires for the first time, of the runs in which it does."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        alarm = RewardAlarm(Alarm())
        said = [alarm.add(one) for one in simulated(rng, rewarded, held_out, **noise)]
        found += [n for n, sentence in enumerate(said) if sentence][:1]
    return found


COURSE = np.linspace(0, 1, EVALUATIONS)


@pytest.mark.parametrize("shared", [0.5, 0.0])
@pytest.mark.parametrize(
    "course",
    [0 * COURSE, 0.2 * COURSE, 0.06 * np.minimum(1, 5 * COURSE)],
    ids=["nothing learnt", "progress", "a little progress"],
)
def test_honest_trainings_are_left_alone(course, shared):
    runs = 60
    assert len(delays(course, course, runs, shared=shared)) / runs <= 0.05


@pytest.mark.parametrize(
    ("held_out", "found", "latest"),
    [
        (0 * COURSE, 0.8, 13),
        (-0.1 * COURSE, 0.97, 10),
        (0.1 * np.where(COURSE < 0.4, COURSE / 0.4, (1 - COURSE) / 0.6), 0.75, 18),
    ],
    ids=["flat", "falling", "rising at first"],
)
def test_gamed_rewards_are_found_before_the_end(held_out, found, latest):
    runs = 60
    places = delays(0.3 * COURSE, held_out, runs)
    assert len(places) / runs >= found
    assert np.median(places) <= latest
