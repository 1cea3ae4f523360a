"""The variance split, against the classical analysis, REML, and data of known parts."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kardiabench.stats import cluster_means
from kardiabench.variance import Repeats, advice, components

PERSONA, DIALOGUE, TURN = 0.3, 0.4, 0.8


def drawn(rng, personas, dialogues, turns, sds=(PERSONA, DIALOGUE, TURN)):
    """Values and codes; `dialogues` of each persona (a number or a list), `turns` of each."""
    persona_of = np.repeat(np.arange(personas), dialogues)
    dialogue = np.repeat(np.arange(len(persona_of)), turns)
    upper = rng.normal(0, sds[0], personas)[persona_of] + rng.normal(0, sds[1], len(persona_of))
    return upper[dialogue] + rng.normal(3, sds[2], len(dialogue)), persona_of[dialogue], dialogue


def reml(values, personas, dialogues):
    """Statsmodels' estimates: persona, dialogue, turn."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    frame = pd.DataFrame({"y": values, "p": personas, "d": dialogues})
    parts = {"d": "0 + C(d)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns near the edge of the parameters' space
        model = MixedLM.from_formula("y ~ 1", frame, groups="p", re_formula="1", vc_formula=parts)
        fit = model.fit(reml=True, gtol=1e-8)
    return float(fit.cov_re.iloc[0, 0]), float(fit.vcomp[0]), float(fit.scale)


def raw(found):
    return found.persona.raw, found.dialogue.raw, found.turn.raw


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_balanced_design_gives_the_estimates_of_reml(seed):
    data = drawn(np.random.default_rng(seed), 8, 5, 4)
    found = components(*data)
    assert min(raw(found)) > 0
    assert raw(found) == pytest.approx(reml(*data), rel=2e-3)


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(2, 5), st.integers(0, 99))
def test_a_balanced_design_gives_the_classical_analysis(a, b, n, seed):
    values, personas, dialogues = drawn(np.random.default_rng(seed), a, b, n)
    cube = values.reshape(a, b, n)
    within = cube.var(axis=2, ddof=1).mean()
    between = n * cube.mean(axis=2).var(axis=1, ddof=1).mean()
    top = n * b * cube.mean(axis=(1, 2)).var(ddof=1)
    expected = (top - between) / (n * b), (between - within) / n, within
    found = components(values, personas, dialogues)
    assert raw(found) == pytest.approx(expected, abs=1e-9)
    assert (found.dialogue_share, found.turn_share) == pytest.approx((1 / b, 1 / (b * n)))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(0, 99))
def test_the_standard_error_is_that_of_the_t_interval_if_no_part_is_negative(sizes, seed):
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, 6, sum(sizes))
    values, personas, dialogues = drawn(rng, len(sizes), sizes, turns)
    found = components(values, personas, dialogues)
    parts = [part for part in (found.persona, found.dialogue, found.turn) if part]
    assume(all(part.raw >= 0 for part in parts))
    means = cluster_means(values, personas)
    seen = means.std(ddof=1) / math.sqrt(len(means))
    assert found.standard_error == pytest.approx(seen, rel=1e-9)


def test_unequal_sizes_do_not_bias_the_parts():
    rng = np.random.default_rng(5)
    dialogues = [2, 3, 5, 8, 13, 21]
    turns = rng.integers(1, 9, sum(dialogues))
    found = np.mean(
        [raw(components(*drawn(rng, 6, dialogues, turns))) for _ in range(2000)], axis=0
    )
    assert found == pytest.approx([PERSONA**2, DIALOGUE**2, TURN**2], rel=0.05)


def test_the_order_of_turns_and_gaps_in_codes_do_not_matter():
    rng = np.random.default_rng(6)
    values, personas, dialogues = drawn(rng, 4, 3, 5)
    order = rng.permutation(len(values))
    moved = components(values[order], 7 * personas[order] + 2, 3 * dialogues[order])
    assert raw(moved) == pytest.approx(raw(components(values, personas, dialogues)))


def test_dialogue_codes_may_start_anew_for_each_persona():
    values, personas, dialogues = drawn(np.random.default_rng(7), 4, 3, 5)
    assert components(values, personas, dialogues % 3) == components(values, personas, dialogues)


def test_missing_values_are_left_out():
    values, personas, dialogues = drawn(np.random.default_rng(8), 4, 3, 5)
    holes = values.copy()
    holes[::7] = np.nan
    seen = ~np.isnan(holes)
    expected = components(values[seen], personas[seen], dialogues[seen])
    assert components(holes, personas, dialogues) == expected
    assert expected.turn.number == seen.sum()


