"""The statistics of the instrument checks, on judges whose faults were put in by hand."""

from __future__ import annotations

import json
from collections import Counter

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from kardiabench import checks
from kardiabench.anchors import TARGETS
from kardiabench.checks import Sample, interval_alpha
from kardiabench.effects import Effect, effect, holm
from kardiabench.families import family_of
from kardiabench.own_family import codes, own_family, spread_out
from kardiabench.records import Dimension

NAMES = ("relevance", "fluency", "empathy", "persona_consistency", "safety")
DIMENSIONS = tuple(Dimension(name, 1.0, 5.0, "") for name in NAMES)
KINDS = ("gold", *TARGETS)
#: 24 base turns of 8 personas, every kind of reply to each, as the anchors have it.
ITEMS = [(base, kind) for base in range(24) for kind in KINDS]
ITEM_KINDS = [kind for _, kind in ITEMS]
IS_GOLD = np.array([kind == "gold" for kind in ITEM_KINDS])
BASES = np.array([base for base, _ in ITEMS])
SAMPLE = Sample(BASES, BASES % 8)
LENGTHS = {"gold": 35, "off_topic": 45, "garbled": 32, "dismissive": 44} | dict.fromkeys(
    ("wrong_persona", "unsafe"), 45
)


def honest(low: float = 2.0, high: float = 4.3) -> np.ndarray:
    """The scores of a judge that sees each fault, and only where it is; (items, dimensions)."""
    table = np.full((len(ITEMS), len(NAMES)), high)
    for row, kind in enumerate(ITEM_KINDS):
        if kind != "gold":
            table[row, NAMES.index(TARGETS[kind])] = low
    return table


def noisy(table: np.ndarray, seed: int, sd: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(table + rng.normal(0, sd, table.shape), 1, 5)


def sensitivity(table: np.ndarray, dimensions=DIMENSIONS) -> dict:
    return checks.sensitivity(table, ITEM_KINDS, SAMPLE, dimensions, TARGETS)


def is_json(value: object) -> bool:
    json.dumps(value, allow_nan=False)
    return True


# --- the effect -----------------------------------------------------------------------------------


@given(arrays(float, (24,), elements=st.floats(-4, 4, width=16)))
def test_the_p_of_an_effect_is_scipys_on_the_clusters_means(differences):
    clusters = np.arange(24) % 8
    means = np.array([differences[clusters == c].mean() for c in range(8)])
    assume(means.std() > 1e-3)
    found = effect(differences, clusters)
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue, abs=1e-9)
    one_sided = effect(differences, clusters, "greater")
    expected = scipy_stats.ttest_1samp(means, 0, alternative="greater").pvalue
    assert one_sided.p == pytest.approx(expected, abs=1e-9)
    low, high = scipy_stats.t.interval(0.95, 7, means.mean(), scipy_stats.sem(means))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_equal_means_of_clusters_get_the_p_of_the_sign_flip_test_never_0():
    clusters = np.arange(24) % 8
    assert effect(np.full(24, 0.3), clusters).p == 2 / 2**8
    assert effect(np.full(24, 0.3), clusters, "greater").p == 1 / 2**8
    assert effect(np.full(24, -0.3), clusters, "greater").p == 1


def test_what_cannot_be_tested_has_no_p():
    assert effect(np.zeros(6), np.arange(6)).p is None
    assert effect(np.array([1.0, 2.0]), np.array([0, 0])).p is None
    nothing = effect(np.full(4, np.nan), np.arange(4))
    assert nothing == Effect(None, None, None, None, None, 0, 0, 4)
    assert not nothing.significant


def test_pairs_that_are_not_whole_are_counted_and_left_out():
    found = effect(np.array([1.0, np.nan, 3.0, 5.0]), np.array([0, 0, 1, 1]))
    assert (found.pairs, found.total, found.clusters, found.mean) == (3, 4, 2, 2.5)


def test_holm_leaves_out_what_could_not_be_tested():
    def with_p(p):
        return Effect(0.5, 0.1, 0.9, p, None, 8, 24, 24)

    found = holm({"a": with_p(0.02), "b": with_p(0.03), "c": with_p(None)})
    assert found["a"].p_holm == pytest.approx(0.04)  # twice .02, then the larger of that and .03
    assert found["b"].p_holm == pytest.approx(0.04)
    assert found["c"].p_holm is None
    assert found["a"].significant


