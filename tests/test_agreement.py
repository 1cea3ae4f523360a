"""Agreement statistics, against scikit-learn, scipy, krippendorff and pingouin."""

from __future__ import annotations

import math
import statistics
import warnings

import krippendorff
import numpy as np
import pandas as pd
import pingouin
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from kardiabench import agreement as ag

NAN = math.nan
levels = st.integers(1, 5).map(float)
half_levels = st.integers(2, 10).map(lambda n: n / 2)
exact = pytest.approx


def pairs(score, smallest=2, largest=40):
    return st.lists(st.tuples(score, score), min_size=smallest, max_size=largest).map(
        lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows]))
    )


some_raters = st.integers(2, 5)


def tables(score, raters=some_raters, smallest=2, largest=20):
    return raters.flatmap(
        lambda k: st.lists(
            st.lists(score, min_size=k, max_size=k), min_size=smallest, max_size=largest
        ).map(lambda rows: np.array(rows, dtype=np.float64))
    )


def with_gaps(score):
    return score | st.just(NAN)


def same(ours, theirs):
    return ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


# --- equal to the libraries -----------------------------------------------------------------------


@given(pairs(levels))
def test_weighted_kappa_equals_scikit_learns(pair):
    a, b = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero where all is one level
        labels = [1, 2, 3, 4, 5]
        theirs = cohen_kappa_score(
            a.astype(int),
            b.astype(int),
            weights="quadratic",
            labels=labels,
            replace_undefined_by=NAN,
        )
    assert same(ag.weighted_kappa(a, b), theirs)


@given(pairs(half_levels))
def test_weighted_kappa_of_half_levels_equals_scikit_learns_on_the_doubled_scale(pair):
    a, b = pair
    assume(len({*a, *b}) > 1)
    doubled = [(2 * x).astype(int) for x in pair]
    theirs = cohen_kappa_score(*doubled, weights="quadratic", labels=range(2, 11))
    assert same(ag.weighted_kappa(a, b), theirs)


@given(pairs(half_levels | st.floats(1, 5)))
def test_spearman_equals_scipys(pair):
    assume(all(len(set(x)) > 1 for x in pair))
    assert same(ag.spearman(*pair), scipy.stats.spearmanr(*pair).statistic)


@given(pairs(half_levels))
def test_pearson_and_slope_equal_scipys(pair):
    a, b = pair
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    theirs = scipy.stats.linregress(b, a)
    assert same(ag.pearson(a, b), theirs.rvalue)
    assert same(ag.slope(a, b), theirs.slope)


@given(tables(with_gaps(half_levels)))
def test_ordinal_alpha_equals_krippendorffs(table):
    pairable = table[(~np.isnan(table)).sum(axis=1) >= 2]
    assume(len(set(pairable[~np.isnan(pairable)])) > 1)
    theirs = krippendorff.alpha(table.T, level_of_measurement="ordinal")
    assert same(ag.ordinal_alpha(table), theirs)


def iccs_of_pingouin(table):
    long = pd.DataFrame(table).reset_index().melt(id_vars="index", var_name="rater")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its intervals divide by zero where nothing is left over
        found = pingouin.intraclass_corr(long, "index", "rater", "value").set_index("Type")["ICC"]
    return found["ICC(C,1)"], found["ICC(A,1)"]


@given(tables(half_levels, smallest=3))
def test_icc_equals_pingouins(table):
    assume(len({*table.mean(axis=1)}) > 1)
    ours, theirs = ag.icc(table), iccs_of_pingouin(table)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_pingouins_figures_are_not_rounded():
    table = np.array([[1, 2], [2, 2], [4, 5], [3, 3]], dtype=float)
    consistency, _ = iccs_of_pingouin(table)
    assert consistency != round(consistency, 6)


@given(tables(with_gaps(half_levels), smallest=1))
def test_medians_and_means_equal_the_standard_librarys(table):
    for row, median, mean in zip(table, ag.row_median(table), ag.row_mean(table), strict=True):
        there = [x for x in row if not math.isnan(x)]
        assert same(median, statistics.median(there) if there else NAN)
        assert same(mean, statistics.fmean(there) if there else NAN)


@given(tables(with_gaps(half_levels), smallest=1))
def test_the_median_of_others_leaves_the_rater_out(table):
    found = ag.median_of_others(table)
    for (item, rater), value in np.ndenumerate(found):
        others = [x for at, x in enumerate(table[item]) if at != rater and not math.isnan(x)]
        gone = math.isnan(table[item, rater]) or not others
        assert same(value, NAN if gone else statistics.median(others))


@given(tables(with_gaps(half_levels), smallest=2), st.data())
def test_left_out_kappas_are_those_of_each_rater_against_the_others(table, data):
    score = with_gaps(half_levels)
    judge = np.array(data.draw(st.lists(score, min_size=len(table), max_size=len(table))))
    others = ag.median_of_others(table)
    both = [
        (
            ag.weighted_kappa(np.where(np.isnan(judge), NAN, table[:, r]), others[:, r]),
            ag.weighted_kappa(np.where(np.isnan(table[:, r]), NAN, judge), others[:, r]),
        )
        for r in range(table.shape[1])
    ]
    used = [pair for pair in both if not np.isnan(pair).any()]
    expected = np.mean(used, axis=0) if used else (NAN, NAN)
    assert ag.left_out_kappas(judge, table, others) == pytest.approx(
        tuple(expected), abs=1e-9, nan_ok=True
    )


