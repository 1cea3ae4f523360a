"""A run that was broken off ends as one that was not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cli_process import Cli, until
from openai_server import OpenAIServer
from requests_seen import replies_asked, verdicts_asked

KILLS = 10
CONCURRENCY = 4
SMALL = ("--limit", "4", "--concurrency", str(CONCURRENCY), "--out", "out")
MORE = (*SMALL, "--limit", "10")


@pytest.mark.parametrize(
    ("history", "cache"),
    [("gold", "--no-cache"), ("gold", None), ("free", "--no-cache"), ("free", None)],
)
def test_ten_kills_leave_the_summary_as_it_would_have_been(
    cli: Cli, server: OpenAIServer, api: list[str], history: str, cache: str | None
) -> None:
    command = [*api, *MORE, "--history", history, *([cache] if cache else [])]
    whole = [*command, "--out", "whole"]
    assert cli.fast(*whole, KARDIABENCH_CACHE=str(cli.folder / "other.sqlite")).rc == 0
    turns = len(cli.lines("replies.jsonl", "whole"))
    server.requests.clear()
    server.delay = 0.01
    moment = random.Random(f"{history} {cache}")
    for _ in range(KILLS):
        _kill_after(cli, server, command, moment.randint(1, 12), moment.uniform(0, 0.02))
    last = cli.fast(*command)
    assert last.rc == 0, last.err
    assert cli.summary() == cli.summary("whole")
    assert sum(replies_asked(server).values()) <= turns + KILLS * CONCURRENCY
    assert len(replies_asked(server)) == turns
    assert sum(verdicts_asked(server).values()) <= turns + KILLS * (CONCURRENCY + 1) + 1


def _kill_after(
    cli: Cli, server: OpenAIServer, command: list[str], hits: int, seconds: float
) -> None:
    goal = server.hits + hits
    started = cli.start(*command)
    until(lambda: server.hits >= goal or not started.alive)
    started.process.join(seconds)
    started.kill()


def test_a_run_goes_on_where_its_servers_have_moved_to(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    assert cli.fast(*api, *SMALL, "--no-cache", "--out", "whole").rc == 0
    with OpenAIServer() as gone:
        moved = [gone.url if word == server.url else word for word in api]
        started = cli.start(*moved, *SMALL, "--no-cache")
        until(lambda: gone.hits > 8)
        started.kill()
    stuck = cli.fast("resume", "out")
    assert (stuck.rc, "connection" in stuck.sentence) == (2, True)
    new = ("--api-base", server.url, "--judge-api-base", server.url)
    went_on = cli.fast("resume", "out", *new)
    assert went_on.rc == 0, went_on.err
    assert cli.summary() == cli.summary("whole")


def test_a_run_killed_while_judging_generates_nothing_again(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = [*api, *SMALL, "--no-cache"]
    assert cli.fast(*command, "--no-rubric").rc == 0
    turns = len(cli.lines("replies.jsonl"))
    before = sum(replies_asked(server).values())
    server.delay = 0.02
    scoring = ("score", "out", "--judge-model", "openai/judge", "--judge-api-base", server.url)
    _kill_after(cli, server, list(scoring), 10, 0)
    assert 0 < len(cli.lines("verdicts.jsonl")) < 3 * turns
    assert cli.fast("resume", "out").rc == 0
    assert sum(replies_asked(server).values()) == before == turns
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary() == cli.summary("whole")


@pytest.mark.parametrize("name", ["replies.jsonl", "verdicts.jsonl"])
def test_a_torn_last_line_is_done_again(
    cli: Cli, server: OpenAIServer, api: list[str], name: str
) -> None:
    assert cli.fast(*api, *SMALL).rc == 0
    expected = cli.summary()
    log = cli.folder / "out" / name
    log.write_bytes(log.read_bytes()[:-40])
    assert cli.fast("resume", "out").rc == 0
    assert cli.summary() == expected


def test_the_same_command_again_and_resume_do_nothing_more(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    first = cli.fast(*api, *SMALL)
    hits = server.hits
    again, resumed = cli.fast(*api, *SMALL), cli.fast("resume", "out")
    assert (first.rc, again.rc, resumed.rc) == (0, 0, 0)
    assert first.out == again.out == resumed.out
    assert server.hits == hits


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (["--system-prompt", "kardia"], ["protocol.prompts.system_prompt: 'dataset' -> 'kardia'"]),
        (["--judge-model", "openai/other-judge"], ["protocol.scorer.judges.rubric", "model"]),
        (["--seed", "7"], ["model.identity.seed: 0 -> 7"]),
        (["--limit", "3"], ["protocol.dataset.dialogues: 4 -> 3"]),
        (["--weight", "rubric=2", "--weight", "format=1"], ["protocol.scorer.weights.rubric"]),
        (["--temperature", "0.5"], ["model.identity.temperature: None -> 0.5"]),
        (["--on-missing", "zero"], ["protocol.scorer.missing: 'mask' -> 'zero'"]),
        (["--history", "free"], ["protocol.prompts.history: 'gold' -> 'free'"]),
        (["--no-rubric"], ["protocol.scorer.judges.rubric"]),
    ],
)
def test_a_changed_configuration_is_refused_and_named(
    cli: Cli, server: OpenAIServer, api: list[str], change: list[str], keys: list[str]
) -> None:
    assert cli.fast(*api, *SMALL).rc == 0
    hits, before = server.hits, cli.summary()
    refused = cli.fast(*api, *SMALL, *change)
    assert refused.rc == 2
    assert len(refused.err.splitlines()) == 1
    for key in keys:
        assert key in refused.err
    assert "kardiabench resume out" in refused.sentence
    assert (server.hits, cli.summary()) == (hits, before)


def test_what_changes_no_number_may_change_freely(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    assert cli.fast(*api, *SMALL).rc == 0
    traffic = ["--concurrency", "9", "--timeout", "7", "--retries", "1", "--min-coverage", "0.5"]
    assert cli.fast(*api, *SMALL, *traffic, "--skip-preflight", "--no-cache").rc == 0
    assert cli.fast("resume", "out", *traffic, "--retry-errors").rc == 0


def test_another_version_of_the_package_may_resume(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    assert cli.fast(*api, *SMALL).rc == 0
    manifest = cli.folder / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kardiabench": "', '"kardiabench": "9.'))
    assert cli.fast("resume", "out").rc == 0


def test_a_dataset_that_was_edited_is_refused(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    data = _write_dataset(cli.folder / "data.jsonl")
    command = [*api, "--dataset", str(data), "--out", "out"]
    assert cli.fast(*command).rc == 0
    data.write_text(data.read_text().replace("exam", "match"))
    for refused in (cli.fast(*command), cli.fast("resume", "out")):
        assert refused.rc == 2
        assert "protocol.dataset.fingerprint" in refused.err


def test_a_run_that_received_nothing_may_be_started_over(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    failed = cli.fast(*api, *SMALL, "--api-base", "http://127.0.0.1:9/v1")
    assert failed.rc == 2
    assert cli.fast(*api, *SMALL).rc == 0
    assert cli.fast("resume", "out").rc == 0


def test_a_plugin_is_loaded_again_on_resume_and_may_have_moved(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    plugin = cli.folder / "mine.py"
    plugin.write_text(_PLUGIN)
    command = [*api, *SMALL, "--judge", "length", "--plugin", "mine.py"]
    assert cli.fast(*command).rc == 0
    assert cli.fast("resume", "out").rc == 0
    assert cli.fast("resume", "out", "--plugin", "mine.py").rc == 0
    (cli.folder / "elsewhere").mkdir()
    plugin.rename(cli.folder / "elsewhere" / "mine.py")
    lost = cli.fast("resume", "out")
    assert (lost.rc, "mine.py" in lost.sentence) == (2, True)
    assert cli.fast("resume", "out", "--plugin", "elsewhere/mine.py").rc == 0


def test_skipped_rows_are_counted_and_are_no_failure(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    data = _write_dataset(cli.folder / "data.jsonl")
    data.write_text(data.read_text() + '{"person": 3}\n')
    command = [*api, "--dataset", str(data), "--out", "out"]
    assert cli.fast(*command).rc == 2
    done = cli.fast(*command, "--on-bad-row", "skip")
    assert done.rc == 0
    assert "rows skipped: 1" in done.out
    assert server.hits > 0


def test_two_processes_on_one_run_the_second_is_told(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.delay = 0.1
    first = cli.start(*api, *SMALL)
    until(lambda: server.hits > 3)
    second = cli.fast("resume", "out")
    assert second.rc == 2
    assert second.err.count("\n") == 1
    assert "in use by another kardiabench process" in second.sentence
    assert first.wait().rc == 0


def test_two_runs_share_the_cache_at_the_same_time(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    assert cli.fast(*api, *SMALL, "--out", "alone", "--no-cache").rc == 0
    started = [cli.start(*api, *SMALL, "--out", name) for name in ("one", "two")]
    assert [one.wait().rc for one in started] == [0, 0]
    assert cli.summary("one") == cli.summary("two") == cli.summary("alone")


def _write_dataset(path: Path) -> Path:
    from rowdata import make_row, write_rows

    return write_rows(path, [make_row(number) for number in range(5)])


_PLUGIN = """
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Verdict


class Length:
    name = "length"
    dimensions = (Dimension("length", 0, 1, "Whether there are words."),)
    identity = {"judge": "length", "levels": (0, 1)}

    async def judge(self, items):
        return [Verdict(i.turn.id, self.name, "", {"length": 1.0}) for i in items]


@hookimpl
def register_judges(register):
    register("length", lambda options, context: Length())
"""


def test_runs_that_differ_in_the_seed_have_one_protocol(cli: Cli, api: list[str]) -> None:
    for seed in ("1", "2"):
        assert cli.fast(*api, "--limit", "1", "--seed", seed, "--out", seed).rc == 0
    first, second = (json.loads(cli.summary(seed)) for seed in ("1", "2"))
    assert first["protocol"] == second["protocol"]
