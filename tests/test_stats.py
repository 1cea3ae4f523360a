"""Means, intervals and classification, against scipy, scikit-learn and sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from kardiabench.emotions import EMOTIONS
from kardiabench.stats import (
    NO_LABEL,
    Estimate,
    classification,
    cluster_means,
    estimate,
    t_interval,
)

NAN = math.nan


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def codes(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# --- estimates ------------------------------------------------------------------------------------


def test_the_mean_is_that_of_persona_means_not_of_turns():
    found = estimate(floats(1, 1, 1, 1, 5), codes(0, 0, 0, 0, 1))
    assert found.mean == 3.0
    assert found.pooled == pytest.approx(9 / 5)
    assert (found.personas, found.scored, found.total, found.coverage) == (2, 5, 5, 1.0)


def test_the_interval_of_three_personas_by_hand():
    found = estimate(floats(2, 3, 4), codes(0, 1, 2))
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # of t on two degrees of freedom, in closed form
    margin = quantile * 1.0 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((3 - margin, 3 + margin), abs=1e-9)


values_and_clusters = st.lists(
    st.tuples(st.floats(-5, 5) | st.just(NAN), st.integers(0, 5)), min_size=1, max_size=40
)


@given(values_and_clusters, st.sampled_from([0.8, 0.95, 0.99]))
def test_mean_and_interval_equal_scipys(pairs, level):
    values, clusters = floats(*(v for v, _ in pairs)), codes(*(c for _, c in pairs))
    found = estimate(values, clusters, level)
    by_cluster = {c: [v for v, k in pairs if k == c and not math.isnan(v)] for c in clusters}
    means = [math.fsum(vs) / len(vs) for _, vs in sorted(by_cluster.items()) if vs]
    assert found.personas == len(means)
    assert found.total == len(pairs)
    if not means:
        assert (found.mean, found.low, found.high, found.pooled) == (None,) * 4
        return
    assert found.mean == pytest.approx(math.fsum(means) / len(means), abs=1e-12)
    known = [v for v, _ in pairs if not math.isnan(v)]
    assert found.scored == len(known)
    assert found.pooled == pytest.approx(math.fsum(known) / len(known), abs=1e-12)
    if len(means) < 2:
        assert (found.low, found.high) == (None, None)
        return
    error = scipy.stats.sem(means)
    low, high = (
        scipy.stats.t.interval(level, len(means) - 1, loc=np.mean(means), scale=error)
        if error
        else (found.mean, found.mean)
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_one_persona_has_a_mean_and_no_interval():
    found = estimate(floats(1, 2, 3), codes(0, 0, 0))
    assert (found.mean, found.low, found.high, found.personas) == (2.0, None, None, 1)
    assert t_interval(floats()) == (None, None)


def test_equal_persona_means_have_an_interval_of_no_width():
    found = estimate(floats(0.5, 0.5), codes(0, 1))
    assert (found.low, found.high) == (0.5, 0.5)


def test_what_is_missing_is_never_a_zero():
    found = estimate(floats(4, NAN, NAN, 2, NAN), codes(0, 0, 1, 2, 2))
    assert (found.mean, found.pooled, found.personas) == (3.0, 3.0, 2)
    assert (found.scored, found.total, found.coverage) == (2, 5, 0.4)


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_scored_is_none_everywhere(count):
    found = estimate(np.full(count, NAN), np.zeros(count, dtype=np.int64))
    assert found == Estimate(None, None, None, None, 0, 0, count)
    assert found.coverage == 0.0


def test_codes_may_have_gaps():
    assert cluster_means(floats(1, 3, 8), codes(7, 7, 2)).tolist() == [8.0, 2.0]


def test_the_order_of_clusters_codes_does_not_matter():
    values, clusters = floats(1, 2, 4, 8), codes(0, 0, 1, 2)
    renamed = estimate(values, 2 - clusters)
    assert renamed == estimate(values, clusters)


def test_false_alarms_are_as_rare_as_they_should_be_when_turns_cluster():
    """The interval misses the truth about one time in twenty, though turns are not independent."""
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12, dtype=np.int64), 40)
    misses = 0
    for _ in range(600):
        personas = random.normal(0, 0.5, 12)
        found = estimate(personas[clusters] + random.normal(0, 1, 480), clusters)
        misses += not found.low <= 0 <= found.high
    assert 0.025 < misses / 600 < 0.08


# --- classification -------------------------------------------------------------------------------


def test_no_replies_have_no_classification():
    assert classification([], []) is None


def test_a_small_case_by_hand():
    gold = ["sad", "sad", "sad", "proud"]
    found = classification(gold, ["sad", "proud", None, "proud"])
    assert (found.n, found.accuracy) == (4, 0.5)
    assert found.recall == {"proud": 1.0, "sad": pytest.approx(1 / 3)}
    # sad: precision 1, recall 1/3, F1 1/2; proud: precision 1/2, recall 1, F1 2/3
    assert found.macro_f1 == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.support == {"proud": 1, "sad": 3}
    sad = found.confusion[EMOTIONS.index("sad")]
    assert sad[EMOTIONS.index("sad")] == sad[EMOTIONS.index("proud")] == sad[-1] == 1
    assert sum(map(sum, found.confusion)) == 4


labels = st.sampled_from(EMOTIONS[:6])


@given(st.lists(st.tuples(labels, labels | st.none()), min_size=1, max_size=60))
def test_figures_equal_scikit_learns(pairs):
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    found = classification(gold, predicted)
    answers = [p or NO_LABEL for p in predicted]
    present = sorted(set(gold))
    assert found.accuracy == pytest.approx(np.mean([g == p for g, p in pairs]))
    assert found.macro_f1 == pytest.approx(
        f1_score(gold, answers, labels=present, average="macro", zero_division=0)
    )
    recalls = recall_score(gold, answers, labels=present, average=None, zero_division=0)
    assert list(found.recall) == present
    assert list(found.recall.values()) == pytest.approx(list(recalls))
    matrix = confusion_matrix(gold, answers, labels=[*EMOTIONS, NO_LABEL])
    assert found.confusion == matrix[:32].tolist()
    assert matrix[32].sum() == 0
    assert {k: v for k, v in found.support.items() if v} == found.support


def test_a_label_that_is_answered_and_never_gold_does_not_enter_the_mean_of_f1():
    found = classification(["sad", "sad"], ["sad", "joyful"])
    assert list(found.recall) == ["sad"]
    assert found.macro_f1 == pytest.approx(2 / 3)


def test_replies_that_name_nothing_count_as_wrong():
    found = classification(["sad", "proud"], [None, None])
    assert (found.accuracy, found.macro_f1) == (0.0, 0.0)
    assert [row[-1] for row in found.confusion].count(1) == 2


def test_every_label_named_right_is_one():
    found = classification(list(EMOTIONS), list(EMOTIONS))
    assert (found.accuracy, found.macro_f1) == (1.0, 1.0)
    assert found.confusion == [[int(i == j) for j in range(33)] for i in range(32)]
