"""A run's logs as columns: what counts, what is missing, and that no order shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rundata import StubJudge, make_item, make_manifest, make_run, make_turn, say

from kardiabench.manifests import read_manifest
from kardiabench.records import Dimension, Reply
from kardiabench.results import count, read_results, turn_order
from kardiabench.store import RunStore

UNIT = Dimension("d", 0.0, 1.0, "a number")
PAIR = (UNIT, Dimension("e", 1.0, 5.0, "a level"))


def results_of(path, judges, lines, **manifest):
    make_run(path, make_manifest(judges, len(lines), **manifest), lines)
    return read_results(path, read_manifest(path))


def line(item, *verdicts):
    return (item.turn, item.reply, verdicts)


def test_columns_have_a_nan_where_there_is_no_score(tmp_path):
    judge = StubJudge(lambda _: {"d": 0.5, "e": None}, dimensions=PAIR)
    items = [make_item("d0"), make_item("d1"), make_item("d2", status="error")]
    failed = judge.verdict(items[1], status="unparsed", scores={"d": None, "e": None})
    lines = [line(items[0], judge.verdict(items[0])), line(items[1], failed), line(items[2])]
    results = results_of(tmp_path, [judge], lines, weights={"stub": 1.0})
    np.testing.assert_array_equal(results.column("stub", 0), [0.5, math.nan, math.nan])
    np.testing.assert_array_equal(results.column("stub", 1), [math.nan] * 3)
    np.testing.assert_array_equal(results.composites, [math.nan] * 3)


def test_a_zero_is_a_score_and_not_a_gap(tmp_path):
    judge = StubJudge(lambda _: {"d": 0.0})
    item = make_item()
    lines = [line(item, judge.verdict(item))]
    results = results_of(tmp_path, [judge], lines, weights={"stub": 1.0})
    assert results.composites.tolist() == [0.0]


def test_the_policy_of_the_manifest_decides_the_composite(tmp_path):
    judge = StubJudge(lambda _: {"d": 1.0, "e": None}, dimensions=PAIR)
    item = make_item()
    lines = [line(item, judge.verdict(item))]
    results = results_of(tmp_path, [judge], lines, weights={"stub": 1.0}, missing="zero")
    assert results.composites.tolist() == [0.5]


def test_turns_are_in_the_order_of_dialogues_and_then_of_numbers(tmp_path):
    items = [make_item(name, index) for name, index in (("d1", 0), ("d0", 10), ("d0", 9))]
    results = results_of(tmp_path, [StubJudge()], [line(item) for item in items])
    assert list(results.turns) == ["d0/9", "d0/10", "d1/0"]
    assert turn_order("a/b/12") == ("a/b", 12)


def test_personas_are_codes_by_name(tmp_path):
    turns = [make_turn(f"d{n}", persona=persona) for n, persona in enumerate("cabca")]
    lines = [(turn, Reply(turn.id, say()), ()) for turn in turns]
    results = results_of(tmp_path, [StubJudge()], lines)
    assert results.personas.tolist() == [2, 0, 1, 2, 0]
    assert results.personas is results.personas  # worked out once, not once a column


def test_a_reply_is_read_for_its_emotion_and_its_problems(tmp_path):
    items = [
        make_item("d0", text=say("Proud!")),
        make_item("d1", text="no spans at all"),
        make_item("d2", text=say("happy"), status="truncated"),
        make_item("d3", text="", status="error", detail="timeout: 3 s"),
    ]
    turns = results_of(tmp_path, [StubJudge()], [line(item) for item in items]).turns
    assert [turn.predicted for turn in turns.values()] == ["proud", None, None, None]
    assert [len(turn.problems) for turn in turns.values()] == [0, 4, 0, 0]
    assert [turn.error_kind for turn in turns.values()] == ["", "", "", "timeout"]


def test_verdicts_of_judges_that_the_manifest_does_not_name_are_left_out(tmp_path):
    item, known, unknown = make_item(), StubJudge(), StubJudge(name="unknown")
    lines = [line(item, known.verdict(item), unknown.verdict(item))]
    assert list(results_of(tmp_path, [known], lines).turns["d0/0"].verdicts) == ["stub"]


def test_a_verdict_on_a_turn_that_has_no_reply_is_left_out(tmp_path):
    item, judge = make_item(), StubJudge()
    results_of(tmp_path, [judge], [line(item)])
    stranger = make_item("d9")
    with RunStore(tmp_path) as store:
        store.append_verdicts(stranger.reply, [judge.verdict(stranger)])
    results = read_results(tmp_path, read_manifest(tmp_path))
    assert list(results.turns) == ["d0/0"]


def test_a_run_without_a_reply_has_empty_columns(tmp_path):
    results = results_of(tmp_path, [StubJudge()], [], weights={"stub": 1.0})
    assert results.column("stub", 0).shape == results.composites.shape == (0,)
    assert results.personas.dtype == np.int64


@pytest.mark.parametrize("values", [[], ["b", "a", "b"]])
def test_counts_are_by_name(values):
    assert list(count(values).items()) == sorted((v, values.count(v)) for v in set(values))
