"""Every mistake gets one sentence, before anything is spent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from cli_process import Cli, Result
from openai_server import Behaviour, OpenAIServer, failing
from requests_seen import is_judge, is_tiny, replies_asked

SAMPLE = ("--dataset", "sample", "--retries", "0", "--limit", "4", "--out", "out")


def _assert_refused(result: Result, *words: str, rc: int = 2) -> None:
    assert result.rc == rc, result.err
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("kardiabench: ")
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["rnu"], ["did you mean", "'run'"]),
        (["run", "--modle", "x"], ["--modle", "did you mean", "'--model'"]),
        (["run"], ["Missing option '--model'"]),
        (["run", "--model", "baseline/majorty", *SAMPLE], ["did you mean 'majority'?"]),
        (["run", "--model", "opena/gpt-4o", *SAMPLE], ["did you mean 'openai'?"]),
        (["run", "--model", "vllm/x", *SAMPLE], ["kardiabench[vllm]", "hosted_vllm/"]),
        (["run", "--model", "baseline/tfidf", "--dataset", "sampel"], ["did you mean 'sample'?"]),
        (["run", "--model", "baseline/tfidf", "--dataset", "no/file.jsonl"], ["no/file.jsonl"]),
        (
            ["run", "--model", "baseline/tfidf", *SAMPLE, "--judge", "smok"],
            ["did you mean 'smoke'"],
        ),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--judge", "smoke:x"], ["option=value"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--judge", "rubric:sampls=3"], ["samples"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--weight", "rubrik=1"], ["rubric"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--weight", "rubric"], ["key=value"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--weight", "rubric=a"], ["rubric=2"]),
        (
            ["run", "--model", "baseline/tfidf", *SAMPLE, "--emotions", "sadd"],
            ["did you mean 'sad'"],
        ),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--system-prompt", "no.j2"], ["no.j2"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--plugin", "no.py"], ["no.py"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--limit", "0"], ["--limit"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--timeout", "nan"], ["finite"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--max-cost", "inf"], ["finite"]),
        (["run", "--model", "baseline/tfidf", *SAMPLE, "--config", "no.yaml"], ["no.yaml"]),
        (["run", "--model", "replay/no.jsonl", *SAMPLE, "--no-rubric"], ["no.jsonl"]),
        (["show"], ["Missing argument"]),
        (["show", "nowhere"], ["nowhere", "not a run directory"]),
        (["resume", "nowhere"], ["nowhere", "not a run directory"]),
        (["score", "nowhere"], ["nowhere", "not a run directory"]),
        (["judges", "show", "rubrc"], ["did you mean 'rubric'?"]),
        (["judges", "shwo"], ["did you mean", "'show'"]),
        (["prompts", "--history", "free"], ["--history gold"]),
        (["prompts", "--out", "no/such/file"], ["no/such/file"]),
    ],
)
def test_a_mistake_is_one_sentence_that_helps(
    cli: Cli, command: list[str], words: list[str]
) -> None:
    refused = cli.fast(*command)
    _assert_refused(refused, rc=2)
    for word in words:
        assert word.casefold() in refused.err.casefold()


def test_no_command_at_all_prints_the_help(cli: Cli) -> None:
    helped = cli.fast()
    assert helped.rc == 2
    assert "Commands:" in helped.err
    assert len(helped.err.splitlines()) > 10


def test_debug_shows_the_traceback_from_the_command_line_and_from_a_file(cli: Cli) -> None:
    command = ("run", "--model", "baseline/majority", "--dataset", "nope")
    (cli.folder / "run.yaml").write_text("debug: true")
    for shown in (cli.fast(*command, "--debug"), cli.fast(*command, "--config", "run.yaml")):
        assert shown.rc == 2
        assert "Traceback (most recent call last)" in shown.err
        assert shown.err.splitlines()[-1].startswith("kardiabench: dataset 'nope'")


def test_a_missing_key_for_the_model_is_named(cli: Cli, server: OpenAIServer) -> None:
    refused = cli.fast("run", "--model", "openai/gpt-4o", *SAMPLE)
    _assert_refused(refused, "openai/gpt-4o", "OPENAI_API_KEY", "--api-base")


def test_a_missing_key_for_the_judge_names_both_ways_out(cli: Cli, server: OpenAIServer) -> None:
    refused = cli.fast("run", "--model", "openai/x", "--api-base", server.url, *SAMPLE)
    _assert_refused(refused, "OPENAI_API_KEY", "--judge-model", "--no-rubric")
    assert server.hits == 0


def test_a_server_that_is_down_is_named(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    refused = cli.fast(*api, *SAMPLE, "--api-base", "http://127.0.0.1:9/v1")
    _assert_refused(refused, "openai/anything", "does not answer", "--api-base")
    assert server.hits == 0


def test_a_judge_that_never_parses_stops_before_the_first_turn(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    def rule(body: dict[str, Any]) -> Behaviour | None:
        return Behaviour(content="very nice") if is_judge(body) and not is_tiny(body) else None

    server.rule = rule
    _assert_refused(cli.fast(*api, *SAMPLE), "judge rubric", "unparsed", "--judge-model")
    assert not replies_asked(server)
    assert not (cli.folder / "out").exists()


def test_the_dataset_is_read_before_anything_is_sent(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    (cli.folder / "bad.jsonl").write_text(json.dumps({"person": "x"}) + "\n")
    refused = cli.fast(*api, "--dataset", "bad.jsonl")
    _assert_refused(refused, "bad.jsonl line 1", "--on-bad-row skip")
    assert server.hits == 0


def test_an_unreachable_hub_is_one_sentence_before_anything_is_sent(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    refused = cli(*api, "--dataset", "KardiaBench")
    _assert_refused(refused, "Hugging Face Hub cannot be reached", "--dataset")
    assert server.hits == 0


def test_an_out_directory_with_other_files_is_left_alone(cli: Cli) -> None:
    (cli.folder / "out").mkdir()
    (cli.folder / "out" / "thesis.txt").write_text("mine")
    refused = cli.fast("run", "--model", "baseline/majority", "--no-rubric", *SAMPLE)
    _assert_refused(refused, "other files in it")
    assert [path.name for path in (cli.folder / "out").iterdir()] == ["thesis.txt"]


def test_what_a_server_says_cannot_move_the_cursor(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    error = {"message": "\x1b[2J\x1b]0;gone\x07 no such\nmodel", "type": None, "code": None}
    server.default = Behaviour(status=404, error=error)
    refused = cli.fast(*api, *SAMPLE)
    _assert_refused(refused, "no such model")
    assert "\x1b" not in refused.err


def test_a_broken_plugin_that_is_asked_for_is_named(cli: Cli) -> None:
    (cli.folder / "broken.py").write_text("1 / 0")
    refused = cli.fast("judges", "--plugin", "broken.py")
    _assert_refused(refused, "broken.py", "ZeroDivisionError")


def test_a_judge_that_raises_is_an_error_of_its_verdicts_not_of_the_run(cli: Cli) -> None:
    (cli.folder / "mine.py").write_text(_RAISING)
    command = ("run", "--model", "baseline/majority", *SAMPLE, "--plugin", "mine.py")
    refused = cli.fast(*command, "--judge", "rude")
    _assert_refused(refused, "judge rude", "RuntimeError: [31mno")
    done = cli.fast(*command, "--judge", "rude", "--skip-preflight")
    assert done.rc == 3
    assert "judge rude judged only 0.0%" in done.sentence


_RAISING = """
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension


