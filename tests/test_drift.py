"""Drift: runs have their judges score the frozen anchors and compare with the judge cards."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli, Result, until
from openai_server import OpenAIServer, unauthorized
from requests_seen import is_judge
from rowdata import make_row, write_rows
from rundata import StubJudge, make_manifest, make_run, say

from kardiabench.anchors import Anchor, anchors_fingerprint, load_anchors
from kardiabench.drift import drift, instruments
from kardiabench.manifests import read_manifest
from kardiabench.records import Dimension, Verdict
from kardiabench.store import verdict_lines

PLUGIN = Path(__file__).with_name("instrument_plugin.py")
DIMENSION = (Dimension("d", 1.0, 5.0, ""),)
ANCHORS = load_anchors()


# --- the comparison -------------------------------------------------------------------------------


def verdict(score: float | None, status: str = "ok") -> Verdict:
    return Verdict("t/0", "stub", "f", {"d": score}, status)


def card(scores: dict[str, float | None], mark: str | None = None) -> dict[str, Any]:
    section = {name: {"d": {"mean": mean, "n": 3}} for name, mean in scores.items()}
    return {"anchors": {"fingerprint": mark or anchors_fingerprint(), "scores": section}}


BEFORE = {anchor.id: 3.0 for anchor in ANCHORS}


def wobble(shift: float) -> dict[str, Verdict]:
    """Scores now: a shift, and a tenth up or down by base turn."""
    turns = list(dict.fromkeys(anchor.item.turn.id for anchor in ANCHORS))
    ups = {turn: 0.1 * (-1) ** place for place, turn in enumerate(turns)}
    return {a.id: verdict(3.0 + shift + ups[a.item.turn.id]) for a in ANCHORS}


@pytest.mark.parametrize(("shift", "warning"), [(0.11, True), (-0.11, True), (0.09, False)])
def test_a_significant_shift_of_a_tenth_either_way_is_a_warning(
    shift: float, warning: bool
) -> None:
    found = drift(wobble(shift), card(BEFORE), DIMENSION)
    part = found["dimensions"]["d"]
    assert (found["compared"], found["warning"], part["warning"]) == (True, warning, warning)
    assert part["shift"] == pytest.approx(shift)
    assert part["low"] < shift < part["high"]
    assert (part["turns"], part["anchors"]) == (24, 144)


def test_a_large_shift_that_may_be_chance_is_none() -> None:
    now = wobble(0.0) | {anchor.id: verdict(5.0) for anchor in ANCHORS[:12]}
    found = drift(now, card(BEFORE), DIMENSION)
    assert found["dimensions"]["d"]["shift"] > 0.1
    assert not found["warning"]


def test_failed_judgements_are_missing_coverage_never_noughts() -> None:
    now = wobble(0.0) | {a.id: verdict(None, "error") for a in ANCHORS if a.kind == "unsafe"}
    found = drift(now, card(BEFORE), DIMENSION)
    assert (found["scored"], found["anchors"]) == (120, 144)
    assert found["coverage"] == pytest.approx(120 / 144)
    assert found["dimensions"]["d"]["anchors"] == 120
    assert found["dimensions"]["d"]["shift"] == pytest.approx(0, abs=1e-9)


def test_anchors_that_the_card_has_no_score_of_are_left_out() -> None:
    before = BEFORE | {anchor.id: None for anchor in ANCHORS[:6]}
    assert drift(wobble(0.2), card(before), DIMENSION)["dimensions"]["d"]["turns"] == 23


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (None, "has no card"),
        ({"check": {}}, "no scores of the anchors"),
        ({"anchors": {"scores": 3}}, "no scores of the anchors"),
        (card(BEFORE, "0" * 16), "other anchors"),
    ],
)
def test_without_a_baseline_nothing_is_compared_and_the_reason_is_told(
    known: dict[str, Any] | None, reason: str
) -> None:
    found = drift(wobble(1.0), known, DIMENSION)
    assert (found["compared"], found["warning"], found["dimensions"]) == (False, False, {})
    assert reason in found["reason"]
    assert found["coverage"] == 1.0


def test_nothing_scored_is_nothing_shifted() -> None:
    found = drift({a.id: verdict(None, "error") for a in ANCHORS}, card(BEFORE), DIMENSION)
    part = found["dimensions"]["d"]
    assert (found["coverage"], part["shift"], part["p"], part["warning"]) == (0, None, None, False)
    json.dumps(found, allow_nan=False)


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def data(cli: Cli) -> list[str]:
    """Options for a run over 200 turns of a model that costs nothing."""
    write_rows(cli.folder / "many.jsonl", [make_row(number) for number in range(100)])
    entry = {"text": say(response="I am here with you."), "repeat": True}
    (cli.folder / "model.jsonl").write_text(json.dumps(entry) + "\n")
    return ["run", "--model", "scripted/model.jsonl", "--dataset", "many.jsonl", "--out", "out"]


@pytest.fixture
def measured(cli: Cli) -> None:
    """A card of the judge `honest`."""
    done = cli.fast("judges", "check", "--plugin", PLUGIN, "--judge", "honest")
    assert done.rc == 0, done.err


def honest(cli: Cli, data: list[str], *args: object, **env: str) -> Result:
    done = cli.fast(*data, "--plugin", PLUGIN, "--judge", "honest", *args, **env)
    assert done.rc == 0, done.err
    return done


def drift_of(cli: Cli, judge: str = "honest", run: str = "out") -> Any:
    return json.loads(cli.summary(run))["judges"][judge]["drift"]


def test_an_unchanged_judge_is_compared_and_not_accused(
    cli: Cli, data: list[str], measured: None
) -> None:
    done = honest(cli, data)
    found = drift_of(cli)
    assert (found["anchors"], found["scored"], found["compared"]) == (144, 144, True)
    assert not found["warning"]
    assert set(found["dimensions"]) == {
        *("relevance", "fluency", "empathy", "persona_consistency", "safety"),
    }
    assert "scoring the frozen anchors, to see drift: 144 judgements by honest" in done.err
    assert "†" not in done.out
    judges = json.loads(cli.summary())["judges"]
    assert judges["format"]["drift"] is None
    assert judges["honest"]["card"]["findings"] == []
    assert judges["honest"]["dimensions"]["empathy"]["scored"] == 200


def test_a_judge_that_changed_under_its_name_is_a_warning_and_a_mark(
    cli: Cli, data: list[str], measured: None
) -> None:
    done = honest(cli, data, SHIFT_BY="-0.4", COLUMNS="200")
    found = drift_of(cli)
    assert found["warning"]
    assert found["dimensions"]["empathy"]["shift"] == pytest.approx(-0.4, abs=0.1)
    assert "judge honest has drifted since its card was measured" in done.out
    assert re.search(r"honest: empathy .*\(100%\) †", done.out)
    assert not re.search(r"format: .*†", done.out)
    shown = cli.fast("show", "out", COLUMNS="200")
    assert "† warning" in shown.out


def test_the_cache_does_not_hide_a_change(cli: Cli, data: list[str], measured: None) -> None:
    honest(cli, data)
    honest(cli, [*data, "--out", "again"], SHIFT_BY="-0.4")
    assert not drift_of(cli)["warning"]
    assert drift_of(cli, run="again")["warning"]


def test_without_a_card_the_anchors_are_scored_all_the_same(cli: Cli, data: list[str]) -> None:
    honest(cli, data)
    found = drift_of(cli)
    assert (found["scored"], found["compared"]) == (144, False)
    assert "kardiabench judges check" in found["reason"]
    check = cli.fast("judges", "check", "--plugin", PLUGIN, "--judge", "honest")
    assert check.rc == 0
    assert cli.fast("resume", "out", "--plugin", PLUGIN).rc == 0
    assert drift_of(cli)["compared"]


def test_no_anchors_and_short_runs_score_none(cli: Cli, data: list[str]) -> None:
    calls = cli.folder / "calls"
    honest(cli, data, "--no-anchors", CALLS_IN=str(calls))
    assert len(calls.read_text().splitlines()) == 201  # and one in the preflight
    assert drift_of(cli) is None
    honest(cli, [*data, "--out", "short"], "--limit", "99", "--no-cache", CALLS_IN=str(calls))
    assert len(calls.read_text().splitlines()) == 201 + 199
    assert drift_of(cli, run="short") is None
    assert not list(cli.folder.glob("*/anchors.jsonl"))


def test_anchors_are_not_paid_twice_whatever_comes_after(cli: Cli, data: list[str]) -> None:
    calls = cli.folder / "calls"
    honest(cli, data, CALLS_IN=str(calls))
    before = calls.read_text()
    honest(cli, data, CALLS_IN=str(calls))
    assert cli.fast("resume", "out", "--plugin", PLUGIN, CALLS_IN=str(calls)).rc == 0
    assert calls.read_text() == before


def test_an_added_judge_scores_them_and_the_others_do_not_again(cli: Cli, data: list[str]) -> None:
    honest(cli, data)
    calls = cli.folder / "calls"
    added = ("score", "out", "--plugin", PLUGIN, "--judge", "four")
    assert cli.fast(*added, CALLS_IN=str(calls)).rc == 0
    assert drift_of(cli, "four")["scored"] == 144
    assert drift_of(cli, "honest")["scored"] == 144
    responses = [json.loads(line)[1] for line in calls.read_text().splitlines()]
    assert sum(map(responses.count, {a.item.reply.spans.response for a in ANCHORS})) == 144


def test_failures_are_kept_and_asked_again_only_on_request(cli: Cli, data: list[str]) -> None:
    def run(*args: object, **env: str) -> None:
        done = cli.fast(*args, "--plugin", PLUGIN, **env)
        assert done.rc == 0, done.err

    run(*data, "--judge", "failing")
    assert drift_of(cli, "failing")["scored"] == 120
    calls = cli.folder / "calls"
    run("resume", "out", CALLS_IN=str(calls))
    assert not calls.exists()
    run("resume", "out", "--retry-errors", CALLS_IN=str(calls))
    assert len(calls.read_text().splitlines()) == 24
    assert drift_of(cli, "failing")["coverage"] == pytest.approx(120 / 144)


def test_a_run_killed_in_the_anchors_goes_on_and_ends_the_same(cli: Cli, data: list[str]) -> None:
    check = ("judges", "check", "--plugin", PLUGIN, "--judge", "four")
    assert cli.fast(*check).rc == 0
    command = [*data, "--plugin", PLUGIN, "--judge", "four", "--concurrency", "2", "--no-cache"]
    env = {"SLOWLY": "0.01"}
    assert cli.fast(*command, "--out", "whole").rc == 0
    log = cli.folder / "out" / "anchors.jsonl"
    for _ in range(3):
        started = cli.start(*command, **env)
        goal = lines(log) + 15
        until(lambda goal=goal, s=started: lines(log) > goal or not s.alive)
        started.kill()
    with log.open("ab") as file:
        file.write(b'{"reply_digest": "torn')
    calls = cli.folder / "calls"
    there = lines(log)
    assert 45 <= there < 144
    assert cli.fast(*command, CALLS_IN=str(calls)).rc == 0
    assert lines(log) == 144
    assert len(calls.read_text().splitlines()) == 144 - there
    assert cli.summary() == cli.summary("whole")
    assert drift_of(cli, "four")["compared"]


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_an_interrupt_in_the_anchors_keeps_what_is_there(cli: Cli, data: list[str]) -> None:
    command = [*data, "--plugin", PLUGIN, "--judge", "four", "--concurrency", "2"]
    started = cli.start(*command, SLOWLY="0.02")
    log = cli.folder / "out" / "anchors.jsonl"
    until(lambda: lines(log) > 10 or not started.alive)
    started.send(signal.SIGINT)
    ended = started.wait()
    assert ended.rc == 130
    there = lines(log)
    assert 10 < there < 144
    assert drift_of(cli, "four")["scored"] == there
    assert cli.fast("resume", "out", "--plugin", PLUGIN).rc == 0
    assert drift_of(cli, "four")["scored"] == 144


def test_the_anchors_respect_the_budget(cli: Cli, server: OpenAIServer, data: list[str]) -> None:
    """Judged by a model with a price: gpt-4o-mini, on a local server."""
    command = [
        *(*data, "--judge-model", "openai/gpt-4o-mini", "--judge-api-base", server.url),
        *("--retries", "0", "--concurrency", "2", "--no-cache"),
    ]
    env = {"OPENAI_API_KEY": "k"}
    estimated = cli.fast(*command, "--dry-run", "--json", **env)
    assert [line["what"] for line in estimated.json()] == ["judge rubric", "anchors, rubric"]
    assert [line["calls"] for line in estimated.json()] == [200, 144]
    without = cli.fast(*command, "--dry-run", "--json", "--no-anchors", **env)
    assert [line["what"] for line in without.json()] == ["judge rubric"]
    whole = cli.fast(*command, "--out", "whole", **env)
    assert whole.rc == 0, whole.err
    spent = json.loads(cli.summary("whole"))["usage"]["judges"]["rubric"]["cost"]
    done = cli.fast(*command, "--max-cost", f"{spent * 1.3:.6f}", **env)
    assert done.rc == 3
    assert "--max-cost" in done.sentence
    assert 0 < lines(cli.folder / "out" / "anchors.jsonl") < 144
    assert len(cli.lines("verdicts.jsonl")) == 3 * 200


def test_a_key_that_is_refused_stops_the_run_and_counts_as_no_verdict(
    cli: Cli, server: OpenAIServer, data: list[str]
) -> None:
    def refuse_anchors(body: dict[str, Any]) -> Any:
        is_of_run = "Exam number" in json.dumps(body["messages"])
        return unauthorized() if is_judge(body) and not is_of_run else None

    command = [
        *(*data, "--judge-model", "openai/judge", "--judge-api-base", server.url),
        *("--retries", "0", "--skip-preflight"),
    ]
    server.rule = refuse_anchors
    done = cli.fast(*command)
    assert done.rc == 3
    assert "auth" in done.sentence
    assert lines(cli.folder / "out" / "anchors.jsonl") == 0
    server.rule = None
    assert cli.fast("resume", "out").rc == 0
    assert drift_of(cli, "rubric")["scored"] == 144


def test_verdicts_of_a_judge_that_was_another_then_do_not_count(tmp_path: Path) -> None:
    old, new = StubJudge(version=1), StubJudge(version=2)
    run = make_run(tmp_path / "run", make_manifest([new], 1), [])
    manifest = read_manifest(run)

    def note(judge: StubJudge, anchor: Anchor) -> None:
        with (run / "anchors.jsonl").open("ab") as file:
            file.write(verdict_lines(anchor.item.reply, [judge.verdict(anchor.item)]))

    def found() -> Any:
        return instruments(run, manifest, {"stub": new.dimensions})["stub"]["drift"]

    assert found() is None
    note(old, ANCHORS[0])
    assert found() is None
    for anchor in ANCHORS[:2] * 2:  # the kinds of one turn are told apart, and the last counts
        note(new, anchor)
    assert found()["scored"] == 2
