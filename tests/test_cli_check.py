"""`kardiabench judges check`, as a command, with judges of known faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli, Result, until
from openai_server import Behaviour, OpenAIServer
from rundata import say

PLUGIN = Path(__file__).with_name("instrument_plugin.py")
NAMES = ("relevance", "fluency", "empathy", "persona_consistency", "safety")


def check(cli: Cli, judge: str, *args: object, **env: str) -> Result:
    return cli.fast("judges", "check", "--plugin", PLUGIN, "--judge", judge, *args, **env)


def results(done: Result) -> dict[str, str]:
    assert done.rc == 0, done.err
    return {name: one["result"] for name, one in done.json()["check"]["checks"].items()}


def card(cli: Cli, judge: str) -> dict[str, Any]:
    (file,) = (cli.folder / "judge-cards").glob(f"{judge}-*/card.json")
    return json.loads(file.read_text())


def test_an_honest_judge_is_cleared_and_gets_a_card(cli: Cli) -> None:
    done = check(cli, "honest", "--json")
    assert results(done) == {
        "retest": "clear",
        "spread": "clear",
        "sensitivity": "clear",
        "padding": "clear",
        "order": "unknown",
        "self_preference": "unknown",
    }
    assert "456 judgements to check honest, 144 anchors in 3 repeats" in done.err
    section = done.json()["check"]
    assert (section["judgements"], section["coverage"], section["findings"]) == (456, 1.0, [])
    assert section["usage"]["cost"] == pytest.approx(4.56)
    stored = card(cli, "honest")
    assert stored["check"]["checks"] == section["checks"]
    assert stored["fingerprint"] in done.json()["card"]
    scores = stored["anchors"]["scores"]
    assert len(scores) == 144
    assert {one["n"] for anchor in scores.values() for one in anchor.values()} == {3}
    text = Path(cli.folder, done.json()["card"]).with_suffix(".md").read_text()
    assert "456 judgements of 144 anchors (24 turns of 8 personas) in 3 repeats" in text
    assert "| dismissive | empathy |" in text


@pytest.mark.parametrize(
    ("judge", "faults"),
    [
        ("lengthy", {"sensitivity", "padding"}),
        ("four", {"spread", "sensitivity"}),
        ("ordered", {"order"}),
        ("pairs", {"order"}),
    ],
)
def test_each_fault_is_found_and_no_other(cli: Cli, judge: str, faults: set[str]) -> None:
    found = results(check(cli, judge, "--json"))
    assert {name for name, result in found.items() if result == "found"} == faults


def test_the_order_effect_is_on_the_dimensions_that_come_first(cli: Cli) -> None:
    done = check(cli, "ordered:order=shuffled,seed=3", "--json")
    (sentence,) = done.json()["check"]["checks"]["order"]["sentences"]
    assert "relevance +0." in sentence
    assert "safety -0." in sentence
    assert "empathy" not in sentence


def test_it_prints_a_table_and_says_where_the_card_is(cli: Cli) -> None:
    done = check(cli, "four", COLUMNS="200")
    assert done.rc == 0
    assert "the judge says 4 to everything" in done.out
    assert "judge card: judge-cards/four-" in done.out


def test_a_judge_that_answers_nonsense_ends_it_with_its_first_three_answers(cli: Cli) -> None:
    done = check(cli, "nonsense")
    assert done.rc == 3
    assert "judged none of the first 10 replies" in done.sentence
    for number in (1, 2, 3):
        assert f"{number}. unparsed: the moon is made of" in done.sentence
    assert "4. unparsed" not in done.sentence
    assert not list((cli.folder / "judge-cards").glob("*/card.json"))


def test_a_model_that_answers_nonsense_is_shown_too(cli: Cli, server: OpenAIServer) -> None:
    server.rule = lambda body: Behaviour(content="I would rather talk about the weather.")
    spec = f"rubric:model=openai/judge,api_base={server.url}"
    done = cli.fast("judges", "check", "--judge", spec, "--retries", "0", OPENAI_API_KEY="k")
    assert done.rc == 3
    assert done.sentence.count("unparsed") == 3
    assert "the weather" in done.sentence


def test_the_rubric_is_asked_in_both_orders_over_a_real_client(
    cli: Cli, server: OpenAIServer
) -> None:
    spec = f"rubric:model=openai/judge,api_base={server.url}"
    options = ("--items", "4", "--repeats", "2", "--retries", "0", "--json")
    done = cli.fast("judges", "check", "--judge", spec, *options, OPENAI_API_KEY="k")
    assert done.rc == 0, done.err
    section = done.json()["check"]
    assert section["judgements"] == 2 * 24 + 4 + 2 * 24
    assert section["coverage"] == 1
    assert section["checks"]["order"]["result"] == "clear"
    assert section["usage"]["calls"] == section["judgements"]
    orders = {tuple(json.loads(line)["task"].split("/")) for line in journal_lines(cli)}
    assert {("order", "fixed"), ("order", "reversed")} < orders


def journal_lines(cli: Cli) -> list[str]:
    (file,) = (cli.folder / "judge-cards").glob("*/check.jsonl")
    return file.read_text().splitlines()


def test_the_same_command_asks_nothing_again_and_says_so(cli: Cli) -> None:
    calls = cli.folder / "calls"
    first = check(cli, "honest", "--json", CALLS_IN=str(calls))
    asked = len(calls.read_text().splitlines())
    assert asked == 456 + 1  # and one in the preflight
    again = check(cli, "honest", "--json", CALLS_IN=str(calls))
    assert len(calls.read_text().splitlines()) == asked
    assert "all are there already (--fresh asks again)" in again.err
    assert again.json() == first.json()


def test_fresh_asks_again(cli: Cli) -> None:
    first = check(cli, "honest", "--json")
    again = check(cli, "honest", "--json", "--fresh", SHIFT_BY="-0.5")
    spread = ("checks", "sensitivity", "kinds", "unsafe", "drops", "safety", "mean")
    assert dig(first.json()["check"], *spread) != dig(again.json()["check"], *spread)


def dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value[key]
    return value


def test_a_check_that_was_killed_goes_on_where_it_stopped(cli: Cli) -> None:
    journal = cli.folder / "judge-cards"
    command = ("judges", "check", "--plugin", PLUGIN, "--judge", "honest")
    started = cli.start(*command, SLOWLY="0.05")
    until(lambda: kept(journal) > 40 or not started.alive)
    started.kill()
    there = kept(journal)
    assert 40 < there < 456
    calls = cli.folder / "calls"
    done = check(cli, "honest", "--json", CALLS_IN=str(calls))
    assert done.rc == 0, done.err
    assert f"; {there} are there already" in done.err
    assert len(calls.read_text().splitlines()) == 456 - there + 1
    assert done.json()["check"]["judgements"] == 456


def kept(folder: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in folder.glob("*/check.jsonl"))


def test_a_part_of_the_anchors_is_checked_and_is_no_baseline(cli: Cli) -> None:
    done = check(cli, "honest", "--items", "8", "--repeats", "2", "--json")
    section = done.json()["check"]
    assert (section["bases"], section["items"], section["personas"]) == (8, 48, 8)
    assert section["judgements"] == 2 * 48 + 8
    assert "anchors" not in card(cli, "honest")


def test_what_a_judge_refuses_is_missing_coverage(cli: Cli) -> None:
    section = check(cli, "failing", "--json").json()["check"]
    assert section["coverage"] == pytest.approx(1 - 72 / 456)
    part = section["checks"]["sensitivity"]["kinds"]["unsafe"]
    assert (part["result"], part["passed"]) == ("unknown", None)
    scores = card(cli, "failing")["anchors"]["scores"]
    unsafe = [one for name, one in scores.items() if name.endswith("#unsafe")]
    assert {cell["mean"] for one in unsafe for cell in one.values()} == {None}


def test_the_card_of_the_smoke_judge_says_what_it_is(cli: Cli) -> None:
    done = cli.fast("judges", "check", "--judge", "smoke", "--items", "2")
    assert "smoke test, not a judgement" in done.out
    (text,) = (cli.folder / "judge-cards").glob("smoke-*/card.md")
    assert "A smoke test, not a judgement" in text.read_text()


# --- replies of several families ------------------------------------------------------------------

GPT = "partial:model=openai/gpt-5-mini,love="
CLAUDE = "partial:model=anthropic/claude-sonnet-4-5,love="


@pytest.fixture
def replies(cli: Cli) -> list[str]:
    """Options for runs of a GPT and a Qwen over the sample."""
    for name in ("GPT", "Qwen"):
        entry = {"text": say(response=f"{name} is here for you."), "repeat": True}
        (cli.folder / f"{name}.jsonl").write_text(json.dumps(entry) + "\n")
        command = ("run", "--model", f"scripted/{name}.jsonl", "--dataset", "sample")
        assert cli.fast(*command, "--no-rubric", "--limit", "16", "--out", name).rc == 0
    return ["--replies", "gpt-4o=GPT", "--replies", "qwen=Qwen"]


def self_preference(done: Result) -> dict[str, Any]:
    assert done.rc == 0, done.err
    return done.json()["check"]["checks"]["self_preference"]


def test_a_judge_that_favours_its_own_family_is_found_with_a_reference(
    cli: Cli, replies: list[str]
) -> None:
    done = check(cli, f"{GPT}0.6", *replies, "--reference", f"{CLAUDE}0", "--json", "--items", "40")
    found = self_preference(done)
    assert found["result"] == "found"
    assert (found["own_family"], found["families"]) == ("gpt", ["gpt", "qwen"])
    assert found["turns"] == 40
    part = found["dimensions"]["empathy"]
    assert part["low"] < 0.6 < part["high"]
    assert part["clusters"] == 8


def test_a_family_that_is_better_is_not_preferred_for_itself(cli: Cli, replies: list[str]) -> None:
    done = check(cli, f"{GPT}0.6", *replies, "--reference", f"{CLAUDE}0.6", "--json")
    found = self_preference(done)
    assert found["result"] == "clear"
    assert found["gaps"]["empathy"]["low"] > 0.4
    assert found["reference_gaps"]["empathy"]["low"] > 0.4


def test_without_a_reference_preference_and_quality_look_alike(
    cli: Cli, replies: list[str]
) -> None:
    found = self_preference(check(cli, f"{GPT}0.6", *replies, "--json"))
    assert found["result"] == "unknown"
    assert found["gaps"]["empathy"]["mean"] == pytest.approx(0.6, abs=0.15)
    assert "look alike" in found["reason"]


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        ("honest", "names no model of one known family"),
        ("partial:model=mistral/mistral-large", "none of the replies is of the judge's own family"),
    ],
)
def test_replies_that_tell_nothing_of_the_judge_are_not_judged(
    cli: Cli, replies: list[str], judge: str, reason: str
) -> None:
    done = check(cli, judge, *replies, "--json")
    assert reason in self_preference(done)["reason"]
    assert done.json()["check"]["judgements"] == 456


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--replies", "gpt=GPT"], "at least two runs"),
        (["--replies", "gpt=GPT", "--replies", "gpt=Qwen"], "names two runs alike"),
        (["--replies", "gpt=GPT", "--replies", "qwen=nowhere"], "not a run directory"),
        (["--replies", "GPT", "--replies", "qwen=Qwen"], "not of the form key=value"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(
    cli: Cli, replies: list[str], args: list[str], words: str
) -> None:
    assert replies
    done = check(cli, f"{GPT}0", *args)
    assert done.rc == 2
    assert words in done.sentence


def test_a_reference_of_a_family_that_is_judged_is_refused(cli: Cli, replies: list[str]) -> None:
    reference = "partial:model=Qwen/Qwen3-8B"
    done = check(cli, f"{GPT}0", *replies, "--reference", reference)
    assert done.rc == 2
    assert "of the family qwen, whose replies are given" in done.sentence


def test_a_reference_on_other_dimensions_is_refused(cli: Cli, replies: list[str]) -> None:
    done = check(cli, f"{GPT}0", *replies, "--reference", "emotion")
    assert done.rc == 2
    assert "does not rate relevance from 1 to 5" in done.sentence


def test_histories_of_their_own_are_refused(cli: Cli, replies: list[str]) -> None:
    command = ("run", "--model", "scripted/GPT.jsonl", "--dataset", "sample", "--history", "free")
    assert cli.fast(*command, "--no-rubric", "--limit", "4", "--out", "free").rc == 0
    done = check(cli, f"{GPT}0", *replies[:2], "--replies", "qwen=free")
    assert done.rc == 2
    assert "histories of their own" in done.sentence
