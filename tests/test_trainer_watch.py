"""What is watched at every step, and the concerns that come of it."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from training_rows import DIMENSIONS, EMOTION, FORMAT, RUBRIC, make_row, verdict

from trainer.groups import spearman
from trainer.watch import STEPS, concerns, new_concerns, repeated_share, watch, watched_steps


def group(name, rewards, tokens=None, **changes):
    """The candidates for one turn."""
    lengths = tokens or [10] * len(rewards)
    values = {"turn_id": name, "phase": "train"} | changes
    return [
        make_row(
            n,
            [verdict("format", format=reward), verdict("emotion", emotion=1.0)],
            composite=reward,
            reward=reward,
            tokens=length,
            **values,
        )
        for n, (reward, length) in enumerate(zip(rewards, lengths, strict=True))
    ]


def seen(*groups, dimensions=None):
    rows = [row for rows in groups for row in rows]
    return watch(rows, dimensions or {"format": FORMAT, "emotion": EMOTION})


# --- the numbers ----------------------------------------------------------------------------------


def test_shares_means_and_spreads_by_hand():
    found = seen(
        group("a", [0.0, 1.0], [10, 20]),
        group("b", [0.5, 0.5], [30, 40], status="truncated"),
        group("c", [None, 0.5]),
    )
    assert found["reward"] == 0.5
    assert found["masked_share"] == pytest.approx(1 / 6)
    assert found["truncated_share"] == pytest.approx(1 / 3)
    assert found["tokens"] == 20.0
    assert found["zero_spread_share"] == 0.5  # c has one reward only, which is no spread
    assert found["parts/format/mean"] == 0.5
    assert found["parts/format/spread"] == 0.25  # .5 in a, 0 in b
    assert found["parts/emotion/spread"] == 0.0
    assert found["parts/emotion/mean"] == 1.0


def test_the_correlation_with_length_is_that_within_groups():
    """Between groups long replies go with low rewards; within them with high ones."""
    found = seen(
        group("a", [0.8, 0.9, 1.0], [10, 11, 12]), group("b", [0.1, 0.2, 0.3], [90, 91, 92])
    )
    assert found["length_correlation"] == pytest.approx(1.0)
    found = seen(group("a", [0.3, 0.2, 0.1], [10, 11, 12]))
    assert found["length_correlation"] == pytest.approx(-1.0)


def test_a_group_of_one_has_no_part_in_the_correlation():
    group_of_four = group("a", [0.1, 0.9, 0.3, 0.5], [1, 5, 7, 30])
    alone = seen(group_of_four)["length_correlation"]
    assert 0 < alone < 1
    found = seen(group_of_four, *(group(f"b{n}", [0.5], [3]) for n in range(5)))
    assert found["length_correlation"] == alone


def test_what_is_undefined_is_left_out():
    assert watch([], DIMENSIONS) == {}
    found = seen(group("a", [None, None], text=""))
    assert found["masked_share"] == 1.0
    for name in ("reward", "length_correlation", "zero_spread_share", "repetition", "distinct_2"):
        assert name not in found
    assert "length_correlation" not in seen(group("a", [0.1, 0.9]))  # equal lengths
    assert "length_correlation" not in seen(group("a", [0.1], [1]), group("b", [0.9], [2]))


def test_a_judge_that_failed_has_no_part_and_no_zero():
    rows = [
        make_row(0, [verdict("rubric", empathy=5.0, safety=3.0)]),
        make_row(1, [verdict("rubric", "error", empathy=None, safety=None)]),
    ]
    found = watch(rows, {"rubric": RUBRIC})
    assert found["parts/rubric/mean"] == 0.75
    assert "parts/rubric/spread" not in found


def test_repetition_is_the_share_of_word_sequences_that_came_before():
    assert repeated_share("a b c d") == 0.0
    assert repeated_share("a b c") is None
    assert repeated_share("go on " * 5) == pytest.approx(5 / 7)  # 7 sequences, 2 distinct
    assert seen(group("a", [0.1, 0.2], text="go on " * 5))["repetition"] == pytest.approx(5 / 7)


def test_candidates_that_say_the_same_are_not_distinct():
    same = seen(group("a", [0.1, 0.2], text="I hear you well"))
    assert same["distinct_2"] == 0.5
    mixed = group("a", [0.1], text="I hear you") + group("a", [0.1], text="that sounds hard")
    assert seen(mixed)["distinct_2"] == 1.0


def test_steps_are_watched_one_by_one_without_evaluations():
    rows = [
        *group("a", [0.0, 1.0], step=1),
        *group("a", [0.5, 0.5], step=1, phase="eval"),
        *group("a", [0.5, 0.5], step=2),
    ]
    found = dict(watched_steps(iter(rows), {"format": FORMAT}))
    assert list(found) == [1, 2]
    assert [found[step]["zero_spread_share"] for step in (1, 2)] == [0.0, 1.0]


numbers = st.none() | st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
candidates = st.lists(
    st.tuples(st.integers(0, 3), numbers, st.integers(1, 30), st.text("ab ", max_size=20)),
    max_size=30,
)


@given(candidates, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_rows_changes_no_bit_and_every_share_is_one(cases, shuffler: random.Random):
    rows = [
        make_row(
            n,
            [verdict("format", format=reward)],
            turn_id=f"d{turn}/0",
            reward=reward,
            tokens=tokens,
            text=text,
        )
        for n, (turn, reward, tokens, text) in enumerate(cases)
    ]
    found = watch(rows, {"format": FORMAT})
    mixed = list(rows)
    shuffler.shuffle(mixed)
    assert watch(mixed, {"format": FORMAT}) == found
    assert np.isfinite(list(found.values())).all()
    for name in ("masked_share", "truncated_share", "zero_spread_share", "repetition"):
        assert 0.0 <= found.get(name, 0.0) <= 1.0
    assert -1.0 <= found.get("length_correlation", 0.0) <= 1.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_the_rank_correlation_is_scipys(pairs):
    first, second = np.array(pairs, dtype=np.float64).T
    found = spearman(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert found is None
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(first, second).statistic, abs=1e-12)


def test_a_step_of_256_candidates_costs_little():
    words = " ".join(f"w{n % 97}" for n in range(300))
    rows = [row for n in range(32) for row in group(f"d{n}", [0.1, 0.5, 0.9, 0.3] * 2, text=words)]
    watch(rows, DIMENSIONS)
    started = time.perf_counter()
    watch(rows, DIMENSIONS)
    assert time.perf_counter() - started < 0.001 * len(rows)


# --- concerns -------------------------------------------------------------------------------------

CALM = {
    "length_correlation": 0.1,
    "zero_spread_share": 0.2,
    "masked_share": 0.0,
    "truncated_share": 0.05,
    "repetition": 0.02,
    "distinct_2": 0.8,
    "kl": 0.05,
    "parts/format/mean": 0.9,
    "parts/format/spread": 0.2,
    "parts/rubric/mean": 0.6,
    "parts/rubric/spread": 0.1,
}

WORRYING = [
    ({"length_correlation": 0.6}, "longer candidates get more reward"),
    ({"length_correlation": -0.6}, "shorter candidates get more reward"),
    ({"zero_spread_share": 0.9}, "the same reward in 90% of the groups"),
    ({"masked_share": 0.15}, "15% of the candidates have no reward"),
    ({"truncated_share": 0.5}, "50% of the candidates are cut off"),
    ({"repetition": 0.3}, "30% of the four-word sequences repeat"),
    ({"kl": 1.5}, "1.50 nats a token away"),
    ({"parts/rubric/spread": 0.001}, "the judge rubric gives all candidates of a group"),
]


@pytest.mark.parametrize(("values", "words"), WORRYING)
def test_a_limit_crossed_for_several_steps_is_a_concern_and_for_fewer_is_none(values, words):
    bad = CALM | values
    (sentence,) = concerns([CALM] * 3 + [bad] * STEPS)
    assert words in sentence
    assert "5 steps in a row" in sentence
    assert concerns([CALM] * 9 + [bad] * (STEPS - 1)) == []
    assert concerns([bad] * STEPS + [CALM]) == []


@pytest.mark.parametrize("values", [values for values, _ in WORRYING])
def test_a_concern_is_new_once(values):
    bad = CALM | values
    history = [CALM] * 3 + [bad] * (STEPS + 2)
    told = [len(new_concerns(history[: n + 1])) for n in range(len(history))]
    assert sum(told) == 1
    assert told.index(1) == 3 + STEPS - 1


def test_what_is_not_measured_is_no_concern():
    assert concerns([]) == []
    assert concerns([{}] * 20) == []
    assert concerns([{"reward": 0.5}] * 20) == []
    assert concerns([CALM] * 20) == []


def test_a_judge_that_gives_everybody_full_marks_has_not_collapsed():
    solved = CALM | {"parts/format/mean": 1.0, "parts/format/spread": 0.0}
    assert concerns([solved] * STEPS) == []


def test_a_component_that_is_flat_while_all_are_flat_is_the_groups_concern():
    flat = CALM | {"parts/format/spread": 0.0, "parts/rubric/spread": 0.0, "zero_spread_share": 1.0}
    (sentence,) = concerns([flat] * STEPS)
    assert "100% of the groups" in sentence


def test_candidates_that_become_alike_are_a_concern():
    alike = CALM | {"distinct_2": 0.3}
    (sentence,) = concerns([CALM] * STEPS + [alike] * STEPS)
    assert "have become alike: 0.30" in sentence
    assert concerns([CALM] * (STEPS + 1) + [alike] * (STEPS - 1)) == []
    assert concerns([CALM] * STEPS + [alike] * (STEPS - 1)) == []
    assert len(concerns([CALM] * 3 * STEPS + [alike] * STEPS)) == 1
    assert concerns([alike] * 2 * STEPS) == []  # they were so from the beginning


def test_random_rewards_raise_no_concern():
    """Sixteen steps of four groups of eight, with nothing to find."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        history = [
            seen(
                *(
                    group(f"d{n}", list(rng.random(8)), [int(x) for x in rng.integers(5, 60, 8)])
                    for n in range(4)
                ),
                dimensions={"format": FORMAT},
            )
            for _ in range(16)
        ]
        assert all(not concerns(history[: n + 1]) for n in range(16))
