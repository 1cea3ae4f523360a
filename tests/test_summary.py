"""`summary.json`: numbers that do not depend on the order of the logs, and gaps that stay gaps."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rundata import StubJudge, make_item, make_manifest, make_run, make_turn, say

from kardiabench.emotions import EMOTIONS
from kardiabench.manifests import read_manifest
from kardiabench.records import Dimension, Item, Reply, Usage
from kardiabench.store import (
    REPLIES,
    SUMMARY,
    VERDICTS,
    RunStore,
    iterate_replies,
    iterate_verdicts,
)
from kardiabench.summary import SCHEMA_VERSION, summarise

UNIT = Dimension("d", 0.0, 1.0, "a number")
FIVE = tuple(Dimension(name, 1.0, 5.0, "a level") for name in "ab")
FORMAT = StubJudge(lambda _: {"d": 1.0}, "format")
RUBRIC = StubJudge(lambda item: {"a": 1.0 + len(item.reply.text) % 5, "b": None}, "rubric", FIVE)
JUDGES = [FORMAT, RUBRIC]
WEIGHTS = {"rubric": 0.7, "format": 0.1}


def judged(item: Item):
    return (item.turn, item.reply, [judge.verdict(item) for judge in JUDGES])


def item_of(number: int, text: str | None = None, **reply) -> Item:
    turn = make_turn(f"d{number // 2}", number % 2, persona=f"p{number % 3}")
    return Item(turn, Reply(turn.id, say(EMOTIONS[number % 5]) if text is None else text, **reply))


def summary_of(path, lines, planned=None, **manifest):
    manifest = {"weights": WEIGHTS} | manifest
    make_run(path, make_manifest(JUDGES, planned or len(lines), **manifest), lines)
    return summarise(path, read_manifest(path))


# --- order ----------------------------------------------------------------------------------------


def run_with_history():
    """Lines of twelve turns, some replaced, some judged twice, with costs that do not add up."""
    lines = []
    for number in range(12):
        usage = Usage(1, 10, 5, cost=0.1 * number)
        item = item_of(number, usage=usage, latency=0.1 + number)
        if number % 4 == 0:
            older = Item(item.turn, replace(item.reply, text="an older reply", status="truncated"))
            lines.append(judged(older))
        if number % 3 == 0:
            failed = [judge.verdict(item, status="error", scores={}) for judge in JUDGES]
            lines.append((item.turn, item.reply, failed))
        lines.append(judged(item))
    return lines


def key_of_reply(line: bytes):
    return json.loads(line)["reply"]["turn_id"]


def key_of_verdict(line: bytes):
    record = json.loads(line)
    return record["verdict"]["turn_id"], record["verdict"]["judge"], record["reply_digest"]


def shuffled(lines: list[bytes], key, random) -> list[bytes]:
    """Any order of lines that keeps those about the same thing in theirs."""
    by_key = defaultdict(list)
    for line in lines:
        by_key[key(line)].append(line)
    slots = [key(line) for line in lines]
    random.shuffle(slots)
    return [by_key[slot].pop(0) for slot in slots]


@given(st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_log_lines_does_not_change_a_byte(tmp_path_factory, random):
    path = tmp_path_factory.mktemp("s")
    expected = summary_of(path, run_with_history(), planned=12)
    assert expected["turns"]["answered"] == 12
    for log, key in ((REPLIES, key_of_reply), (VERDICTS, key_of_verdict)):
        lines = (path / log).read_bytes().splitlines(keepends=True)
        (path / log).write_bytes(b"".join(shuffled(lines, key, random)))
    with RunStore(path) as store:
        store.save_summary(expected)
        before = (path / SUMMARY).read_bytes()
        store.save_summary(summarise(path, store.manifest))
    assert (path / SUMMARY).read_bytes() == before


def test_a_manifest_in_memory_and_one_read_back_give_the_same_bits(tmp_path):
    judges = [StubJudge(lambda _, n=n: {"d": n / 7}, name) for n, name in enumerate("zya", 1)]
    weights = {"z": 0.1, "y": 0.2, "a": 0.7}
    lines = [
        (item.turn, item.reply, [judge.verdict(item) for judge in judges])
        for item in map(item_of, range(5))
    ]
    manifest = make_manifest(judges, 5, weights)
    make_run(tmp_path, manifest, lines)
    assert summarise(tmp_path, manifest) == summarise(tmp_path, read_manifest(tmp_path))


def test_nothing_but_timing_depends_on_the_clock(tmp_path):
    def at(latency):
        lines = [judged(item_of(n, latency=latency * n)) for n in range(4)]
        return summary_of(tmp_path / str(latency), lines)

    one, other = at(1.0), at(2.0)
    assert one.pop("timing") == {"latency_seconds": {"p50": 2.0, "p95": 2.9}}
    assert other.pop("timing") != one
    assert one == other


# --- what is missing ------------------------------------------------------------------------------


def test_error_replies_are_missing_coverage_and_not_zeros(tmp_path):
    good = [judged(item_of(n, say("sad"))) for n in range(3)]
    error = item_of(3, "", status="error", detail="timeout: 3 s")
    skipped = [judge.verdict(error, status="skipped", scores={}) for judge in JUDGES]
    summary = summary_of(tmp_path, [*good, (error.turn, error.reply, skipped)])
    assert summary["turns"]["by_status"] == {"error": 1, "ok": 3}
    assert summary["turns"]["errors_by_kind"] == {"timeout": 1}
    found = summary["judges"]["format"]
    assert found["verdicts"] == {"ok": 3, "skipped": 1}
    assert found["coverage"] == 0.75
    numbers = found["dimensions"]["d"]
    assert (numbers["mean"], numbers["scored"], numbers["total"]) == (1.0, 3, 4)
    assert numbers["coverage"] == 0.75
    assert (summary["emotion"]["n"], summary["emotion"]["accuracy"]) == (3, 1.0)
    assert (summary["emotion"]["coverage"], summary["format"]["coverage"]) == (0.75, 0.75)
    assert (summary["format"]["replies"], summary["format"]["malformed"]) == (3, 0)


def test_refused_and_truncated_and_shapeless_replies_are_the_models_own_score(tmp_path):
    items = [
        item_of(0, say("sad")),
        item_of(1, "I cannot help with that.", status="refused", detail="refusal"),
        item_of(2, "<|understanding_begin|>They", status="truncated"),
        item_of(3, "just text"),
    ]
    summary = summary_of(tmp_path, [judged(item) for item in items])
    assert summary["emotion"]["n"] == 4
    assert summary["emotion"]["accuracy"] == 0.25
    assert summary["emotion"]["coverage"] == 1.0
    assert [row[-1] for row in summary["emotion"]["confusion"]].count(3) == 1
    assert summary["format"]["malformed"] == 3
    assert summary["format"]["problems"]["missing:response"] == 3
    assert summary["format"]["rates"]["unclosed:understanding"] == 0.25


def test_coverage_is_of_all_planned_turns_while_a_run_is_under_way(tmp_path):
    summary = summary_of(tmp_path, [judged(item_of(n)) for n in range(3)], planned=12)
    assert summary["complete"] is False
    assert (summary["turns"]["planned"], summary["turns"]["answered"]) == (12, 3)
    assert summary["judges"]["format"]["coverage"] == 0.25
    assert summary["judges"]["format"]["dimensions"]["d"]["coverage"] == 0.25
    assert summary["composite"]["total"] == 12
    assert summary["emotion"]["coverage"] == 0.25


def test_a_run_is_complete_when_every_judge_has_judged_every_turn(tmp_path):
    lines = [judged(item_of(n)) for n in range(3)]
    assert summary_of(tmp_path / "a", lines)["complete"] is True
    turn, reply, verdicts = lines[-1]
    lacking = [*lines[:-1], (turn, reply, verdicts[:1])]
    assert summary_of(tmp_path / "b", lacking)["complete"] is False


def test_a_dimension_that_is_never_measured_has_no_mean(tmp_path):
    summary = summary_of(tmp_path, [judged(item_of(n)) for n in range(3)])
    found = summary["judges"]["rubric"]["dimensions"]["b"]
    assert (found["mean"], found["low"], found["pooled"], found["coverage"]) == (
        None,
        None,
        None,
        0,
    )
    assert summary["judges"]["rubric"]["coverage"] == 1.0
    assert summary["composite"]["mean"] is None


def test_the_composite_of_default_weights_says_which_judge_is_absent(tmp_path):
    weights = {"format": 1.0, "emotion": 1.0, "rubric": 1.0}
    summary = summary_of(tmp_path, [judged(item_of(0))], weights=weights)
    assert summary["composite"]["judges_absent"] == ["emotion"]
    assert summary["composite"]["mean"] is None


def test_a_run_without_a_single_reply_has_a_summary(tmp_path):
    summary = summary_of(tmp_path, [], planned=4)
    assert summary["emotion"] is None
    assert summary["complete"] is False
    assert summary["timing"] == {"latency_seconds": None}
    json.dumps(summary, allow_nan=False)


def test_a_run_of_nothing_but_errors_has_a_summary_without_numbers(tmp_path):
    items = [item_of(n, "", status="error", detail="auth: no key") for n in range(4)]
    summary = summary_of(tmp_path, [(item.turn, item.reply, []) for item in items])
    assert summary["emotion"] is None
    assert summary["format"]["replies"] == 0
    assert summary["turns"]["errors_by_kind"] == {"auth": 4}
    json.dumps(summary, allow_nan=False)


def test_skipped_rows_are_counted(tmp_path):
    assert summary_of(tmp_path, [judged(item_of(0))], skipped=7)["skipped_rows"] == 7


# --- the numbers ----------------------------------------------------------------------------------


def test_the_mean_is_over_personas_and_the_pooled_one_over_turns(tmp_path):
    levels = {"p0": [1.0, 1.0, 1.0], "p1": [5.0]}
    lines = []
    for persona, scores in levels.items():
        for number, level in enumerate(scores):
            turn = make_turn(f"{persona}{number}", persona=persona)
            item = Item(turn, Reply(turn.id, say()))
            verdict = RUBRIC.verdict(item, scores={"a": level, "b": level})
            lines.append((turn, item.reply, [FORMAT.verdict(item), verdict]))
    found = summary_of(tmp_path, lines)["judges"]["rubric"]["dimensions"]["a"]
    assert (found["mean"], found["pooled"], found["personas"]) == (3.0, 2.0, 2)
    assert found["low"] < 3.0 < found["high"]


def test_usage_is_summed_exactly_and_apart_for_model_and_judges(tmp_path):
    items = [item_of(n, usage=Usage(1, 10, 5, 2, 1, cost=0.1)) for n in range(10)]
    usage = summary_of(tmp_path, [judged(item) for item in items])["usage"]
    assert usage["model"] == {
        "calls": 10,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "reasoning_tokens": 20,
        "cached_tokens": 10,
        "cost": 1.0,
    }
    assert usage["judges"]["rubric"]["cost"] == 2.5


def test_a_price_that_nobody_knows_is_null(tmp_path):
    usage = summary_of(tmp_path, [judged(item_of(0))])["usage"]
    assert usage["model"]["cost"] is None


def test_the_logs_of_a_summary_are_its_only_source(tmp_path):
    lines = run_with_history()
    summary = summary_of(tmp_path, lines, planned=12)
    latest = {stored.reply.turn_id: stored.reply for _, stored in iterate_replies(tmp_path)}
    assert summary["turns"]["by_status"] == {"ok": 12}
    assert summary["usage"]["model"]["cost"] == pytest.approx(
        sum(reply.usage.cost for reply in latest.values())
    )
    assert len(list(iterate_verdicts(tmp_path))) > 24
    assert summary["judges"]["format"]["verdicts"] == {"ok": 12}
    assert summary["schema_version"] == SCHEMA_VERSION
    assert summary["protocol"] == read_manifest(tmp_path)["protocol_id"]


def test_no_reply_text_can_put_a_nan_or_anything_else_into_the_summary(tmp_path):
    hostile = ["{{ 7*7 }}", "</script>", "\x1b[2J", "NaN", say("score 5"), "\0", ""]
    lines = [judged(item_of(n, text)) for n, text in enumerate(hostile)]
    text = json.dumps(summary_of(tmp_path, lines), allow_nan=False)
    assert not any(word in text for word in ("7*7", "script>", "\\u001b", "NaN", "score 5"))


def test_an_item_made_by_hand_is_what_the_summary_reads(tmp_path):
    item = make_item("d0", 0, say("sad"))
    summary = summary_of(tmp_path, [judged(item)])
    assert summary["emotion"]["recall"] == {"sad": 1.0}
    assert summary["turns"]["gold_emotion_source"] == {"span": 1}
