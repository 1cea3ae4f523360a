"""`kardiabench.load_run`: a run as pandas tables that agree with its summary."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from rundata import StubJudge, make_item, make_manifest, make_run, say

import kardiabench
from kardiabench.errors import RunError
from kardiabench.frames import REPLY_COLUMNS, VERDICT_COLUMNS
from kardiabench.manifests import read_manifest
from kardiabench.records import Dimension, Reply, Usage
from kardiabench.store import RunStore
from kardiabench.summary import summarise

FIVE = tuple(Dimension(name, 1.0, 5.0, "a level") for name in ("warmth", "tact", "never"))
RUBRIC = StubJudge(
    lambda item: {"warmth": 1.0 + len(item.turn.id) % 5, "tact": 2.0, "never": None}, "rubric", FIVE
)
FORMAT = StubJudge(lambda item: {"d": float(item.turn.index % 2)}, "format")
JUDGES = [FORMAT, RUBRIC]
WEIGHTS = {"format": 1.0}


def judged(item, *judges):
    return (item.turn, item.reply, [judge.verdict(item) for judge in judges or JUDGES])


@pytest.fixture
def run(tmp_path):
    items = [make_item("d0", index, say("proud")) for index in (10, 0, 2)]
    items.append(make_item("d1", 0, "no spans", usage=Usage(1, 2, 3, cost=0.5), latency=1.5))
    error = make_item("d1", 1, "", status="error", detail="timeout: 3 s")
    lines = [*map(judged, items), (error.turn, error.reply, [])]
    make_run(tmp_path, make_manifest(JUDGES, 5, WEIGHTS), lines)
    return kardiabench.load_run(tmp_path)


ORDER = ["d0/0", "d0/2", "d0/10", "d1/0", "d1/1"]


def test_replies_have_one_row_a_turn_in_order(run):
    frame = run.replies
    assert list(frame.index) == ORDER
    assert [frame.index.name, *frame.columns] == list(REPLY_COLUMNS)
    row = frame.loc["d1/0"]
    assert (row["text"], row["latency"], row["cost"]) == ("no spans", 1.5, 0.5)
    assert frame.loc["d0/0", "predicted_emotion"] == "proud"
    assert frame.loc["d0/0", "response"] == "I am here."
    assert frame["status"].tolist() == ["ok"] * 4 + ["error"]
    assert "missing:emotion" in row["problems"]


def test_verdicts_have_one_row_a_dimension(run):
    frame = run.verdicts
    assert list(frame.columns) == list(VERDICT_COLUMNS)
    assert len(frame) == 4 * 4
    assert frame["score"].dtype == "float64"
    assert frame.loc[frame["dimension"] == "never", "score"].isna().all()
    assert frame["turn_id"].drop_duplicates().tolist() == ORDER[:4]
    assert frame["evidence"].iloc[0] == "read d0/0"


def test_scores_have_a_column_a_dimension_and_the_composite(run):
    frame = run.scores
    assert list(frame.index) == ORDER
    assert set(frame.columns) == {
        "format.d", "rubric.warmth", "rubric.tact", "rubric.never", "composite"
    }  # fmt: skip
    assert (frame.dtypes == "float64").all()
    assert frame.loc["d1/1"].isna().all()
    assert frame["composite"].tolist()[:4] == frame["format.d"].tolist()[:4] == [0, 0, 0, 0]


def test_scores_agree_with_the_pooled_means_of_the_summary(run):
    summary = summarise(run.path, run.manifest)
    for judge, numbers in summary["judges"].items():
        for name, found in numbers["dimensions"].items():
            column = run.scores[f"{judge}.{name}"]
            assert column.count() == found["scored"]
            if found["pooled"] is None:
                assert column.isna().all()
            else:
                assert column.mean() == pytest.approx(found["pooled"], abs=1e-12)
    composite = run.scores["composite"]
    assert composite.mean() == pytest.approx(summary["composite"]["pooled"], abs=1e-12)


def test_the_mean_of_persona_means_can_be_had_from_the_frames(run):
    summary = summarise(run.path, run.manifest)
    means = run.scores.join(run.replies["persona_id"]).groupby("persona_id")["rubric.warmth"].mean()
    found = summary["judges"]["rubric"]["dimensions"]["warmth"]["mean"]
    assert means.mean() == pytest.approx(found)


def test_what_was_replaced_does_not_show(run):
    turn = make_item("d0", 2).turn
    with RunStore(run.path) as store:
        store.append_reply(turn, Reply(turn.id, "again"))
    again = kardiabench.load_run(run.path)
    assert again.replies.loc["d0/2", "text"] == "again"
    assert again.scores.loc["d0/2"].isna().all()
    assert "d0/2" not in set(again.verdicts["turn_id"])


def test_verdicts_of_an_older_judge_do_not_show(run):
    item = make_item("d0", 0, say("proud"))
    with RunStore(run.path) as store:
        old = FORMAT.verdict(item, scores={"d": 1.0}, fingerprint="older")
        stranger = StubJudge(name="stranger").verdict(item)
        store.append_verdicts(item.reply, [old, stranger])
    again = kardiabench.load_run(run.path)
    assert again.scores.loc["d0/0", "format.d"] == 0.0
    assert set(again.verdicts["judge"]) == {"format", "rubric"}


def test_a_judge_that_always_fails_has_columns_of_nan(tmp_path):
    item = make_item()
    failed = [judge.verdict(item, status="error", scores=nothing(judge)) for judge in JUDGES]
    make_run(tmp_path, make_manifest(JUDGES, 1), [(item.turn, item.reply, failed)])
    run = kardiabench.load_run(tmp_path)
    assert run.scores.isna().all(axis=None)
    assert len(run.scores.columns) == 5
    assert run.verdicts["status"].tolist() == ["error"] * 4


def nothing(judge):
    return {dimension.name: None for dimension in judge.dimensions}


def test_a_run_without_a_line_has_empty_tables_with_all_columns(tmp_path):
    make_run(tmp_path, make_manifest(JUDGES, 3), [])
    run = kardiabench.load_run(str(tmp_path))
    assert (len(run.replies), len(run.verdicts), len(run.scores)) == (0, 0, 0)
    assert [run.replies.index.name, *run.replies.columns] == list(REPLY_COLUMNS)
    assert "composite" in run.scores.columns
    assert isinstance(run.scores, pd.DataFrame)


def test_the_summary_comes_along(run):
    with pytest.raises(RunError, match="has no summary yet"):
        _ = run.summary
    with RunStore(run.path) as store:
        store.save_summary(summarise(run.path, store.manifest))
    assert run.summary["turns"]["answered"] == 5
    assert run.manifest == read_manifest(run.path)


def test_a_score_is_never_a_zero_for_a_gap(run):
    assert math.isnan(run.scores.loc["d1/1", "composite"])


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        kardiabench.load_run(tmp_path)
