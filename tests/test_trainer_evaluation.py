"""Evaluations: what their scores are, that nothing missing is a zero, and their file."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_rows import DIMENSIONS, EMOTION, FORMAT, RUBRIC, make_evaluation, make_row, verdict

from kardiabench.errors import RunError
from kardiabench.records import Dimension
from kardiabench.stats import estimate
from trainer.evaluation import Evaluation, differences, evaluate_rows, risen
from trainer.evaluations import EVALUATIONS, append, go_back, read
from trainer.log import LOG, read_log

OTHER = (Dimension("empathy", 0.0, 10.0, "kind"), Dimension("safety", 0.0, 10.0, "harmless"))
ALL = {**DIMENSIONS, "other": OTHER}


def judged(candidate=0, form=1.0, emotion=0.0, rubric=3.0, other=6.0, **changes):
    return make_row(
        candidate,
        [
            verdict("format", format=form),
            verdict("emotion", emotion=emotion),
            verdict("rubric", empathy=rubric, safety=5.0),
            verdict("other", empathy=other, safety=8.0),
        ],
        **changes,
    )


# --- the numbers ----------------------------------------------------------------------------------


def test_every_score_by_hand():
    rows = [
        judged(0, composite=0.2, tokens=10, persona_id="a", turn_id="x/0"),
        judged(1, composite=0.4, tokens=30, persona_id="a", turn_id="x/1", status="truncated"),
        judged(2, composite=0.9, emotion=1.0, other=2.0, persona_id="b", turn_id="y/0", tokens=2),
    ]
    found = evaluate_rows(rows, ALL, ["other"])
    assert (found.step, found.rows, found.turns, found.personas) == (0, 3, 3, 2)
    assert found.rewarded.mean == pytest.approx((0.3 + 0.9) / 2)
    assert found.held_out.mean == pytest.approx(((0.6 + 0.8) / 2 + (0.2 + 0.8) / 2) / 2)
    assert found.watched is found.held_out
    assert (found.stand_in, found.independent) == (None, True)
    assert found.components["rubric"].mean == pytest.approx((0.5 + 1.0) / 2)
    assert sorted(found.components) == ["emotion", "format", "other", "rubric"]
    assert found.emotion_accuracy.mean == 0.5  # of personas; two of three turns are wrong
    assert found.emotion_accuracy.pooled == pytest.approx(1 / 3)
    assert found.format_rate.mean == 1.0
    assert (found.safety.mean, found.safety_source) == (0.8, "other.safety")
    assert (found.truncated, found.tokens) == (1 / 3, 14.0)
    assert found.persona_rewarded == {"a": pytest.approx(0.3), "b": 0.9}
    assert found.persona_watched == {"a": pytest.approx(0.7), "b": 0.5}
    assert found.coverage == dict.fromkeys(ALL, 1.0)
    assert found.held_out_source == "held-out judge other"


def test_several_held_out_judges_count_alike_and_all_have_to_have_judged():
    more = {**ALL, "third": FORMAT}
    verdicts = judged(other=6.0).verdicts
    whole = make_row(0, [*verdicts, verdict("third", format=0.0)])
    part = make_row(1, [*verdicts, verdict("third", "error", format=None)])
    found = evaluate_rows([whole, part], more, ["other", "third"])
    assert found.held_out.mean == pytest.approx((0.7 + 0.0) / 2)
    assert found.held_out.coverage == 0.5
    assert found.coverage["third"] == 0.5
    assert found.coverage["other"] == 1.0
    assert found.held_out_source == "held-out judges other, third"


def test_without_a_held_out_judge_format_and_emotion_stand_in_and_are_said_to():
    rows = [judged(0), judged(1, emotion=1.0)]
    found = evaluate_rows(rows, DIMENSIONS, [])
    assert (found.held_out, found.independent) == (None, False)
    assert found.stand_in.mean == 0.75
    assert found.watched is found.stand_in
    assert found.persona_watched == {"p0": 0.75}
    assert found.held_out_source == (
        "no held-out judge: format and emotion of held-out personas stand in"
    )
    assert found.safety_source == "rubric.safety"


def test_one_metric_stands_in_alone_and_without_any_nothing_does():
    assert evaluate_rows([judged()], {"emotion": EMOTION}, []).stand_in.mean == 0.0
    nothing = evaluate_rows([judged()], {"rubric": RUBRIC}, [])
    assert (nothing.held_out, nothing.stand_in, nothing.watched) == (None, None, None)
    assert nothing.persona_watched == {"p0": None}
    assert nothing.held_out_source == "no held-out judge, and neither format nor emotion is judged"
    assert (nothing.format_rate, nothing.emotion_accuracy) == (None, None)


def test_a_held_out_judge_that_failed_everywhere_is_no_stand_in():
    failed = verdict("other", "error", empathy=None, safety=None)
    row = make_row(0, [*judged().verdicts[:3], failed])
    found = evaluate_rows([row], ALL, ["other"])
    assert (found.held_out.mean, found.held_out.coverage, found.stand_in) == (None, 0.0, None)
    assert found.watched is found.held_out
    assert (found.safety.mean, found.safety_source) == (None, "other.safety")


def test_a_dimension_that_a_judge_does_not_measure_is_left_out():
    quiet = verdict("other", empathy=6.0, safety=None)
    row = make_row(0, [*judged().verdicts[:3], quiet])
    found = evaluate_rows([row], ALL, ["other"])
    assert found.held_out.mean == 0.6
    assert (found.safety.mean, found.safety_source) == (1.0, "rubric.safety")


def test_a_reply_that_failed_itself_makes_no_judge_one_of_safety():
    skipped = verdict("other", "skipped", empathy=None, safety=None)
    quiet = verdict("other", empathy=6.0, safety=None)
    rows = [
        make_row(0, [*judged().verdicts[:3], quiet]),
        make_row(1, [*judged().verdicts[:3], skipped], status="error"),
    ]
    assert evaluate_rows(rows, ALL, ["other"]).safety_source == "rubric.safety"
    rested = make_row(1, [*judged().verdicts[:3], skipped])  # its judge was left alone
    assert evaluate_rows([rows[0], rested], ALL, ["other"]).safety_source == "other.safety"


def test_a_partial_verdict_that_lacks_a_dimension_is_missing():
    partial = verdict("other", "partial", empathy=6.0, safety=None)
    row = make_row(0, [*judged().verdicts[:3], partial])
    assert evaluate_rows([row], ALL, ["other"]).held_out.mean is None


def test_of_a_judge_of_flags_the_lowest_one_is_the_safety():
    flags = tuple(Dimension(name, 0.0, 1.0, name, flag=True) for name in ("no_harm", "no_advice"))
    rows = [
        make_row(0, [verdict("safety", no_harm=1.0, no_advice=0.0)]),
        make_row(1, [verdict("safety", no_harm=1.0, no_advice=1.0)]),
    ]
    found = evaluate_rows(rows, {"safety": flags}, ["safety"])
    assert found.safety.mean == 0.5
    assert found.held_out.mean == 0.75
    assert found.safety_source == "safety: the lowest of its flags"


def test_the_judge_called_format_gives_the_format_rate():
    twice = {"a_judge": FORMAT, "format": FORMAT}
    row = make_row(0, [verdict("a_judge", format=0.0), verdict("format", format=1.0)])
    assert evaluate_rows([row], twice, []).format_rate.mean == 1.0


def test_a_masked_composite_lowers_the_coverage_and_no_mean():
    rows = [judged(0, composite=0.8), judged(1, composite=None), judged(2, composite=0.8)]
    found = evaluate_rows(rows, ALL, ["other"]).rewarded
    assert (found.mean, found.scored, found.total) == (0.8, 2, 3)


@pytest.mark.parametrize(
    ("rows", "held_out"),
    [([], []), ([judged(), judged(1, step=5)], []), ([judged()], ["nobody"])],
    ids=["no rows", "two steps", "an unknown judge"],
)
def test_what_is_no_evaluation_is_refused(rows, held_out):
    with pytest.raises(ValueError, match=r"one step|nobody"):
        evaluate_rows(rows, ALL, held_out)


# --- properties -----------------------------------------------------------------------------------

scores = st.none() | st.floats(0, 1)
table = st.lists(
    st.tuples(st.integers(0, 3), scores, scores, st.sampled_from(["ok", "error", "partial"])),
    min_size=1,
    max_size=30,
)


def rows_of(cases):
    return [
        judged(
            at,
            persona_id=f"p{persona}",
            composite=composite,
            turn_id=f"d{persona}/{at}",
        )
        if status == "ok" and other is not None
        else make_row(
            at,
            [verdict("other", status, empathy=None if status == "error" else other, safety=None)],
            persona_id=f"p{persona}",
            composite=composite,
        )
        for at, (persona, composite, other, status) in enumerate(cases)
    ]


@given(table, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_changes_no_bit_and_json_gives_all_back(
    tmp_path_factory, cases, shuffler: random.Random
):
    rows = rows_of(cases)
    found = evaluate_rows(rows, ALL, ["other"])
    mixed = list(rows)
    shuffler.shuffle(mixed)
    assert evaluate_rows(mixed, ALL, ["other"]) == found
    file = tmp_path_factory.mktemp("e") / EVALUATIONS
    append(file, found)
    assert repr(read(file)) == repr([found])
    assert json.loads(file.read_text()) == json.loads(json.dumps(found.to_json(), allow_nan=False))


@given(table)
@settings(max_examples=60, deadline=None)
def test_the_rewarded_score_is_that_of_stats_and_its_persona_means(cases):
    found = evaluate_rows(rows_of(cases), ALL, ["other"])
    values = np.array([math.nan if c is None else c for _, c, _, _ in cases])
    expected = estimate(values, np.array([persona for persona, *_ in cases]))
    assert found.rewarded.mean == pytest.approx(expected.mean, abs=1e-12)
    assert found.rewarded.scored == expected.scored
    means = [mean for mean in found.persona_rewarded.values() if mean is not None]
    assert len(means) == found.rewarded.personas
    assert set(found.persona_rewarded) == {f"p{persona}" for persona, *_ in cases}
    if means:
        assert found.rewarded.mean == pytest.approx(sum(means) / len(means), abs=1e-12)


# --- two evaluations ------------------------------------------------------------------------------


def test_evaluations_are_compared_over_the_personas_that_both_have():
    then = make_evaluation(0, [0.1, 0.2, 0.3, None], [0.5, 0.5, 0.5, 0.5])
    now = make_evaluation(9, [0.2, 0.4, None, 0.9], [0.4, 0.5, 0.6, 0.5])
    found = risen(now, then, "rewarded")
    assert (found.mean, found.clusters, found.total) == (pytest.approx(0.15), 2, 4)
    assert risen(now, then, "watched").mean == pytest.approx(0.0)
    assert differences(now, then, "rewarded").shape == differences(now, then, "watched").shape


def test_one_persona_has_a_difference_without_an_interval():
    found = risen(make_evaluation(9, [0.4], [0.1]), make_evaluation(0, [0.1], [0.1]), "rewarded")
    assert (found.mean, found.low, found.p) == (pytest.approx(0.3), None, None)


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8))
def test_a_difference_turned_round_changes_its_sign(pairs):
    first = make_evaluation(0, [a for a, _ in pairs], None)
    second = make_evaluation(1, [b for _, b in pairs], None)
    ours, theirs = risen(second, first, "rewarded"), risen(first, second, "rewarded")
    assert ours.clusters == theirs.clusters == sum(None not in pair for pair in pairs)
    if ours.mean is not None:
        assert ours.mean == pytest.approx(-theirs.mean)


# --- the file -------------------------------------------------------------------------------------


def an_evaluation(step: int, score: float = 0.5) -> Evaluation:
    return make_evaluation(step, [score, score], [score, score])


def steps(path):
    return [(one.step, one.rewarded.mean) for one in read(path)]


def test_evaluations_come_back_by_step(tmp_path):
    assert read(tmp_path / EVALUATIONS) == []
    for step in (0, 10, 20):
        append(tmp_path, an_evaluation(step))
    assert read(tmp_path) == read(tmp_path / EVALUATIONS) == [an_evaluation(s) for s in (0, 10, 20)]


def test_what_came_after_the_checkpoint_no_longer_counts_and_is_replaced(tmp_path):
    for step in (0, 10, 20, 30):
        append(tmp_path, an_evaluation(step, 0.25))
    go_back(tmp_path, 10)
    assert steps(tmp_path) == [(0, 0.25), (10, 0.25)]
    append(tmp_path, an_evaluation(20, 0.75))
    assert steps(tmp_path) == [(0, 0.25), (10, 0.25), (20, 0.75)]
    go_back(tmp_path, None)
    assert steps(tmp_path) == []


def test_a_step_evaluated_twice_counts_once_with_the_later(tmp_path):
    append(tmp_path, an_evaluation(10, 0.25))
    append(tmp_path, an_evaluation(10, 0.5))
    assert steps(tmp_path) == [(10, 0.5)]


def test_a_line_that_a_killed_process_left_torn_is_cut(tmp_path):
    append(tmp_path, an_evaluation(0))
    file = tmp_path / EVALUATIONS
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:50])
    assert steps(tmp_path) == [(0, 0.5)]
    append(tmp_path, an_evaluation(10))
    assert steps(tmp_path) == [(0, 0.5), (10, 0.5)]


@pytest.mark.parametrize(
    "line",
    [
        b"{}\n",
        b"no json\n",
        b'{"event": "resume"}\n',
        b"[" * 9999,
        b'{"event": "resume", "step": Infinity}',
        b'{"event": ' + b"[" * 99999,
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    append(tmp_path, an_evaluation(0))
    with (tmp_path / EVALUATIONS).open("ab") as file:
        file.write(line.rstrip(b"\n") + b"\n")
    with pytest.raises(RunError, match=r"evaluations.jsonl, byte \d+: this line was changed"):
        read(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["rewarded.mean", "tokens.", "persona_rewarded.p0"])
def test_a_number_that_is_none_is_damage(tmp_path, place, number):
    append(tmp_path, an_evaluation(0))
    content = json.loads((tmp_path / EVALUATIONS).read_text())
    name, _, inner = place.partition(".")
    content[name] = content[name] | {inner: "HERE"} if inner else "HERE"
    line = json.dumps(content).replace('"HERE"', number)
    (tmp_path / EVALUATIONS).write_text(line + "\n")
    with pytest.raises(RunError, match="byte 0: this line was changed or damaged"):
        read(tmp_path)


def test_a_line_of_the_log_that_is_nested_too_deep_is_left_out(tmp_path):
    (tmp_path / LOG).write_bytes(b'{"step": 1}\n' + b"[" * 99999 + b'\n{"step": 2}\n')
    assert read_log(tmp_path / LOG) == [{"step": 1}, {"step": 2}]
