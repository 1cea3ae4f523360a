"""Worst and best case: the truth is inside whatever the missing scores were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench.bounds import bounds
from kardiabench.stats import cluster_means

turns = st.lists(
    st.tuples(st.floats(1, 5), st.booleans(), st.integers(0, 4)), min_size=1, max_size=40
)


@given(turns)
def test_the_mean_of_the_complete_data_is_always_inside(rows):
    values, missing, personas = (np.array(column) for column in zip(*rows, strict=True))
    low, high = bounds(np.where(missing, np.nan, values), personas, 1.0, 5.0)
    whole = cluster_means(values, personas).mean()
    assert low <= whole + 1e-9
    assert high >= whole - 1e-9
    if not missing.any():
        assert (low, high) == pytest.approx((whole, whole))


def test_both_ends_are_reached():
    values, personas = np.array([4.0, np.nan, 2.0]), np.array([0, 0, 7])
    assert bounds(values, personas, 1.0, 5.0) == ((2.5 + 2) / 2, (4.5 + 2) / 2)


def test_a_persona_without_a_score_counts():
    values, personas = np.array([4.0, np.nan]), np.array([0, 1])
    assert bounds(values, personas, 0.0, 10.0) == (2.0, 7.0)


def test_nothing_scored_is_the_whole_scale_and_nothing_planned_is_nothing():
    assert bounds(np.full(3, np.nan), np.arange(3), 1.0, 5.0) == (1.0, 5.0)
    assert bounds(np.empty(0), np.empty(0, dtype=np.int64), 1.0, 5.0) == (None, None)


@pytest.mark.parametrize("value", [0.5, 5.5])
def test_a_score_off_the_scale_is_an_error(value):
    with pytest.raises(ValueError, match=r"outside of the scale 1\.0 to 5\.0"):
        bounds(np.array([3.0, value]), np.array([0, 0]), 1.0, 5.0)
