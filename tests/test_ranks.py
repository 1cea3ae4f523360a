"""Shared ranks and rank intervals: what they must keep to whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kardiabench.pairs import better, pairs
from kardiabench.ranks import NO_RANK, rank_intervals, shared_ranks

tables = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(
    lambda shape: arrays(
        np.float64, shape, elements=st.sampled_from([np.nan, *np.linspace(1, 5, 9)])
    )
)


def better_of(means):
    return better(pairs(means, [str(place) for place in range(len(means))]))


def spread(models, personas, gap, seed=0):
    rng = np.random.default_rng(seed)
    return gap * np.arange(models)[:, None] + rng.normal(0, 0.1, (models, personas))


def test_a_rank_is_1_and_the_number_that_is_significantly_better():
    found = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=bool)
    assert shared_ranks(found) == [1, 2, 2]
    assert shared_ranks(np.zeros((0, 0), dtype=bool)) == []


@settings(max_examples=50, deadline=None)
@given(tables)
def test_intervals_lie_within_the_ranks_there_are(means):
    low, high = rank_intervals(means, draws=200)
    present = ~np.isnan(means).all(axis=1)
    assert (low[~present] == NO_RANK).all()
    assert (high[~present] == NO_RANK).all()
    assert (low[present] >= 1).all()
    assert (low[present] <= high[present]).all()
    assert (high[present] <= present.sum()).all()


@settings(max_examples=30, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_the_models_does_not_matter(means, random):
    order = list(range(len(means)))
    random.shuffle(order)
    low, high = rank_intervals(means, draws=200)
    moved = rank_intervals(means[order], draws=200)
    assert moved[0].tolist() == low[order].tolist()
    assert moved[1].tolist() == high[order].tolist()


@settings(max_examples=30, deadline=None)
@given(tables)
def test_what_holm_leaves_open_is_in_the_interval(means):
    found = better_of(means)
    low, high = rank_intervals(means, draws=200, better=found)
    for place, rank in enumerate(shared_ranks(found)):
        if low[place] != NO_RANK:
            assert low[place] <= rank <= high[place]


def test_equal_models_share_all_ranks():
    means = np.tile(np.random.default_rng(0).normal(size=32), (5, 1))
    assert [ends.tolist() for ends in rank_intervals(means)] == [[1] * 5, [5] * 5]


def test_models_far_apart_have_one_rank_each():
    low, high = rank_intervals(spread(6, 20, gap=1.0))
    assert low.tolist() == high.tolist() == [6, 5, 4, 3, 2, 1]


def test_a_pair_of_models_is_apart_when_the_t_test_finds_it():
    agree = 0
    for seed in range(200):
        means = spread(2, 12, gap=0.05, seed=seed)
        p = pairs(means, ["a", "b"]).p[0]
        low, high = rank_intervals(means)
        agree += (p < 0.05) == (low[0] == high[0])
    assert agree >= 188  # near .05 resampling decides


def test_constant_differences_are_apart_only_with_personas_enough():
    few, many = (np.array([[2.0] * number, [1.0] * number]) for number in (5, 6))
    assert rank_intervals(few)[1].tolist() == [2, 2]  # 2 / 2^5 = .0625
    assert rank_intervals(many)[1].tolist() == [1, 2]


def test_a_model_that_shares_no_persona_can_have_any_rank():
    means = spread(3, 12, gap=1.0)
    alone = np.full((1, 12), np.nan)
    alone[0, 0] = 9.0
    low, high = rank_intervals(np.vstack([means, alone]))
    assert (low[3], high[3]) == (1, 4)
    assert (low[2], high[2]) == (1, 2)


def test_a_missing_persona_hardly_moves_an_interval():
    means = spread(4, 24, gap=0.05)
    holes = means.copy()
    holes[1, 3] = holes[2, 7] = np.nan
    whole, missing = rank_intervals(means), rank_intervals(holes)
    assert np.abs(np.array(whole) - np.array(missing)).max() <= 1


def test_draws_are_seeded():
    means = spread(8, 10, gap=0.03)
    assert [x.tolist() for x in rank_intervals(means)] == [
        x.tolist() for x in rank_intervals(means)
    ]


@pytest.mark.parametrize("personas", [8, 32])
def test_ten_equal_models_are_all_left_every_rank_19_times_in_20(personas):
    rng = np.random.default_rng(personas)
    held = [
        np.mean((low == 1) & (high == 10))
        for low, high in (
            rank_intervals(rng.normal(size=(10, personas)), draws=1000) for _ in range(300)
        )
    ]
    assert 0.92 <= np.mean(held) <= 0.98