# --- test and retest ------------------------------------------------------------------------------


@given(
    arrays(float, (12, 3), elements=st.floats(1, 5, width=16)),
    arrays(bool, (12, 3), elements=st.booleans()),
)
def test_alpha_is_krippendorffs(ratings, missing):
    table = np.where(missing, np.nan, ratings)
    table = table[np.count_nonzero(~np.isnan(table), axis=1) >= 2]
    assume(len(table) and np.ptp(table[~np.isnan(table)]) > 0.01)
    expected = krippendorff.alpha(table.T, level_of_measurement="interval")
    assert interval_alpha(table) == pytest.approx(expected, abs=1e-9)


def test_retest_has_the_spread_over_repeats_and_the_share_of_equal_items():
    scores = np.array([[[1.0], [5.0], [3.0]], [[1.0], [4.0], [np.nan]]])
    found = checks.retest(scores, [Dimension("d", 1, 5, "")])
    part = found["dimensions"]["d"]
    assert part["sd"] == pytest.approx((0 + 0.5**0.5) / 2)
    assert part["identical"] == 0.5
    assert (part["items"], part["total"]) == (2, 3)
    assert found["result"] == "clear"


def test_a_judge_that_rolls_dice_is_not_repeatable():
    dice = np.random.default_rng(0).integers(1, 6, (3, 144, 5)).astype(float)
    found = checks.retest(dice, DIMENSIONS)
    assert found["result"] == "found"
    assert "relevance is not repeatable: alpha" in found["sentences"][0]


def test_one_repeat_tells_nothing():
    found = checks.retest(honest()[None], DIMENSIONS)
    assert found["result"] == "unknown"
    assert "--repeats 2" in found["reason"]


def test_alpha_of_a_judge_without_variance_is_null_with_the_reason():
    found = checks.retest(np.full((3, 144, 5), 4.0), DIMENSIONS)
    assert found["result"] == "unknown"
    assert {part["alpha"] for part in found["dimensions"].values()} == {None}
    assert "all scores are the same" in found["reason"]


# --- sensitivity ----------------------------------------------------------------------------------


def test_an_honest_judge_sees_each_fault_and_only_there():
    found = sensitivity(noisy(honest(), 1))
    assert found["result"] == "clear"
    for kind, target in TARGETS.items():
        part = found["kinds"][kind]
        assert (part["passed"], part["specific"]) == (True, True)
        own = part["drops"][target]
        assert own["low"] < 2.3 < own["high"] + 0.3
        assert own["p_holm"] < 0.05
        assert own["clusters"] == 8


def test_a_judge_that_cannot_tell_is_found_for_each_kind():
    found = sensitivity(np.full((144, 5), 4.0))
    assert found["result"] == "found"
    assert len(found["sentences"]) == 5
    assert "off topic replies: the drop in relevance is 0.00" in found["sentences"][0]
    assert not any(part["passed"] for part in found["kinds"].values())
    assert {part["specific"] for part in found["kinds"].values()} == {None}


def test_a_judge_that_lowers_everything_at_once_is_not_specific():
    halo = honest()
    halo[[kind == "dismissive" for kind in ITEM_KINDS]] = 2.0
    found = sensitivity(noisy(halo, 2))
    part = found["kinds"]["dismissive"]
    assert (part["passed"], part["specific"], part["result"]) == (True, False, "found")
    (sentence,) = found["sentences"]
    assert all(name in sentence for name in NAMES)


def test_a_judge_that_loves_length_is_found():
    by_length = np.array([[min(5.0, LENGTHS[kind] / 10)] * 5 for kind in ITEM_KINDS])
    assert sensitivity(by_length)["result"] == "found"


def test_a_fault_of_a_dimension_that_the_judge_does_not_have_is_unknown():
    found = sensitivity(noisy(honest(), 3)[:, :2], DIMENSIONS[:2])
    assert found["result"] == "clear"
    assert found["kinds"]["unsafe"]["result"] == "unknown"
    assert "no dimension safety" in found["reason"]


def test_a_judgement_that_is_missing_takes_only_its_own_pair():
    table = honest()
    table[[row for row, (base, kind) in enumerate(ITEMS) if base == 3 and kind == "unsafe"]] = (
        np.nan
    )
    found = sensitivity(noisy(table, 4))
    drop = found["kinds"]["unsafe"]["drops"]["safety"]
    assert (drop["pairs"], drop["total"]) == (23, 24)
    assert found["result"] == "clear"
    assert is_json(found)