class Rude:
    name = "rude"
    dimensions = (Dimension("rude", 0, 1, "How rude."),)
    identity = {"judge": "rude"}

    async def judge(self, items):
        raise RuntimeError("[31mno")


@hookimpl
def register_judges(register):
    register("rude", lambda options, context: Rude())
"""


def test_fail_fast_stops_at_the_first_failed_judgement(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    def rule(body: dict[str, Any]) -> Behaviour | None:
        return Behaviour(content="nice") if is_judge(body) and not is_tiny(body) else None

    server.rule = rule
    stopped = cli.fast(*api, *SAMPLE, "--on-missing", "fail-fast", "--skip-preflight")
    _assert_refused(stopped, "--on-missing is fail-fast", rc=3)


def test_a_long_error_body_is_an_error_and_no_standstill(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.default = failing(400, "no " * 1_000_000)
    command = [*api, "--limit", "1", "--no-rubric", "--skip-preflight", "--out", "out"]
    ended = cli.fast(*command)
    assert ended.rc == 3
    details = [line["reply"]["detail"] for line in cli.lines("replies.jsonl")]
    assert all(d.startswith("bad_request") and len(d) <= 600 for d in details)


def test_a_log_of_other_turns_is_refused_and_not_counted(cli: Cli, api: list[str]) -> None:
    assert cli.fast(*api, "--limit", "1", "--out", "out").rc == 0
    for name in ("replies.jsonl", "verdicts.jsonl"):
        log = cli.folder / "out" / name
        lines = log.read_text().splitlines(keepends=True)
        foreign = [re.sub(r'"turn_id":"[^"]*"', '"turn_id":"zzzz/0"', line) for line in lines[:1]]
        log.write_text("".join([*lines, *foreign]))
    _assert_refused(cli.fast("show", "out"), "logs were edited")


def test_a_changed_configuration_in_a_manifest_is_named(cli: Cli, api: list[str]) -> None:
    assert cli.fast(*api, "--limit", "1", "--out", "out").rc == 0
    manifest = cli.folder / "out" / "manifest.json"
    content = json.loads(manifest.read_text())
    for key, value in (("limit", "two"), ("judges", 5), ("model", None), ("concurrency", 0)):
        changed = {**content, "config": {**content["config"], key: value}}
        manifest.write_text(json.dumps(changed))
        _assert_refused(cli.fast("resume", "out"), key)


def test_secrets_in_options_of_any_backend_or_judge_are_refused(cli: Cli) -> None:
    scripted = ("run", "--model", "scripted/x.jsonl", *SAMPLE)
    _assert_refused(cli.fast(*scripted, "--model-arg", "api_key=abcdefgh1234"), "secret")
    _assert_refused(cli.fast(*scripted, "--judge", "smoke:api_key=abcdefgh1234"), "secret")


def test_a_run_that_never_began_leaves_no_directory(cli: Cli) -> None:
    assert cli.fast("run", "--model", "openai/gpt-4o", *SAMPLE).rc == 2
    assert not list((cli.folder / "runs").glob("*"))


@pytest.mark.parametrize("out", ["/dev/null", "/proc/x", "a" * 300])
def test_a_run_directory_that_cannot_be_is_one_sentence(cli: Cli, out: str) -> None:
    command = ("run", "--model", "baseline/majority", *SAMPLE, "--judge", "smoke", "--out", out)
    refused = cli.fast(*command)
    assert refused.rc == 2
    assert "internal error" not in refused.err


def test_a_reader_that_goes_away_changes_no_exit_code(cli: Cli) -> None:
    command = f"{sys.executable} -m kardiabench judges show rubric | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        env=cli.env,
        cwd=cli.folder,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_closed_streams_are_no_error(cli: Cli) -> None:
    command = f"{sys.executable} -m kardiabench judges >&- 2>&-; echo $? >rc"
    subprocess.run(["bash", "-c", command], env=cli.env, cwd=cli.folder, check=False)
    assert (cli.folder / "rc").read_text() == "0\n"