def test_a_negative_estimate_is_kept_and_counted_as_0():
    values = np.array([0.0, 2.0, 2.0, 0.0])  # dialogues and personas have the same mean
    found = components(values, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    assert (found.persona.variance, found.persona.raw) == (0.0, -1.0)
    several = components(np.tile(values, 2), np.repeat([0, 1], 4), np.repeat([0, 1, 2, 3], 2))
    assert several.dialogue.variance == 0.0 > several.dialogue.raw


def test_judging_again_splits_the_judges_noise_off_the_turns():
    rng = np.random.default_rng(9)
    values, personas, dialogues = drawn(rng, 10, 10, 6)
    judged = values + rng.normal(0, 0.5, (3, len(values)))
    repeats = Repeats(float(judged.var(axis=0, ddof=1).mean()), 3, len(values))
    found = components(judged.mean(axis=0), personas, dialogues, repeats)
    without = components(judged.mean(axis=0), personas, dialogues)
    assert found.judge.variance == pytest.approx(0.25, rel=0.1)
    assert found.turn.raw == pytest.approx(without.turn.raw - found.judge.variance / 3)
    assert found.turn.raw == pytest.approx(TURN**2, rel=0.15)
    assert found.standard_error == pytest.approx(without.standard_error)
    assert without.judge is None


def test_what_cannot_be_told_apart_is_none():
    values = np.arange(6.0) ** 2
    single = components(values, np.repeat([0, 1, 2], 2), np.arange(6))  # one turn a dialogue
    assert single.turn is None
    assert single.dialogue is not None
    assert single.standard_error is not None
    alone = components(values, np.repeat([0, 1, 2], 2), np.repeat([0, 1, 2], 2))  # one dialogue
    assert alone.dialogue is None
    assert alone.turn is not None
    one = components(values, np.zeros(6, dtype=int), np.repeat([0, 1, 2], 2))
    assert (one.persona, one.standard_error, advice(one)) == (None, None, None)
    assert components(np.full(3, np.nan), np.arange(3), np.arange(3)) is None


def test_advice_predicts_what_doubling_does():
    """Against the standard error by its formula, and t quantiles of tables."""
    found = components(*drawn(np.random.default_rng(10), 8, 6, 5))
    steps = {step.what: step for step in advice(found).steps}
    a, b, e = found.persona.variance, found.dialogue.variance, found.turn.variance
    assert found.standard_error == pytest.approx(math.sqrt((a + b / 6 + e / 30) / 8))
    assert steps["personas"].standard_error == pytest.approx(found.standard_error / math.sqrt(2))
    assert 1 - steps["personas"].narrower == pytest.approx(2.1314 / 2.3646 / 2**0.5, abs=1e-4)
    more = math.sqrt((a + b / 12 + e / 60) / 8)
    assert steps["dialogues"].standard_error == pytest.approx(more)
    assert steps["dialogues"].narrower == pytest.approx(1 - more / found.standard_error)
    assert "judgements" not in steps


def test_advice_names_first_what_helps_most():
    rng = np.random.default_rng(11)
    by_persona = advice(components(*drawn(rng, 16, 20, 8, sds=(1.0, 0.1, 0.1))))
    assert by_persona.steps[0].what == "personas"
    assert by_persona.sentence == (
        "The interval would be narrower by 31% with twice as many personas; "
        "less than 1% with twice as many dialogues of each persona."
    ).replace("31%", f"{by_persona.steps[0].narrower:.0%}")
    noisy = drawn(rng, 16, 2, 2, sds=(0.0, 0.0, 2.0))
    judged = advice(components(*noisy, Repeats(3.9, 1, 64)))
    assert [step.what for step in judged.steps][:1] == ["personas"]
    assert {step.what: step.narrower > 0.2 for step in judged.steps} == {
        "personas": True, "dialogues": True, "judgements": True,
    }  # fmt: skip


def test_no_spread_needs_no_advice():
    found = components(np.ones(8), np.repeat([0, 1], 4), np.repeat([0, 1, 2, 3], 2))
    assert found.standard_error == 0.0
    assert advice(found) is None


def test_the_test_split_takes_milliseconds():
    data = drawn(np.random.default_rng(12), 32, 80, 8)
    components(*data)
    start = time.process_time()
    for _ in range(10):
        components(*data)
    assert (time.process_time() - start) / 10 < 0.02  # 0.6 ms measured
