"""`kardiabench show` and `kardiabench judges`."""

from __future__ import annotations

import pytest
from cli_process import Cli
from openai_server import OpenAIServer, unauthorized

from kardiabench import report

BUILT_IN = ["format", "emotion", "rubric", "safety", "pairwise", "panel", "smoke"]
RUN = ("run", "--dataset", "sample", "--limit", "4", "--judge", "smoke")


def test_runs_stand_side_by_side_and_different_protocols_are_warned_of(cli: Cli) -> None:
    assert cli.fast(*RUN, "--model", "baseline/majority", "--out", "a").rc == 0
    assert cli.fast(*RUN, "--model", "baseline/tfidf", "--out", "b").rc == 0
    assert cli.fast(*RUN, "--model", "baseline/tfidf", "--limit", "3", "--out", "c").rc == 0
    same = cli.fast("show", "a", "b")
    assert (same.rc, same.err) == (0, "")
    assert "baseline/majority" in same.out
    assert "baseline/tfidf" in same.out
    different = cli.fast("show", "a", "c")
    assert different.rc == 0
    assert "different protocols" in different.sentence
    as_json = cli.fast("show", "a", "c", "--json")
    assert [one["model"] for one in as_json.json()] == ["baseline/majority", "baseline/tfidf"]


def test_a_run_that_was_stopped_before_its_first_reply_can_be_shown(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.default = unauthorized()
    assert cli.fast(*api, "--limit", "4", "--out", "out", "--skip-preflight").rc == 3
    shown = cli.fast("show", "out")
    assert (shown.rc, shown.err) == (0, "")
    assert "0 of 15" in shown.out
    assert "this run is not complete" in shown.out
    assert cli.fast("show", "out", "--json").json()[0]["composite"]["mean"] is None


def test_a_run_whose_every_turn_failed_can_be_shown(cli: Cli) -> None:
    (cli.folder / "none.jsonl").write_text('{"turn_id": "d0/0", "text": "?"}\n')
    done = cli.fast(*RUN, "--model", "replay/none.jsonl", "--out", "out")
    assert done.rc == 3
    assert "error 15" in done.out
    assert "(0%)" in done.out


def test_judges_are_listed_with_where_they_come_from(cli: Cli) -> None:
    listed = cli.fast("judges", "--json").json()
    assert [row["name"] for row in listed["judges"]] == BUILT_IN
    assert {row["from"] for row in listed["judges"]} == {"built in"}
    unmade = [row for row in listed["judges"] if not row["fingerprint"]]
    assert [row["name"] for row in unmade] == ["panel"]
    assert "write for example panel:models=" in unmade[0]["problem"]
    assert listed["problems"] == []
    table = cli.fast("judges")
    assert "rubric" in table.out
    assert table.err == ""


def test_judges_show_prints_the_exact_prompt(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    shown = cli.fast("judges", "show", f"rubric:model=openai/judge,api_base={server.url}")
    assert shown.rc == 0
    assert cli.fast(*api, "--limit", "1", "--out", "out").rc == 0
    systems = {r.body["messages"][0]["content"] for r in server.requests}
    assert any(system in shown.out for system in systems if "persona_consistency" in system)
    assert "asks no model" in cli.fast("judges", "show", "format").out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_print_in_any_encoding(cli: Cli, encoding: str) -> None:
    assert cli.fast(*RUN, "--model", "baseline/majority", "--out", "a").rc == 0
    shown = cli("show", "a", PYTHONIOENCODING=encoding)
    assert (shown.rc, shown.err) == (0, "")
    assert "emotion" in shown.out


def test_names_of_dimensions_are_text_and_no_markup() -> None:
    estimate = {"mean": 1.0, "low": None, "high": None, "coverage": 1.0}
    label = report._label("[red]x[/red]", "\x1b[31m[bold]y")
    assert label.plain == "[red]x[/red]: \N{REPLACEMENT CHARACTER}[31m[bold]y"
    assert report._estimate(estimate) == "1.000 (100%)"
