"""Intervals of macro-F1 and recall, against scikit-learn, a slow loop, and a simulation."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import f1_score
from statsmodels.stats.proportion import proportion_confint

from kardiabench.emotions import EMOTIONS
from kardiabench.jackknife import classification_intervals
from kardiabench.stats import classification

replies = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5) | st.just(32), st.integers(0, 4)),
    min_size=1,
    max_size=40,
).map(lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True)))


def by_name(gold, predicted):
    answers = [None if code == 32 else EMOTIONS[code] for code in predicted]
    return classification([EMOTIONS[code] for code in gold], answers)


@settings(max_examples=50, deadline=None)
@given(replies)
def test_values_are_those_of_classification(data):
    gold, predicted, personas = data
    found, expected = classification_intervals(gold, predicted, personas), by_name(gold, predicted)
    assert found.macro_f1.value == pytest.approx(expected.macro_f1, abs=1e-12)
    assert {name: r.value for name, r in found.recall.items()} == pytest.approx(expected.recall)
    assert {name: r.support for name, r in found.recall.items()} == expected.support


@settings(max_examples=40, deadline=None)
@given(replies, st.sampled_from([0.8, 0.95]))
def test_macro_f1_has_the_interval_of_leaving_out_each_persona(data, level):
    gold, predicted, personas = data
    found = classification_intervals(gold, predicted, personas, level).macro_f1
    present = np.unique(personas)
    k = len(present)
    if k < 2:
        assert (found.low, found.high) == (None, None)
        return
    left = []
    for persona in present:
        kept = personas != persona
        labels = np.unique(gold[kept])
        left.append(
            f1_score(gold[kept], predicted[kept], labels=labels, average="macro", zero_division=0.0)
        )
    error = math.sqrt((k - 1) / k * np.sum((np.array(left) - np.mean(left)) ** 2))
    if error < 1e-9:
        assert (found.low, found.high) == (None, None)
        return
    margin = scipy.stats.t.ppf(0.5 + level / 2, k - 1) * error
    expected = max(found.value - margin, 0.0), min(found.value + margin, 1.0)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(replies)
def test_recall_has_wilsons_interval_of_its_effective_sample_size(data):
    gold, predicted, personas = data
    for label, found in classification_intervals(gold, predicted, personas).recall.items():
        mine = gold == EMOTIONS.index(label)
        hit, cluster = (predicted == gold)[mine], personas[mine]
        having = np.unique(cluster)
        assert found.personas == len(having)
        if len(having) < 2:
            assert (found.low, found.high) == (None, None)
            continue
        k, p = len(having), hit.mean()
        left = np.array([hit[cluster != persona].mean() for persona in having])
        variance = (k - 1) / k * np.sum((left - left.mean()) ** 2)
        size = k if p in {0, 1} else min(p * (1 - p) / max(variance, 1e-12), len(hit))
        # Wilson's with the quantile of t instead of z: the level of z that has this quantile
        alpha = 2 * scipy.stats.norm.sf(scipy.stats.t.isf(0.025, k - 1))
        expected = proportion_confint(p * size, size, alpha, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_label_always_or_never_named_still_has_an_interval():
    gold, personas = np.repeat([0, 1], 40), np.tile(np.arange(8), 10)
    found = classification_intervals(gold, np.zeros(80, dtype=int), personas).recall
    always, never = found["afraid"], found["angry"]
    assert (always.value, always.high) == (1.0, pytest.approx(1.0))
    assert (never.value, never.low) == (0.0, pytest.approx(0.0))
    assert always.low == pytest.approx(1 - never.high)
    t = scipy.stats.t.isf(0.025, 7)
    assert never.high == pytest.approx(t**2 / (8 + t**2))  # eight replies, not forty


def test_a_label_of_one_persona_has_no_interval():
    found = classification_intervals(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0, 0, 1]))
    afraid = found.recall["afraid"]
    assert (afraid.value, afraid.low, afraid.high, afraid.support, afraid.personas) == (
        0.5, None, None, 2, 1,
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(replies)
def test_pseudo_values_carry_the_error_of_macro_f1(data):
    gold, predicted, personas = data
    found = classification_intervals(gold, predicted, personas)
    number = len(np.unique(personas))
    assert found.pseudo_values.shape == (number,)
    if number < 2:
        assert np.isnan(found.pseudo_values).all()
        return
    assume(found.macro_f1.high is not None)
    margin = scipy.stats.t.isf(0.025, number - 1) * scipy.stats.sem(found.pseudo_values)
    assert found.macro_f1.high == pytest.approx(min(found.macro_f1.value + margin, 1.0))


def test_a_perfect_model_has_no_interval_of_no_width():
    gold = np.tile(np.arange(4), 8)
    found = classification_intervals(gold, gold, np.repeat(np.arange(4), 8)).macro_f1
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_codes_of_personas_may_have_gaps_and_replies_any_order():
    rng = np.random.default_rng(1)
    gold, predicted = rng.integers(0, 32, 300), rng.integers(0, 33, 300)
    personas, order = rng.integers(0, 6, 300), rng.permutation(300)
    plain = classification_intervals(gold, predicted, personas)
    moved = classification_intervals(gold[order], predicted[order], 5 * personas[order] + 3)
    assert moved.macro_f1 == plain.macro_f1
    assert moved.recall == plain.recall


def test_no_replies_are_nothing():
    empty = np.empty(0, dtype=np.int64)
    assert classification_intervals(empty, empty, empty) is None


@pytest.mark.parametrize(("gold", "predicted"), [(32, 0), (-1, 0), (0, 33), (0, -1)])
def test_codes_that_name_no_label_are_errors(gold, predicted):
    with pytest.raises(ValueError, match="codes of labels must be 0 to 31, or 32 for none"):
        classification_intervals(np.array([gold]), np.array([predicted]), np.array([0]))


@pytest.mark.parametrize("chance", [0.5, 0.95])
def test_the_recall_of_a_clustered_label_is_in_its_interval_19_times_in_20(chance):
    """Ten personas with sixteen replies each; their log odds differ by a normal of SD .7."""
    rng, held = np.random.default_rng(2), []
    odds = math.log(chance / (1 - chance)) + rng.normal(0, 0.7, (600, 10))
    truth = expit(math.log(chance / (1 - chance)) + rng.normal(0, 0.7, 10**6)).mean()
    personas = np.repeat(np.arange(10), 16)
    for row in expit(odds):
        hit = rng.random(160) < np.repeat(row, 16)
        found = classification_intervals(np.zeros(160, dtype=int), 1 - hit, personas)
        recall = found.recall["afraid"]
        held.append(recall.low <= truth <= recall.high)
    assert 0.92 <= np.mean(held) <= 0.985


def test_the_test_split_takes_milliseconds():
    rng = np.random.default_rng(3)
    gold, predicted = rng.integers(0, 32, 20_290), rng.integers(0, 33, 20_290)
    personas = rng.integers(0, 32, 20_290)
    classification_intervals(gold, predicted, personas)
    start = time.process_time()
    for _ in range(10):
        classification_intervals(gold, predicted, personas)
    assert (time.process_time() - start) / 10 < 0.02  # 1 ms measured