# --- many tables at once --------------------------------------------------------------------------

PAIR_STATISTICS = (
    ag.weighted_kappa,
    ag.spearman,
    ag.pearson,
    ag.slope,
    ag.mean_difference,
)


@pytest.mark.parametrize("statistic", PAIR_STATISTICS)
@given(st.data())
def test_replicates_in_front_give_the_same_as_one_at_a_time(statistic, data):
    table = data.draw(tables(with_gaps(half_levels), st.just(2), 6, 6))
    picks = np.array(
        data.draw(
            st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=3, max_size=3)
        )
    )
    many = statistic(table[picks][..., 0], table[picks][..., 1])
    assert many.shape == (3,)
    for row, value in zip(picks, many, strict=True):
        assert same(value, statistic(table[row, 0], table[row, 1]))


@given(st.data())
def test_replicates_of_tables_give_the_same_as_one_at_a_time(data):
    table = data.draw(tables(with_gaps(half_levels), st.just(3), 6, 6))
    picks = np.array(
        data.draw(
            st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=3, max_size=3)
        )
    )
    many = ag.ordinal_alpha(table[picks]), *ag.icc(table[picks])
    for at, row in enumerate(picks):
        alone = tuple(map(float, (ag.ordinal_alpha(table[row]), *ag.icc(table[row]))))
        assert tuple(x[at] for x in many) == pytest.approx(alone, abs=1e-9, nan_ok=True)


# --- what is undefined ----------------------------------------------------------------------------


def floats(*values):
    return np.array(values, dtype=np.float64)


def test_a_judge_that_never_varies_has_kappa_zero_and_no_correlation():
    judge, people = floats(4, 4, 4, 4), floats(1, 2, 4, 5)
    assert ag.weighted_kappa(judge, people) == 0.0
    assert math.isnan(ag.spearman(judge, people))
    assert math.isnan(ag.pearson(judge, people))


@pytest.mark.parametrize("score", [5.0, 3.3, 0.1])
def test_nothing_is_agreed_on_where_all_is_one_score(score):
    a, table = np.full(7, score), np.full((7, 3), score)
    assert math.isnan(ag.weighted_kappa(a, a))
    assert math.isnan(ag.ordinal_alpha(table))
    assert all(map(math.isnan, ag.icc(table)))


def test_items_that_do_not_differ_leave_no_icc_whatever_the_offset():
    assert all(map(math.isnan, ag.icc(np.array([[4.0, 5.0]] * 6))))


def test_two_items_turned_round_have_no_absolute_agreement():
    consistency, absolute = ag.icc(np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert (float(consistency), math.isnan(absolute)) == (-1.0, True)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_items_leave_everything_undefined(n):
    a, table = np.full(n, 3.0), np.full((n, 2), 3.0)
    for statistic in (ag.weighted_kappa, ag.spearman, ag.pearson, ag.slope):
        assert math.isnan(statistic(a, a + 1))
    assert math.isnan(ag.ordinal_alpha(table))
    assert all(map(math.isnan, ag.icc(table)))


def test_missing_ratings_are_left_out_not_counted_as_zero():
    a, b = floats(1, 2, NAN, 5, 4), floats(1, NAN, 3, 4, 4)
    there = [0, 3, 4]
    for statistic in PAIR_STATISTICS:
        assert same(statistic(a, b), statistic(a[there], b[there]))


def test_icc_is_over_items_that_all_rated():
    table = np.array([[1, 2], [NAN, 5], [2, 2], [5, 4], [3, NAN]])
    whole = tuple(map(float, ag.icc(table[[0, 2, 3]])))
    assert ag.icc(table) == pytest.approx(whole)


def test_the_share_at_the_ceiling_is_of_the_scores_that_there_are():
    assert ag.share_at_least(floats(5, 4.9, NAN, 3), 4.9) == exact(2 / 3)
    assert math.isnan(ag.share_at_least(floats(NAN), 5))


def test_halo_is_the_mean_over_pairs_that_both_have():
    rng = np.random.default_rng(1)
    judge, people = rng.normal(size=(2, 30, 4))
    judge[:, 3] = 5.0  # its three pairs are undefined for the judge, so they count for nobody
    ours = ag.mean_correlation(judge, people)
    first = np.corrcoef(judge[:, :3].T)[np.triu_indices(3, 1)].mean()
    second = np.corrcoef(people[:, :3].T)[np.triu_indices(3, 1)].mean()
    assert ours == pytest.approx((first, second, first - second))


def test_halo_of_one_dimension_is_undefined():
    one = np.random.default_rng(1).normal(size=(9, 1))
    assert all(map(math.isnan, ag.mean_correlation(one, one)))