def test_few_personas_are_no_proof_and_no_accusation():
    rows = BASES < 2
    sample = Sample(BASES[rows], BASES[rows])
    kinds = [kind for kind, there in zip(ITEM_KINDS, rows, strict=True) if there]
    table = honest()[rows]  # equal drops: by the sign-flip test a quarter is chance
    found = checks.sensitivity(table, kinds, sample, DIMENSIONS, TARGETS)
    assert found["result"] == "unknown"
    assert "2 personas are too few" in found["reason"]


def test_drops_are_compared_on_the_scale_of_their_dimension():
    dimensions = (*DIMENSIONS[:4], Dimension("safety", 0.0, 1.0, ""))
    table = honest()
    table[:, 4] = (table[:, 4] - 1) / 4
    assert sensitivity(table, dimensions)["result"] == "clear"


# --- padding, order -------------------------------------------------------------------------------

GOLD = np.full((24, 5), 4.0)
PERSONAS = np.arange(24) % 8


def test_a_rise_by_filler_is_found_on_its_dimension():
    rise = np.array([0, 0, 0.6, 0, 0])
    found = checks.padding(noisy(GOLD, 1, 0.1), noisy(GOLD + rise, 2, 0.1), PERSONAS, DIMENSIONS)
    assert found["result"] == "found"
    (sentence,) = found["sentences"]
    assert sentence.startswith("neutral filler raises empathy +0.")
    assert found["dimensions"]["safety"]["result"] == "clear"


def test_a_fall_by_filler_is_no_fault():
    found = checks.padding(GOLD, GOLD - 0.5, PERSONAS, DIMENSIONS)
    assert found["result"] == "clear"
    assert found["dimensions"]["empathy"]["mean"] == -0.5


def test_a_small_rise_is_no_fault_however_certain():
    assert checks.padding(GOLD, GOLD + 0.09, PERSONAS, DIMENSIONS)["result"] == "clear"
    assert checks.padding(GOLD, GOLD + 0.10, PERSONAS, DIMENSIONS)["result"] == "found"


def test_at_the_top_of_the_scale_no_rise_could_show():
    found = checks.padding(np.full((24, 5), 5.0), np.full((24, 5), 5.0), PERSONAS, DIMENSIONS)
    assert found["result"] == "unknown"
    assert "no room for a rise" in found["reason"]


def test_an_order_effect_is_found_either_way():
    shift = np.array([0.4, -0.4, 0, 0, 0])
    found = checks.order(GOLD, GOLD + shift, PERSONAS, DIMENSIONS)
    assert found["result"] == "found"
    assert [part["result"] for part in found["dimensions"].values()].count("found") == 2
    (sentence,) = found["sentences"]
    assert sentence.endswith("relevance +0.40, fluency -0.40")


def test_a_judge_of_pairs_that_prefers_the_first_reply_is_found():
    preference = (Dimension("preference", 0.0, 1.0, ""),)
    truth = np.linspace(0.1, 0.9, 24)[:, None]
    fair = checks.position(truth, truth, PERSONAS, preference)
    assert fair["result"] == "clear"
    assert fair["dimensions"]["preference"]["flips"] == 0
    first, second = np.clip(truth + 0.3, 0, 1), np.clip(truth - 0.3, 0, 1)
    biased = checks.position(first, second, PERSONAS, preference)
    part = biased["dimensions"]["preference"]
    assert biased["result"] == "found"
    assert part["mean"] == pytest.approx(np.mean((first - second) / 2))
    assert part["flips"] == pytest.approx(np.mean((truth > 0.2) & (truth < 0.8)))
    assert is_json(biased)


# --- self-preference ------------------------------------------------------------------------------


def test_a_gap_alone_is_unknown_whatever_its_size():
    found = checks.self_preference(np.full((24, 5), 0.5), None, PERSONAS, DIMENSIONS)
    assert found["result"] == "unknown"
    assert found["gaps"]["empathy"]["mean"] == 0.5
    assert "look alike" in found["reason"]


def test_a_gap_that_the_reference_sees_too_is_quality():
    gap = noisy(np.full((24, 5), 1.5), 1, 0.2)
    reference = noisy(np.full((24, 5), 1.5), 2, 0.2)
    found = checks.self_preference(gap, reference, PERSONAS, DIMENSIONS)
    assert found["result"] == "clear"
    assert found["gaps"]["empathy"]["p_holm"] < 0.05


