"""The report on a judge and people: intervals, reasons, and the worked table of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from kardiabench.agreement import mean_correlation
from kardiabench.judge_agreement import Rated, report

PAGE = Path(__file__).resolve().parent.parent / "docs" / "calibration.md"


def rated(judge=None, people=None, words=None, dimensions=("empathy", "safety")) -> Rated:
    random = np.random.default_rng(5)
    truth = random.integers(2, 5, (80, 1, len(dimensions)))
    given_people = np.clip(truth + random.integers(-1, 2, (80, 3, len(dimensions))), 1, 5)
    given_judge = np.clip(truth[:, 0] + random.integers(-1, 2, truth[:, 0].shape), 1, 5)
    return Rated(
        dimensions,
        (given_judge if judge is None else judge).astype(float),
        (given_people if people is None else people).astype(float),
        random.integers(5, 60, 80).astype(float) if words is None else words,
        5.0,
    )


def test_every_figure_has_a_value_near_its_interval():
    found = report(rated(), resamples=300)
    for one in found["dimensions"].values():
        for name, figure in one["figures"].items():
            assert figure["reason"] is None, name
            assert figure["low"] <= figure["value"] + 0.05
            assert figure["value"] <= figure["high"] + 0.05
    assert set(found["halo"]) == {"judge", "people", "difference"}


def test_the_same_seed_gives_the_same_intervals():
    assert report(rated(), 200, seed=3) == report(rated(), 200, seed=3)
    assert report(rated(), 200, seed=3) != report(rated(), 200, seed=4)


def test_a_judge_that_says_one_thing_has_null_figures_with_the_reason_and_the_rest_stays():
    flat = rated().judge.copy()
    flat[:, 1] = 4.0
    found = report(rated(judge=flat), resamples=200)["dimensions"]
    figures = found["safety"]["figures"]
    assert figures["spearman"]["value"] is None
    assert figures["spearman"]["reason"] == "the judge gives one score only"
    assert figures["offset"]["value"] is not None
    assert figures["alpha_people"]["value"] is not None
    assert found["empathy"]["figures"]["spearman"]["value"] is not None


def test_one_rater_leaves_the_agreement_of_people_undefined_with_the_reason():
    found = report(rated(people=rated().people[:, :1]), resamples=200)["dimensions"]["empathy"]
    for name in ("alpha_people", "expert_ceiling", "kappa_left_out"):
        assert found["figures"][name]["value"] is None
        assert found["figures"][name]["reason"] == "there is one rater only"
    assert found["figures"]["kappa"]["value"] is not None


def test_missing_judgements_are_coverage_and_missing_lengths_have_their_reason():
    judge = rated().judge.copy()
    judge[:20, 0] = np.nan
    found = report(rated(judge=judge, words=np.full(80, np.nan)), resamples=200)
    empathy = found["dimensions"]["empathy"]
    assert (empathy["rated"], empathy["judged"], empathy["coverage"]) == (80, 60, 0.75)
    slope = empathy["figures"]["excess_length_slope"]
    assert slope["reason"] == "the lengths of the responses are not known"


def test_a_judge_that_judged_nothing_has_no_figure_and_the_reason():
    found = report(rated(judge=np.full((80, 2), np.nan)), resamples=100)["dimensions"]["empathy"]
    assert found["coverage"] == 0.0
    assert found["figures"]["kappa"]["value"] is None
    assert found["figures"]["kappa"]["reason"] == "no item was rated by both the judge and people"


def test_a_lover_of_length_and_a_judge_with_a_halo_stand_out():
    base = rated()
    longer = base.judge + np.log2(base.words / 20)[:, None] * 0.8
    steep = report(rated(judge=longer), resamples=300)["dimensions"]["empathy"]["figures"]
    assert steep["excess_length_slope"]["low"] > 0.3
    same = np.repeat(base.judge[:, :1], 2, axis=1)
    assert report(rated(judge=same), resamples=300)["halo"]["difference"]["low"] > 0.2
    judge, people, difference = mean_correlation(same, base.people.mean(axis=1))
    assert (judge, difference) == pytest.approx((1.0, 1.0 - people))


def worked() -> tuple[np.ndarray, dict[str, float]]:
    text = PAGE.read_text("utf-8").split("## A worked table")[1]
    rows = re.findall(r"^\| \d+ \| (\d) \| (\d) \| (\d) \| (\d) \|$", text, re.MULTILINE)
    figures = dict(re.findall(r"^\| ([a-z_]+) \| [^|]*\| (-?\d+\.\d+) \|$", text, re.MULTILINE))
    return np.array(rows, dtype=float), {name: float(value) for name, value in figures.items()}


def test_the_worked_table_of_the_docs_is_what_the_libraries_and_the_report_say():
    table, shown = worked()
    assert table.shape == (12, 4)
    people, judge = table[:, :3], table[:, 3]
    median, mean = np.median(people, axis=1), people.mean(axis=1)
    scores = np.column_stack([judge, mean]).ravel()
    pair = pd.DataFrame({"i": np.repeat(range(12), 2), "r": [0, 1] * 12, "s": scores})
    iccs = pingouin.intraclass_corr(pair, "i", "r", "s").set_index("Type")["ICC"]
    libraries = {
        "kappa": cohen_kappa_score(median.astype(int), judge.astype(int), weights="quadratic"),
        "spearman": stats.spearmanr(judge, mean).statistic,
        "icc_consistency": iccs["ICC(C,1)"],
        "icc_agreement": iccs["ICC(A,1)"],
        "alpha_people": krippendorff.alpha(people.T, level_of_measurement="ordinal"),
        "alpha_with_judge": krippendorff.alpha(table.T, level_of_measurement="ordinal"),
        "offset": float(np.mean(judge - mean)),
        "ceiling_judge": float(np.mean(judge == 5)),
        "ceiling_people": float(np.mean(people == 5)),
    }
    known = Rated(("d",), judge[:, None], people[..., None], np.full(12, np.nan), 5.0)
    figures = report(known, resamples=100)["dimensions"]["d"]["figures"]
    assert libraries.keys() < shown.keys()
    for name, value in shown.items():
        assert figures[name]["value"] == pytest.approx(value, abs=5e-4), name
        if name in libraries:
            assert libraries[name] == pytest.approx(value, abs=5e-4), name
