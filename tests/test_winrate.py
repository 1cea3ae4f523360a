"""Win rates by persona, order effects and the length-controlled win rate."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from kardiabench.winrate import (
    fit_lengths,
    length_controlled,
    orders,
    outcomes,
    share,
    win_rate,
)

NAN = float("nan")
SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, NAN])
#: Persona, score, score when shown first and second, words apart.
CASES = st.lists(
    st.tuples(st.integers(0, 5), SCORES, SCORES, SCORES, st.integers(-40, 40)), max_size=60
)


def columns(cases):
    table = np.array(cases, dtype=np.float64).reshape(-1, 5).T
    return table[0].astype(np.int64), *table[1:]


def simulated(rng, personas=32, cases=5, love=1.5, longer=8.0, better=0.0):
    """Scores of a judge whose log odds rise by `love` with tanh of the difference in length."""
    codes = np.repeat(np.arange(personas), cases)
    words = np.round(rng.normal(longer, 10, len(codes)))
    own = rng.normal(0, 0.3, personas)[codes]
    chance = expit(better + own + love * np.tanh(words / words.std(ddof=1)))
    votes = rng.random((2, len(codes))) < chance
    return votes.mean(axis=0), codes, words


# --- plain ------------------------------------------------------------------------------------


def test_a_case_above_a_half_is_won_and_one_below_is_lost():
    found = outcomes(np.array([1.0, 0.75, 0.5, 0.5, 0.25, NAN]))
    assert (found.wins, found.ties, found.losses) == (2, 2, 1)


@given(CASES)
def test_the_win_rate_and_its_test_are_those_of_scipy_on_persona_means(cases):
    personas, scores, *_ = columns(cases)
    means = [
        np.nanmean(scores[personas == code])
        for code in np.unique(personas)
        if not np.isnan(scores[personas == code]).all()
    ]
    assume(len(means) > 1 and np.std(means) > 1e-6)
    found = win_rate(scores, personas)
    expected = stats.ttest_1samp(means, 0.5)
    interval = expected.confidence_interval(0.95)
    assert found.estimate.mean == pytest.approx(np.mean(means))
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high))
    assert found.why is None


@pytest.mark.parametrize(
    ("scores", "personas", "mean", "why"),
    [
        ([], [], None, "no case has a score"),
        ([NAN, NAN], [0, 1], None, "no case has a score"),
        ([1.0, 0.0, NAN], [0, 0, 1], 0.5, "only one persona has a score"),
        ([1.0, 1.0, 1.0], [0, 1, 2], 1.0, "all personas have the same mean"),
        ([0.0, 1.0, 0.5, 0.5], [0, 0, 1, 1], 0.5, "all personas have the same mean"),
    ],
)
def test_what_is_undefined_is_none_with_the_reason(scores, personas, mean, why):
    found = win_rate(np.array(scores), np.array(personas, dtype=np.int64))
    assert found.estimate.mean == mean
    assert (found.estimate.low, found.estimate.high, found.p) == (None, None, None)
    assert found.why == why


def test_rounding_is_no_spread():
    thirds = np.array([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    found = share(thirds, np.array([0, 0, 0, 1, 1, 1, 1]))
    assert found.why == "all personas have the same mean"


# --- orders -----------------------------------------------------------------------------------


def test_orders_are_told_apart_by_what_decided():
    first = np.array([1.0, 0.0, 0.5, 1.0, 0.0, 1.0, 0.5, NAN, 1.0])
    second = np.array([1.0, 0.0, 0.5, 0.0, 1.0, 0.5, 0.0, 1.0, NAN])
    found = orders(first, second, np.array([0, 1, 2, 0, 1, 2, 0, 1, 2]))
    assert (found.cases, found.agree, found.first, found.second, found.half) == (7, 3, 1, 1, 2)
    assert found.consistency.estimate.pooled == pytest.approx(3 / 7)
    assert found.consistency.estimate.scored == 7
    # (.5 + .5 + .5 + 1 + 0 + .75 + .75) / 7
    assert found.first_shown.estimate.pooled == pytest.approx(4 / 7)


def test_a_judge_that_always_prefers_the_first_is_seen():
    found = orders(np.ones(6), np.zeros(6), np.arange(6) % 3)
    assert (found.agree, found.first) == (0, 6)
    assert found.first_shown.estimate.mean == 1.0
    assert found.consistency.estimate.mean == 0.0


def test_a_judge_without_position_bias_has_one_half_in_its_interval():
    rng = np.random.default_rng(3)
    personas = np.repeat(np.arange(32), 5)
    better = rng.random(160) < 0.8
    first, second = (np.where(rng.random(160) < 0.9, better, ~better) for _ in range(2))
    found = orders(first.astype(float), second.astype(float), personas)
    assert found.first_shown.estimate.low < 0.5 < found.first_shown.estimate.high
    assert found.first_shown.p > 0.05


# --- both sides -------------------------------------------------------------------------------


@given(CASES)
def test_swapping_the_models_mirrors_everything(cases):
    personas, scores, first, second, _ = columns(cases)
    ours, theirs = win_rate(scores, personas), win_rate(1 - scores, personas)
    mirrored(ours.estimate.mean, theirs.estimate.mean)
    mirrored(ours.estimate.low, theirs.estimate.high)
    assert ours.p == pytest.approx(theirs.p)
    won, lost = outcomes(scores), outcomes(1 - scores)
    assert (won.wins, won.ties, won.losses) == (lost.losses, lost.ties, lost.wins)
    seen, swapped = orders(first, second, personas), orders(1 - second, 1 - first, personas)
    assert (seen.agree, seen.first, seen.second) == (swapped.agree, swapped.first, swapped.second)
    assert seen.first_shown.estimate.mean == pytest.approx(swapped.first_shown.estimate.mean)


@given(CASES)
def test_swapping_the_models_mirrors_the_length_controlled_rate(cases):
    personas, scores, _, _, words = columns(cases)
    ours = length_controlled(scores, personas, words)
    theirs = length_controlled(1 - scores, personas, -words)
    mirrored(ours.rate, theirs.rate)
    mirrored(ours.low, theirs.high)
    assert (ours.why is None) == (theirs.why is None)
    assert (ours.rate is None) <= bool(ours.why)
    assert ours.extrapolated == theirs.extrapolated


def mirrored(ours, theirs):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours + theirs == pytest.approx(1.0, abs=1e-6)


# --- length -----------------------------------------------------------------------------------


def test_with_personas_of_one_size_the_regression_is_the_plain_one_of_statsmodels():
    scores, personas, words = simulated(np.random.default_rng(5))
    design = sm.add_constant(np.tanh(words / words.std(ddof=1)))
    model = sm.GLM(scores, design, family=sm.families.Binomial())
    expected = model.fit(cov_type="cluster", cov_kwds={"groups": personas})
    found = length_controlled(scores, personas, words)
    margin = stats.t.ppf(0.975, 31) * expected.bse[0]
    assert found.rate == pytest.approx(expit(expected.params[0]))
    assert found.slope == pytest.approx(expected.params[1])
    assert found.low == pytest.approx(expit(expected.params[0] - margin))
    assert found.high == pytest.approx(expit(expected.params[0] + margin))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(expected.params[0] / expected.bse[0]), 31))


def test_with_personas_of_many_sizes_it_solves_its_equations_with_a_sandwich_around_them():
    rng = np.random.default_rng(6)
    scores, personas, words = simulated(rng, personas=12, cases=20)
    kept = rng.random(len(scores)) < np.linspace(0.2, 1, 12)[personas]
    scores, personas, words = scores[kept], personas[kept], words[kept]
    fit = fit_lengths(scores, personas, words)
    design = np.column_stack([np.ones(len(words)), np.tanh(words / words.std(ddof=1))])
    weights = len(scores) / (12 * np.bincount(personas)[personas])
    rate = expit(design @ [fit.log_odds, fit.slope])
    pulls = (weights * (scores - rate))[:, None] * design
    assert pulls.sum(axis=0) == pytest.approx([0, 0], abs=1e-6)
    bread = np.linalg.inv((design * (weights * rate * (1 - rate))[:, None]).T @ design)
    by_persona = np.array([pulls[personas == code].sum(axis=0) for code in range(12)])
    sandwich = bread @ by_persona.T @ by_persona @ bread
    small = 12 / 11 * (len(scores) - 1) / (len(scores) - 2)
    assert fit.error == pytest.approx(np.sqrt(small * sandwich[0, 0]))


def test_a_judge_that_loves_length_moves_the_plain_rate_and_not_the_controlled_one():
    rng = np.random.default_rng(7)
    scores, personas, words = simulated(rng, cases=30)
    plain, controlled = win_rate(scores, personas), length_controlled(scores, personas, words)
    assert plain.estimate.low > 0.58
    assert controlled.low < 0.5 < controlled.high
    assert controlled.rate == pytest.approx(0.5, abs=0.06)
    assert controlled.slope == pytest.approx(1.5, abs=0.3)


def test_a_better_model_stays_better_at_equal_length():
    scores, personas, words = simulated(np.random.default_rng(8), cases=30, longer=-8, better=1)
    controlled = length_controlled(scores, personas, words)
    assert win_rate(scores, personas).estimate.mean < 0.6
    assert controlled.rate == pytest.approx(expit(1), abs=0.06)
    assert controlled.p < 0.001


@pytest.mark.parametrize(("personas", "cases"), [(8, 20), (32, 5)])
def test_nineteen_in_twenty_intervals_hold_one_half_when_the_models_are_equal(personas, cases):
    rng = np.random.default_rng(9)
    found = [length_controlled(*simulated(rng, personas, cases)) for _ in range(300)]
    held = [one.low < 0.5 < one.high for one in found]
    assert 0.91 <= np.mean(held) <= 0.99
    assert np.mean([one.rate for one in found]) == pytest.approx(0.5, abs=0.02)


def test_where_no_reply_is_longer_it_is_the_plain_rate():
    scores = np.array([1.0, 0.5, 0.0, 1.0, 1.0, 0.25, NAN])
    personas = np.array([0, 0, 1, 1, 2, 2, 2])
    plain = win_rate(scores, personas)
    found = length_controlled(scores, personas, np.zeros(7))
    assert (found.rate, found.p) == (plain.estimate.mean, plain.p)
    assert (found.low, found.high) == (plain.estimate.low, plain.estimate.high)
    assert (found.slope, found.extrapolated) == (None, False)


@pytest.mark.parametrize(
    ("scores", "words", "why"),
    [
        ([1, 0, 1, 0, 0.5, 1], [5, 5, 5, 5, 5, 5], "the difference in words is nearly the same"),
        ([1, 0, 1, 0, 0.5, 1], [99, 99, 98, 99, 99, 99], "the difference in words is nearly the"),
        ([1, 1, 1, 1, 1, 1], [1, -2, 3, 4, 5, 6], "model A won every case"),
        ([0, 0, 0, 0, 0, 0], [1, -2, 3, 4, 5, 6], "model B won every case"),
        ([1, 1, 1, 0, 0, 0], [4, 5, 6, -1, -2, -3], "length alone parts"),
        ([0, 0, 0.5, 1, 1, 1], [1, 2, 3, 4, 5, 6], "length alone parts"),
        ([1, 1, 0.5, 0, 0, 0], [1, 2, 3, 4, 5, 6], "length alone parts"),
    ],
)
def test_where_length_cannot_be_told_apart_there_is_no_rate_but_a_reason(scores, words, why):
    personas = np.array([0, 0, 1, 1, 2, 2])
    found = length_controlled(np.array(scores, float), personas, np.array(words, float))
    assert found.why.startswith(why)
    assert (found.rate, found.low, found.high, found.p, found.slope) == (None,) * 5


def test_ties_alone_are_one_half_without_an_interval():
    found = length_controlled(np.full(6, 0.5), np.arange(6) % 3, np.arange(6.0) - 2)
    assert found.rate == pytest.approx(0.5)
    assert (found.low, found.high, found.p) == (None, None, None)
    assert found.why == "the regression fits every persona exactly"


def test_two_cases_are_too_few_for_a_length_controlled_rate():
    found = length_controlled(np.array([0.25, 0.75]), np.arange(2), np.array([1.0, 0.0]))
    assert (found.rate, found.why) == (None, "there are fewer than 3 cases")


@pytest.mark.parametrize("scores", [[], [NAN] * 4, [1.0, 0.0, 0.5, NAN]])
def test_fewer_than_two_personas_have_no_length_controlled_rate(scores):
    found = length_controlled(np.array(scores), np.zeros(len(scores), int), np.arange(len(scores)))
    assert found.rate is None
    assert found.why


@pytest.mark.parametrize(
    ("words", "extrapolated"),
    [([3, 1, 2, 4, 9, 7], True), ([-3, -1, 0, -4, -9, 0], True), ([-1, 2, 3, 4, 5, 6], False)],
)
def test_it_is_said_when_one_model_never_wrote_less(words, extrapolated):
    scores = np.array([1.0, 0.0, 1.0, 0.5, 0.0, 1.0])
    found = length_controlled(scores, np.array([0, 0, 1, 1, 2, 2]), np.array(words, float))
    assert found.rate is not None
    assert found.extrapolated is extrapolated