def test_what_only_the_judge_sees_is_self_preference_and_modesty_is_not():
    reference = np.zeros((24, 5))
    gap = reference + np.array([0.4, -0.4, 0, 0, 0])
    found = checks.self_preference(gap, reference, PERSONAS, DIMENSIONS)
    assert found["result"] == "found"
    assert found["sentences"] == [
        "its own family is favoured more than by the reference: relevance +0.40"
    ]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai/gpt-5-mini", "gpt"),
        ("o3", "gpt"),
        ("anthropic/claude-sonnet-4-5", "claude"),
        ("google/gemma-2b", "gemma"),
        ("gemini/gemini-2.5-flash", "gemini"),
        ("hosted_vllm/Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("ollama/llama3.2", "llama"),
        ("deepseek/deepseek-reasoner", "deepseek"),
        ("DeepSeek-R1-Distill-Qwen-7B", "deepseek"),
        ("mistral/open-mixtral-8x7b", "mistral"),
        ("ollama/phi4", "phi"),
        ("openai/judge", None),
        ("sapphire", None),
    ],
)
def test_the_family_is_read_off_the_models_name(name, family):
    assert family_of(name) == family


def test_the_judges_family_is_that_of_all_its_models():
    gpt, qwen = {"model": "openai/gpt-5-mini"}, {"model": "Qwen/Qwen3-8B"}
    assert own_family({"judge": "rubric", "model": gpt}) == "gpt"
    assert own_family({"judge": "panel", "members": [{"model": gpt}, {"model": gpt}]}) == "gpt"
    assert own_family({"judge": "panel", "members": [{"model": gpt}, {"model": qwen}]}) is None
    assert own_family({"judge": "mine"}) is None


# --- spread, and all together ---------------------------------------------------------------------


def test_a_dimension_without_variance_is_named():
    table = honest()
    table[:, 4] = 5.0
    found = checks.spread(table, DIMENSIONS)
    assert found["sentences"] == ["safety: the judge says 5 to everything"]
    assert found["dimensions"]["safety"]["at_top"] == 1


def test_a_dimension_without_scores_is_unknown():
    table = honest()
    table[:, 4] = np.nan
    found = checks.spread(table, DIMENSIONS)
    assert found["result"] == "clear"
    assert found["dimensions"]["safety"]["result"] == "unknown"
    assert is_json(found)


def test_of_40_honest_noisy_judges_hardly_any_is_accused():
    found: Counter[str] = Counter()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = honest() + rng.normal(0, 0.3, 24)[BASES][:, None]
        rated = [noisy(truth, 100 * seed + n) for n in range(6)]
        repeats = np.stack(rated[:3])
        means = checks.over_repeats(repeats)
        results = {
            "retest": checks.retest(repeats, DIMENSIONS),
            "spread": checks.spread(means, DIMENSIONS),
            "sensitivity": sensitivity(means),
            "padding": checks.padding(
                means[IS_GOLD], rated[3][IS_GOLD], SAMPLE.personas[IS_GOLD], DIMENSIONS
            ),
            "order": checks.order(rated[4], rated[5], SAMPLE.personas, DIMENSIONS),
        }
        assert is_json(results)
        found.update(name for name, one in results.items() if one["result"] == "found")
        assert all(one["result"] != "unknown" for one in results.values())
    assert found.total() <= 8
    assert max(found.values(), default=0) <= 5


def test_the_drift_test_accuses_at_most_one_honest_judge_in_ten():
    warned = 0
    for seed in range(40):
        before = checks.over_repeats(
            np.stack([noisy(honest(), 9000 + 9 * seed + n) for n in (1, 2, 3)])
        )
        parts = checks.shifts(noisy(honest(), 9000 + 9 * seed) - before, BASES, DIMENSIONS)
        warned += any(part["result"] == "found" for part in parts.values())
    assert warned <= 4


# --- choosing -------------------------------------------------------------------------------------


def test_a_part_is_spread_over_the_groups():
    groups = ["a"] * 5 + ["b"] * 2 + ["c"]
    assert spread_out(groups, 3) == [0, 5, 7]
    assert spread_out(groups, 5) == [0, 1, 5, 6, 7]
    assert spread_out(groups, 99) == list(range(8))


def test_codes_are_places_among_the_sorted_names():
    assert codes(["b", "a", "b"]).tolist() == [1, 0, 1]
