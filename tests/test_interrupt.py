"""Ctrl-C, SIGTERM, a full disk, a budget: what was received is kept, and the run goes on later."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from cli_process import Cli, Started, until
from openai_server import Behaviour, OpenAIServer, insufficient_quota, unauthorized
from requests_seen import is_judge, is_tiny, replies_asked, verdicts_asked, without_nonce

SMALL = ("--limit", "5", "--concurrency", "4", "--out", "out")
NOISE = ("Traceback", "never retrieved", "never awaited", "Task was destroyed", "Unclosed")


def _assert_quiet(err: str) -> None:
    assert not [noise for noise in NOISE if noise in err], err


def _interrupted(cli: Cli, server: OpenAIServer, command: list[str], hits: int = 12) -> Started:
    started = cli.start(*command)
    until(lambda: server.hits >= hits or not started.alive)
    return started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_in_flight_and_the_run_goes_on(
    cli: Cli, server: OpenAIServer, api: list[str], number: signal.Signals
) -> None:
    server.delay = 0.2
    command = [*api, *SMALL, "--no-cache"]
    started = _interrupted(cli, server, command)
    started.send(number)
    ended = started.wait(20)
    assert ended.rc == 130
    assert "interrupted; everything received is kept; go on with" in ended.sentence
    _assert_quiet(ended.err)
    kept = len(cli.lines("replies.jsonl"))
    assert kept == sum(replies_asked(server).values()) > 0
    server.delay = 0
    assert cli.fast("resume", "out").rc == 0
    assert set(replies_asked(server).values()) == {1}
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


def test_a_second_interrupt_stops_at_once(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    server.rule = lambda body: None if is_tiny(body) or is_judge(body) else Behaviour(delay=30)
    started = _interrupted(cli, server, [*api, *SMALL], hits=7)
    started.send(signal.SIGINT)
    until(lambda: "press Ctrl-C again" in started.err())
    started.send(signal.SIGINT)
    ended = started.wait(10)
    assert ended.rc == 130
    _assert_quiet(ended.err)
    server.rule = None
    assert cli.fast("show", "out").rc == 0
    assert cli.fast("resume", "out").rc == 0


def test_an_interrupt_of_a_true_process_leaves_no_noise(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.delay = 0.3
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "kardiabench", *api, *SMALL]
    process = subprocess.Popen(
        command, cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    until(lambda: server.hits >= 8)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    _assert_quiet(err.decode())


def test_a_full_disk_ends_the_run_with_one_sentence_and_it_goes_on(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, *SMALL, "--no-cache"]
    full = cli.fast(*command, limit=12_000)
    assert full.rc == 3
    assert "replies.jsonl cannot be written" in full.sentence
    assert len(full.err.splitlines()) == 1
    kept = len(cli.lines("replies.jsonl"))
    assert 0 < kept < 18
    assert cli.fast("resume", "out").rc == 0
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


def test_a_disk_that_fills_up_under_the_cache_costs_only_the_cache(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    done = cli.fast(*api, *SMALL, limit=60_000)
    assert done.rc == 0
    assert done.err.count("the cache") == 1
    assert "going on without it" in done.err


def test_a_run_directory_that_cannot_be_made_is_one_sentence(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    (cli.folder / "file").write_text("")
    refused = cli.fast(*api, "--out", "file/run")
    assert refused.rc in (2, 3)
    assert len(refused.err.splitlines()) == 1
    assert server.hits == 0


@pytest.mark.parametrize(("fatal", "word"), [(unauthorized, "auth"), (insufficient_quota, "quota")])
def test_a_key_that_fails_on_the_way_stops_the_run_and_nothing_is_lost(
    cli: Cli, server: OpenAIServer, api: list[str], fatal: Any, word: str
) -> None:
    _fail_from(server, fatal(), at=10, judge=False)
    command = [*api, *SMALL, "--no-cache"]
    stopped = cli.fast(*command)
    assert stopped.rc == 3
    assert stopped.sentence.startswith(f"stopped: {word}: ")
    assert "kardiabench resume out" in stopped.sentence
    assert all(line["reply"]["status"] == "ok" for line in cli.lines("replies.jsonl"))
    server.rule = None
    assert cli.fast("resume", "out").rc == 0
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


def test_a_judge_whose_key_fails_stops_the_run_too(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    _fail_from(server, unauthorized(), at=6, judge=True)
    command = [*api, *SMALL, "--no-cache"]
    stopped = cli.fast(*command)
    assert stopped.rc == 3
    assert stopped.sentence.startswith("stopped: auth: ")
    verdicts = [line["verdict"] for line in cli.lines("verdicts.jsonl")]
    assert {verdict["status"] for verdict in verdicts} == {"ok"}
    server.rule = None
    assert cli.fast("resume", "out").rc == 0
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


def _fail_from(server: OpenAIServer, failure: Behaviour, *, at: int, judge: bool) -> None:
    seen = iter(range(10_000))

    def rule(body: dict[str, Any]) -> Behaviour | None:
        return failure if is_judge(body) is judge and next(seen) >= at else None

    server.rule = rule


PRICED = ("--model", "openai/gpt-4o", "--judge-model", "openai/gpt-4o-mini", "--no-cache")


def test_max_cost_stops_cleanly_and_a_further_budget_finishes(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, *SMALL, *PRICED]
    stopped = cli.fast(*command, "--max-cost", "0.02")
    assert stopped.rc == 3
    assert stopped.sentence.startswith("--max-cost 0.02 reached: $0.0")
    _assert_quiet(stopped.err)
    usages = [line["reply"]["usage"] for line in cli.lines("replies.jsonl")]
    usages += [line["verdict"]["usage"] for line in cli.lines("verdicts.jsonl")]
    assert 0.005 < sum(usage["cost"] or 0 for usage in usages) <= 0.02
    assert cli.fast("resume", "out", "--max-cost", "5").rc == 0
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


@pytest.mark.parametrize("budget", ["0", "0.000001"])
def test_a_budget_for_no_call_at_all_sends_no_turn(
    cli: Cli, server: OpenAIServer, api: list[str], budget: str
) -> None:
    stopped = cli.fast(*api, *SMALL, *PRICED, "--max-cost", budget)
    assert stopped.rc == 3
    assert cli.lines("replies.jsonl") == []


def test_max_cost_without_a_known_price_is_refused_before_spending(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    refused = cli.fast(*api, *SMALL, "--max-cost", "1")
    assert refused.rc == 2
    assert "no price is known for openai/anything" in refused.sentence
    assert server.hits == 0


def test_errors_of_the_server_are_recorded_and_a_retry_heals_them(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, *SMALL, "--no-cache"]
    assert cli.fast(*command, "--out", "whole").rc == 0
    prompts = sorted(replies_asked(server))[:5]
    server.rule = lambda body: Behaviour(status=500) if str(body["messages"]) in prompts else None
    done = cli.fast(*command)
    assert done.rc == 3
    assert done.sentence.startswith("5 turns ended in an error (server 5)")
    assert "--retry-errors" in done.sentence
    summary = cli.fast("show", "out", "--json").json()[0]
    assert summary["turns"]["by_status"]["error"] == 5
    for judge in summary["judges"].values():
        assert judge["coverage"] == pytest.approx(1 - 5 / summary["turns"]["planned"])
    server.rule = None
    assert cli.fast("resume", "out").rc == 3
    assert cli.fast("resume", "out", "--retry-errors").rc == 0
    assert cli.summary() == cli.summary("whole")


def test_a_judge_that_babbles_is_unparsed_and_a_retry_heals_it(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, *SMALL, "--no-cache"]
    assert cli.fast(*command, "--out", "whole").rc == 0
    verdicts = sorted(verdicts_asked(server))[:6]
    garbled = {prompt[:-1] for prompt in verdicts}

    def rule(body: dict[str, Any]) -> Behaviour | None:
        text = without_nonce(str(body["messages"]))
        hit = any(text.startswith(prompt) for prompt in garbled)
        return Behaviour(content="I would say it is quite good. score 5") if hit else None

    server.rule = rule
    low = cli.fast(*command)
    assert low.rc == 3
    assert "--min-coverage" in low.sentence
    assert "--retry-errors" in low.sentence
    rubric = cli.fast("show", "out", "--json").json()[0]["judges"]["rubric"]
    assert rubric["verdicts"]["unparsed"] == len(garbled)
    assert cli.fast("resume", "out", "--min-coverage", "0.5").rc == 0
    server.rule = None
    assert cli.fast("resume", "out", "--retry-errors").rc == 0
    assert cli.summary() == cli.summary("whole")


def test_history_free_stops_a_dialogue_at_an_error_and_retries_it_whole(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, "--limit", "3", "--history", "free", "--no-cache", "--out", "out"]
    assert cli.fast(*command, "--out", "whole").rc == 0
    second = min(p for p in replies_asked(server) if p.count("'role'") == 4)
    server.rule = lambda body: Behaviour(status=500) if str(body["messages"]) == second else None
    broken = cli.fast(*command)
    assert broken.rc == 3
    kinds = cli.fast("show", "out", "--json").json()[0]["turns"]["errors_by_kind"]
    assert kinds["server"] == 1
    assert kinds["history"] >= 1
    server.rule = None
    assert cli.fast("resume", "out", "--retry-errors").rc == 0
    assert cli.summary() == cli.summary("whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_preflight_ends_at_once(
    cli: Cli, server: OpenAIServer, api: list[str], number: signal.Signals
) -> None:
    server.delay = 30.0
    started = cli.start(*api, "--out", "out")
    until(lambda: server.hits > 0)
    started.send(number)
    ended = started.wait(10.0)
    assert (ended.rc, "interrupted" in ended.err) == (130, True)
