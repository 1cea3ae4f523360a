"""`--dry-run` sends nothing and comes near what the run then takes."""

from __future__ import annotations

import pytest
from cli_process import Cli
from openai_server import OpenAIServer
from requests_seen import replies_asked, verdicts_asked


@pytest.mark.parametrize("history", ["gold", "free"])
def test_a_dry_run_sends_nothing_and_is_near_the_truth(
    cli: Cli, server: OpenAIServer, api: list[str], history: str
) -> None:
    command = [*api, "--no-cache", "--history", history, "--out", "out"]
    replies, rubric = cli.fast(*command, "--dry-run", "--json").json()
    assert server.hits == 0
    assert not (cli.folder / "out").exists()
    done = cli.fast(*command, "--json").json()
    assert replies["calls"] == sum(replies_asked(server).values()) == 133
    assert rubric["calls"] == sum(verdicts_asked(server).values()) - 1  # the preflight's
    used = done["usage"]
    assert replies["prompt_tokens"] == pytest.approx(used["model"]["prompt_tokens"], rel=0.25)
    judged = used["judges"]["rubric"]["prompt_tokens"]
    assert rubric["prompt_tokens"] == pytest.approx(judged, rel=0.25)
    assert replies["answer_tokens_low"] <= 2.5 * used["model"]["completion_tokens"]
    assert used["model"]["completion_tokens"] <= replies["answer_tokens_high"]


def test_a_dry_run_gives_a_range_of_prices(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    command = [*api, "--model", "openai/gpt-4o", "--judge-model", "openai/gpt-4o-mini"]
    replies, rubric = cli.fast(*command, "--dry-run", "--json").json()
    for line in (replies, rubric):
        assert 0 < line["price_low"] < line["price_high"]
    table = cli.fast(*command, "--dry-run").out
    assert "Estimate for 133 turns" in table
    low = replies["price_low"] + rubric["price_low"]
    high = replies["price_high"] + rubric["price_high"]
    assert f"{low:.2f} to {high:.2f}" in table
    spent = cli.fast(*command, "--out", "out", "--no-cache", "--json").json()["usage"]
    assert low / 2 < spent["model"]["cost"] + spent["judges"]["rubric"]["cost"] < high


def test_an_unknown_price_is_said_to_be_unknown(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    shown = cli.fast(*api, "--dry-run")
    assert (shown.rc, shown.err) == (0, "")
    assert "unknown" in shown.out


def test_samples_multiply_the_judges_calls(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    judge = f"rubric:model=openai/judge,api_base={server.url},samples=3"
    _, rubric = cli.fast(*api, "--judge", judge, "--dry-run", "--json").json()
    assert rubric["calls"] == 3 * 133


def test_offline_models_cost_nothing(cli: Cli) -> None:
    command = ("run", "--model", "baseline/majority", "--dataset", "sample", "--no-rubric")
    assert "Nothing to pay" in cli.fast(*command, "--dry-run").out
    assert cli.fast(*command, "--max-cost", "0").rc == 0
