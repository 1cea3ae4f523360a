"""Isotonic calibration, cross-fitted, and prediction-powered means."""

from __future__ import annotations

import numpy as np
import ppi_py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kardiabench.curves import (
    LEAST_ITEMS,
    TooFewItemsError,
    apply_curve,
    calibrated_estimate,
    fit_curve,
)

SCORES = arrays(np.float64, 60, elements=st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0]))


def rated(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A judge that is a level too kind, and people who are noisy about the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(1, 5, n).astype(float)
    judge = np.clip(truth + 1 + random.normal(0, 0.3, n), 1, 5)
    return judge, np.clip(truth + random.normal(0, 0.3, n), 1, 5)


@settings(max_examples=40)
@given(SCORES, SCORES)
def test_a_curve_never_falls_and_never_leaves_the_scale(judge, people):
    curve = fit_curve(judge, people, None, 1.0, 5.0)
    grid = np.linspace(0, 6, 50)
    calibrated = apply_curve(curve, grid)
    assert (np.diff(calibrated) >= -1e-12).all()
    assert calibrated.min() >= 1.0
    assert calibrated.max() <= 5.0
    assert curve["items"] == 60


def test_fewer_than_fifty_items_are_refused_and_fifty_are_not():
    judge, people = rated(LEAST_ITEMS)
    assert fit_curve(judge, people, None, 1.0, 5.0)["items"] == LEAST_ITEMS
    people[7] = np.nan
    with pytest.raises(TooFewItemsError, match=r"49 items were rated by both .* needs 50"):
        fit_curve(judge, people, None, 1.0, 5.0)


def test_calibration_takes_the_offset_away_on_items_that_it_has_not_seen():
    found = fit_curve(*rated(), None, 1.0, 5.0)["cross_fitted"]
    assert found["offset_raw"] > 0.7
    assert abs(found["offset"]) < 0.05
    assert found["mse"] < found["mse_raw"] / 3
    assert found["kappa"] > found["kappa_raw"]


def test_what_is_said_of_the_curve_comes_from_unseen_items():
    random = np.random.default_rng(3)
    judge, people = random.uniform(1, 5, 60), random.uniform(1, 5, 60)
    curve = fit_curve(judge, people, None, 1.0, 5.0)
    seen = np.mean((apply_curve(curve, judge) - people) ** 2)
    assert curve["cross_fitted"]["mse"] > seen
    assert curve["cross_fitted"]["mse"] > np.var(people) * 0.9


def test_missing_scores_stay_missing():
    curve = fit_curve(*rated(), None, 1.0, 5.0)
    assert np.isnan(apply_curve(curve, np.array([np.nan, 3.0]))).tolist() == [True, False]


def test_a_judge_with_one_score_gets_a_flat_curve():
    _, people = rated()
    curve = fit_curve(np.full(120, 4.0), people, None, 1.0, 5.0)
    assert apply_curve(curve, np.array([1.0, 4.0, 5.0])) == pytest.approx(np.full(3, people.mean()))
    assert curve["cross_fitted"]["kappa"] is None or abs(curve["cross_fitted"]["kappa"]) < 0.2


def test_folds_and_errors_go_by_persona_where_there_are_any():
    judge, people = rated()
    personas = np.arange(120) % 8
    by_item, by_persona = (fit_curve(judge, people, c, 1.0, 5.0) for c in (None, personas))
    assert (by_item["rectifier"]["clusters"], by_item["rectifier"]["df"]) == (120, 119)
    assert (by_persona["rectifier"]["clusters"], by_persona["rectifier"]["df"]) == (8, 7)
    one = fit_curve(judge, people, np.zeros(120, dtype=np.int64), 1.0, 5.0)
    assert one["rectifier"]["clusters"] == 120


def test_without_clusters_the_mean_is_that_of_ppi_python():
    random = np.random.default_rng(1)
    people, guessed = random.normal(3, 1, 200), random.normal(3, 1, 200)
    guessed = people * 0.6 + guessed * 0.4 + 0.3
    others = random.normal(3.3, 1, 4000)
    left = people - guessed
    rectifier = {
        "mean": left.mean(),
        "standard_error": left.std(ddof=1) / np.sqrt(200),
        "df": 199,
        "clusters": 200,
    }
    ours = calibrated_estimate(others, np.arange(4000), rectifier)
    theirs = ppi_py.ppi_mean_pointestimate(people, guessed, others, lam=1)
    low, high = ppi_py.ppi_mean_ci(people, guessed, others, alpha=0.05, lam=1)
    assert ours["mean"] == pytest.approx(float(np.squeeze(theirs)))
    # ppi-python takes the normal's quantile and divides by n; ours is t's, by n - 1.
    assert ours["low"] == pytest.approx(float(np.squeeze(low)), abs=0.004)
    assert ours["high"] == pytest.approx(float(np.squeeze(high)), abs=0.004)


def test_the_interval_holds_what_people_would_say_where_the_judges_own_does_not():
    held = raw_held = 0
    trials = 300
    for seed in range(trials):
        random = np.random.default_rng(seed)

        def draw(personas: int, each: int, random=random):
            codes = np.repeat(np.arange(personas), each)
            truth = 3 + random.normal(0, 0.3, personas)[codes] + random.normal(0, 0.6, len(codes))
            return codes, truth, np.clip(truth + 0.5 + random.normal(0, 0.4, len(codes)), 1, 5)

        codes, truth, judge = draw(16, 10)
        curve = fit_curve(judge, truth, codes, 1.0, 5.0, seed=seed)
        turns, _, scores = draw(32, 20)
        found = calibrated_estimate(apply_curve(curve, scores), turns, curve["rectifier"])
        held += found["low"] <= 3.0 <= found["high"]
        raw = calibrated_estimate(
            scores, turns, curve["rectifier"] | {"mean": 0.0, "standard_error": 0.0}
        )
        raw_held += raw["low"] <= 3.0 <= raw["high"]
    assert 0.91 <= held / trials <= 0.99
    assert raw_held / trials < 0.1


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_rated_personas_that_are_the_runs_own_do_not_make_the_interval_too_narrow(spread):
    held = apart = 0
    trials, names = 300, [f"p{code:02}" for code in range(32)]
    for seed in range(trials):
        random = np.random.default_rng(seed)
        own = random.normal(0, spread, 32)
        codes, turns = np.repeat(np.arange(32), 5), np.repeat(np.arange(32), 20)

        def judged(codes, own=own, random=random):
            truth = 3 + own[codes] + random.normal(0, 0.6, len(codes))
            return truth, np.clip(truth + 0.5 + random.normal(0, 0.8, len(codes)), 1, 5)

        (truth, judge), (_, scores) = judged(codes), judged(turns)
        curve = fit_curve(judge, truth, np.array(names)[codes], 1.0, 5.0, seed=seed)
        calibrated = apply_curve(curve, scores)
        found = calibrated_estimate(calibrated, turns, curve["rectifier"], names=names)
        held += found["low"] <= 3.0 <= found["high"]
        blind = calibrated_estimate(calibrated, turns, curve["rectifier"])
        apart += blind["low"] <= 3.0 <= blind["high"]
    assert 0.91 <= held / trials <= 0.98
    assert apart < held


def test_what_cannot_be_estimated_is_null():
    rectifier = {"mean": 0.1, "standard_error": 0.1, "df": 9, "clusters": 10}
    nothing = calibrated_estimate(np.full(4, np.nan), np.arange(4), rectifier)
    assert (nothing["mean"], nothing["low"], nothing["scored"]) == (None, None, 0)
    one = calibrated_estimate(np.array([3.0, 4.0]), np.zeros(2, dtype=np.int64), rectifier)
    assert one["mean"] == pytest.approx(3.6)
    assert one["low"] is None
