"""The detectable difference, against statsmodels, the noncentral t, and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from kardiabench.power import attained, detectable, effect_size


@settings(max_examples=40)
@given(st.integers(3, 60), st.floats(0.02, 0.2), st.floats(0.05, 1.5))
def test_the_power_is_that_of_statsmodels(k, alpha, size):
    theirs = TTestPower().power(size, k, alpha)
    if math.isfinite(theirs):  # the noncentral t that it uses breaks off for large effects
        assert attained(size, k, alpha) == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("k", [2, 3, 4, 8, 32, 300])
def test_at_5_percent_the_answer_is_that_of_statsmodels_solver(k):
    theirs = TTestPower().solve_power(nobs=k, alpha=0.05, power=0.8)
    assert detectable(1.0, k) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("k", [2, 3, 8, 32, 600])
@pytest.mark.parametrize("pairs", [45, 1225])
def test_at_holms_first_step_the_answer_has_the_power_it_claims(k, pairs):
    alpha = 0.05 / pairs
    size = detectable(2.0, k, alpha)
    rng = np.random.default_rng(k)  # the t statistic by its definition, not through our integral
    normal, chi = rng.standard_normal(400_000), np.sqrt(rng.chisquare(k - 1, 400_000) / (k - 1))
    t = (normal + size / 2.0 * math.sqrt(k)) / chi
    found = np.abs(t) > scipy.stats.t.isf(alpha / 2, k - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.003)


def test_it_grows_with_the_spread_and_falls_with_personas_and_alpha():
    assert detectable(0.3, 8) == pytest.approx(3 * detectable(0.1, 8))
    assert effect_size(8) > effect_size(32) > effect_size(64)
    assert effect_size(32, 0.001) > effect_size(32)
    assert effect_size(32, power=0.9) > effect_size(32)
    assert detectable(0.0, 8) == 0.0


def test_one_persona_detects_nothing():
    assert detectable(1.0, 1) is None
    assert detectable(1.0, 0) is None


@pytest.mark.parametrize(("k", "alpha", "power"), [(1, 0.05, 0.8), (8, 0.9, 0.8), (8, 0.0, 0.8)])
def test_senseless_questions_are_errors(k, alpha, power):
    with pytest.raises(ValueError, match="no effect size"):
        effect_size(k, alpha, power)
