"""All pairs of models, against scipy's and statsmodels' tests one by one."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.multitest import multipletests

from kardiabench.effects import effect
from kardiabench.flips import EXACT, flip_test
from kardiabench.pairs import better, pairs
from kardiabench.power import effect_size

NAN = math.nan
TABLE_FIELDS = ("mean", "low", "high", "p", "p_flip", "p_holm", "mde", "mde_holm")


def table_of(means, **options):
    means = np.array(means, dtype=np.float64)
    return pairs(means, [f"m{place}" for place in range(len(means))], **options)


def scores(most_personas):
    """Persona means on a grid, so that ties occur; some are missing."""
    value = st.sampled_from([NAN, *np.linspace(1, 5, 17)])
    shape = st.tuples(st.integers(2, 5), st.integers(1, most_personas))
    return shape.flatmap(lambda s: arrays(np.float64, s, elements=value))


@settings(max_examples=60, deadline=None)
@given(scores(8))
def test_every_pair_is_scipys_paired_t_test(means):
    table = table_of(means)
    places = list(zip(*np.triu_indices(len(means), k=1), strict=True))
    assert list(zip(table.first, table.second, strict=True)) == places
    for row, (i, j) in enumerate(places):
        both = ~np.isnan(means[i] - means[j])
        a, b = means[i][both], means[j][both]
        assert table.personas[row] == len(a)
        if len(a) == 0:
            assert all(np.isnan(getattr(table, name)[row]) for name in TABLE_FIELDS)
            continue
        assert table.mean[row] == pytest.approx((a - b).mean(), abs=1e-12)
        if len(a) < 2 or (a - b).std() < 1e-9:
            assert np.isnan([table.low[row], table.high[row], table.mde[row]]).all()
            continue
        expected = scipy.stats.ttest_rel(a, b)
        assert table.p[row] == pytest.approx(expected.pvalue, rel=1e-9)
        interval = expected.confidence_interval(0.95)
        assert (table.low[row], table.high[row]) == pytest.approx(tuple(interval), rel=1e-9)
        assert table.mde[row] == pytest.approx(effect_size(len(a)) * (a - b).std(ddof=1))


@settings(max_examples=40, deadline=None)
@given(scores(6))
def test_p_values_and_their_holm_correction_are_those_of_effects_and_statsmodels(means):
    table = table_of(means)
    for row, (i, j) in enumerate(zip(table.first, table.second, strict=True)):
        expected = effect(means[i] - means[j], np.arange(means.shape[1])).p
        got = None if np.isnan(table.p[row]) else table.p[row]
        assert got == (expected if expected is None else pytest.approx(expected, rel=1e-9))
    tested = ~np.isnan(table.p)
    assert (tested == ~np.isnan(table.p_holm)).all()
    if tested.any():
        expected = multipletests(table.p[tested], method="holm")[1]
        assert table.p_holm[tested] == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(scores(8))
def test_few_personas_have_scipys_exact_sign_flip_test(means):
    table = table_of(means)
    for row, (i, j) in enumerate(zip(table.first, table.second, strict=True)):
        differences = (means[i] - means[j])[~np.isnan(means[i] - means[j])]
        if np.isnan(table.p[row]):
            assert np.isnan(table.p_flip[row])
            continue
        exact = scipy.stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert table.p_flip[row] == pytest.approx(exact.pvalue, abs=1e-12)


def test_many_personas_have_a_monte_carlo_sign_flip_test_near_the_exact_one():
    rng = np.random.default_rng(3)
    differences = rng.normal(0.3, 1.0, (40, EXACT))
    exact = flip_test(differences)
    wider = np.column_stack([differences, np.zeros((40, 4))])  # zeros don't change the sum
    drawn = flip_test(wider, flips=20_000)
    assert np.abs(drawn - exact).max() < 4 * 0.5 / math.sqrt(20_000)
    assert (drawn == flip_test(wider, flips=20_000)).all()
    assert (drawn != flip_test(wider, flips=20_000, seed=1)).any()
    counts = drawn * 20_001
    assert counts == pytest.approx(np.round(counts))
    assert counts.min() >= 1


def test_the_smallest_p_of_the_drawn_flips_is_not_0():
    assert flip_test(np.full((1, 40), 2.0), flips=99)[0] == pytest.approx(0.01)


def test_missing_personas_leave_the_exact_test_of_the_rest():
    rng = np.random.default_rng(4)
    few = rng.normal(0.5, 1.0, (1, 7))
    many = np.full((1, 30), NAN)
    many[0, [1, 5, 8, 13, 20, 21, 29]] = few
    assert flip_test(many)[0] == flip_test(few)[0]


def test_flips_can_be_left_out():
    means = np.random.default_rng(0).normal(size=(3, 20))
    assert np.isnan(table_of(means, flips=0).p_flip).all()
    assert not np.isnan(table_of(means).p_flip).any()


def test_equal_models_have_a_mean_of_0_and_nothing_to_test():
    table = table_of([[3.0, 4.0, 5.0]] * 2)
    assert table.mean[0] == 0.0
    assert all(np.isnan(getattr(table, name)[0]) for name in TABLE_FIELDS[1:])
    assert not better(table).any()


def test_a_constant_difference_has_the_exact_p_of_flips_and_no_interval():
    table = table_of([[3.1, 4.1, 5.1], [3.0, 4.0, 5.0]])  # .1 but for rounding
    assert table.mean[0] == pytest.approx(0.1)
    assert table.p[0] == table.p_flip[0] == table.p_holm[0] == 0.25
    assert np.isnan([table.low[0], table.high[0], table.mde[0], table.mde_holm[0]]).all()


def test_holms_detectable_difference_counts_only_pairs_that_were_tested():
    rng = np.random.default_rng(1)
    means = np.vstack([rng.normal(size=(3, 10)), np.full(10, NAN)])
    table = table_of(means)
    whole = table.personas == 10
    assert whole.sum() == 3
    ratio = effect_size(10, 0.05 / 3) / effect_size(10, 0.05)
    assert table.mde_holm[whole] == pytest.approx(ratio * table.mde[whole])
    assert np.isnan(table.mde_holm[~whole]).all()


def test_better_points_one_way_and_only_where_holm_finds_a_difference():
    rng = np.random.default_rng(2)
    table = table_of(rng.normal(0, 0.2, (6, 16)) + 0.15 * np.arange(6)[:, None])
    found = better(table)
    assert found.any()
    assert not (found & found.T).any()
    assert not np.diag(found).any()
    for p, mean, i, j in zip(table.p_holm, table.mean, table.first, table.second, strict=True):
        assert found[i, j] == (p < 0.05 and mean > 0)
        assert found[j, i] == (p < 0.05 and mean < 0)
    assert better(table, alpha=0.0).sum() == 0


def test_turning_the_models_round_mirrors_the_table():
    means = np.random.default_rng(5).normal(size=(2, 9))
    one, two = table_of(means), table_of(means[::-1])
    assert (one.mean[0], one.low[0], one.high[0]) == (-two.mean[0], -two.high[0], -two.low[0])
    assert (one.p, one.p_flip, one.mde) == (two.p, two.p_flip, two.mde)


@pytest.mark.parametrize("number", [0, 1])
def test_no_pair_is_an_empty_table(number):
    table = table_of(np.ones((number, 4)))
    assert len(table.first) == len(table.p_holm) == 0
    assert better(table).shape == (number, number)


def test_names_must_be_as_many_as_models():
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        pairs(np.ones((2, 3)), ["one"])


def test_fifty_models_on_ten_metrics_take_seconds():
    means = np.random.default_rng(6).normal(size=(50, 32))
    table_of(means)  # imports, flips, effect sizes
    start = time.process_time()
    for _ in range(10):
        table_of(means)
    assert time.process_time() - start < 6  # 0.9 s measured; the margin is for slow machines
