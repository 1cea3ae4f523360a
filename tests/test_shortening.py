"""`--truncate-history`: what is left out, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli
from hypothesis import given
from hypothesis import strategies as st
from openai_server import Behaviour, OpenAIServer, context_exceeded, history_of, rate_limited
from requests_seen import is_judge, is_tiny

from kardiabench.records import ChatRequest, Completion, Message, Reply
from kardiabench.shortening import is_shortened, noting_shortened, overflows, without_oldest

# --- what is left out ----------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> ChatRequest:
    """A prompt of one or more exchanges, the last without its reply; perhaps a system prompt."""
    number = draw(st.integers(0, 6))
    messages = [Message("system", "be kind")] if draw(st.booleans()) else []
    for index in range(number):
        messages += [Message("user", f"u{index}"), Message("assistant", f"a{index}")]
    return ChatRequest((*messages, Message("user", "last")), "d/3", "p", sample=2, top_logprobs=4)


@given(requests(), st.integers(1, 8))
def test_whole_exchanges_are_left_out_and_the_system_prompt_and_last_message_stay(
    request: ChatRequest, exchanges: int
) -> None:
    messages = request.messages
    system = [message for message in messages if message.role == "system"]
    shorter = without_oldest(request, exchanges)
    if 2 * exchanges > len(messages) - len(system) - 1:
        assert shorter is None
        return
    assert shorter is not None
    kept = shorter.messages
    assert [message for message in kept if message.role == "system"] == system
    assert kept[-1] == messages[-1]
    assert len(kept) == len(messages) - 2 * exchanges
    assert kept[len(system) :] == messages[len(system) + 2 * exchanges :]
    assert kept[len(system)].role == "user"
    assert (shorter.turn_id, shorter.persona_id, shorter.sample) == ("d/3", "p", 2)
    assert shorter.top_logprobs == 4


@given(requests())
def test_step_by_step_only_the_last_message_is_left_in_the_end(request: ChatRequest) -> None:
    count = sum(message.role == "assistant" for message in request.messages)
    steps = [without_oldest(request, exchanges) for exchanges in range(count + 2)]
    assert steps[0] == request
    assert steps[count + 1] is None
    last = steps[count]
    assert last is not None
    assert [m.role for m in last.messages if m.role != "system"] == ["user"]


@pytest.mark.parametrize(
    ("status", "detail", "expected"),
    [
        ("error", "context: too long", True),
        ("error", "context", True),
        ("error", "contextual: no", False),
        ("error", "rate_limit: context", False),
        ("ok", "context: what a model says", False),
    ],
)
def test_only_the_context_is_a_reason_to_shorten(status: Any, detail: str, expected: bool) -> None:
    assert overflows(Completion(status=status, detail=detail)) is expected


def test_a_failure_keeps_its_own_reason() -> None:
    failed = Completion(status="error", detail="server: down")
    assert noting_shortened(failed, 2) is failed
    noted = noting_shortened(Completion("hello", status="truncated"), 2)
    assert noted == Completion(
        "hello", status="truncated", detail="shortened: 2 exchanges left out"
    )
    refused = noting_shortened(Completion(status="refused", detail="refusal"), 1)
    assert refused.detail == "shortened: 1 exchange left out; refusal"
    assert is_shortened(Reply.of("d/1", noted))
    assert not is_shortened(Reply.of("d/1", failed))
    assert not is_shortened(Reply("d/1", "", status="error", detail="shortened: by nobody"))


# --- over an API ---------------------------------------------------------------------------------

#: Messages that the model under test takes: system prompt, an exchange, the user's last.
MOST = 4
SMALL = ("--limit", "4", "--out", "out")


def _short_of_memory(body: Mapping[str, Any]) -> Behaviour | None:
    too_long = not is_judge(body) and len(body["messages"]) > MOST
    return context_exceeded() if too_long else None


def _replies(cli: Cli, run: str = "out") -> dict[str, dict[str, Any]]:
    """The last reply of each turn."""
    lines = [line["reply"] for line in cli.lines("replies.jsonl", run)]
    return {line["turn_id"]: line for line in lines}


def _shortened(cli: Cli, run: str = "out") -> dict[str, str]:
    """The details of the replies to a shortened history."""
    replies = _replies(cli, run).items()
    return {t: r["detail"] for t, r in replies if r["detail"].startswith("shortened:")}


def _summary(cli: Cli, run: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli.summary(run))
    return found


def _protocol(cli: Cli, run: str = "out") -> tuple[str, Any]:
    manifest = json.loads((cli.folder / run / "manifest.json").read_text())
    return manifest["protocol_id"], manifest["protocol"]["prompts"].get("truncate_history")


def _asked(server: OpenAIServer) -> list[list[dict[str, str]]]:
    """The prompts that the model under test was sent."""
    bodies = [r.body for r in server.requests if not is_judge(r.body) and not is_tiny(r.body)]
    return [body["messages"] for body in bodies]


def _later(cli: Cli, run: str = "out") -> set[str]:
    """The turns whose prompts the model does not take whole: those after the second."""
    return {turn for turn in _replies(cli, run) if int(turn.rpartition("/")[2]) > 1}


def test_without_the_option_such_turns_fail(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    server.rule = _short_of_memory
    done = cli.fast(*api, *SMALL, "--no-rubric")
    assert done.rc == 3
    failed = {turn for turn, reply in _replies(cli).items() if reply["status"] == "error"}
    assert failed == _later(cli)
    assert failed
    turns = _summary(cli)["turns"]
    assert turns["errors_by_kind"] == {"context": len(failed)}
    assert "shortened" not in turns
    assert "history shortened" not in done.out
    assert max(map(len, _asked(server))) > MOST


def test_an_api_is_asked_again_with_fewer_messages(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.rule = _short_of_memory
    command = [*api, *SMALL, "--truncate-history"]
    done = cli.fast(*command, "--no-cache")
    assert done.rc == 0, done.err
    assert {reply["status"] for reply in _replies(cli).values()} == {"ok"}
    shortened = _shortened(cli)
    assert shortened.keys() == _later(cli)
    for turn, detail in shortened.items():
        left_out = int(turn.rpartition("/")[2]) - 1  # all but the last exchange
        assert detail.startswith(f"shortened: {left_out} exchange")
    _assert_asked_for_less_each_time(server)
    assert _summary(cli)["turns"]["shortened"] == len(shortened)
    assert _summary(cli)["turns"]["errors_by_kind"] == {}
    hits = server.hits
    assert cli.fast(*command, "--no-cache").rc == 0
    assert server.hits == hits


def _assert_asked_for_less_each_time(server: OpenAIServer) -> None:
    """Each prompt that was refused was sent again without its oldest exchange."""
    prompts = [json.dumps(messages) for messages in _asked(server)]
    refused = [messages for messages in _asked(server) if len(messages) > MOST]
    assert refused
    for system, *history in refused:
        assert system["role"] == "system"
        assert json.dumps([system, *history[2:]]) in prompts


def test_judges_read_the_whole_history(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    server.rule = _short_of_memory
    assert cli.fast(*api, *SMALL, "--truncate-history", "--no-cache").rc == 0
    shown = [
        len(history_of(request.body["messages"][1]["content"]))
        for request in server.requests
        if is_judge(request.body) and not is_tiny(request.body)
    ]
    # Before the user's last message stand two for every exchange so far.
    lengths = [2 * int(turn.rpartition("/")[2]) for turn in _replies(cli)]
    whole = sorted(lengths)
    assert max(whole) > MOST
    first, *rest = shown  # the preflight's
    assert first <= 1
    assert sorted(rest) in (whole, [length + 1 for length in whole])


def test_the_table_and_the_protocol_say_so(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    assert cli.fast(*api, *SMALL, "--no-rubric").rc == 0
    assert "history shortened" not in cli.fast("show", "out").out
    server.rule = _short_of_memory
    refused = cli.fast(*api, *SMALL, "--no-rubric", "--truncate-history")
    assert (refused.rc, "truncate_history" in refused.sentence) == (2, True)
    more = ("--no-rubric", "--truncate-history", "--no-cache", "--out", "cut")
    assert cli.fast(*api, *SMALL, *more).rc == 0
    (row,) = [s for s in cli.fast("show", "cut").out.splitlines() if "history shortened" in s]
    assert row.split("│")[2].strip() == str(len(_later(cli, "cut")))
    assert _protocol(cli, "cut")[1] is True
    assert _protocol(cli)[1] is None
    assert _protocol(cli, "cut")[0] != _protocol(cli)[0]


def test_replies_to_less_than_was_asked_are_not_cached(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.rule = _short_of_memory
    command = [*api, *SMALL, "--no-rubric", "--truncate-history"]
    assert cli.fast(*command).rc == 0
    shortened = _shortened(cli)
    server.requests.clear()
    assert cli.fast(*command, "--out", "again").rc == 0
    asked = [messages for messages in _asked(server) if len(messages) <= MOST]
    assert len(asked) == len(shortened)  # the others come from the cache
    assert cli.summary("again") == cli.summary()
    # Who wants the whole history read is not given the reply to a part of it.
    assert cli.fast(*api, *SMALL, "--no-rubric", "--out", "whole").rc == 3
    assert _summary(cli, "whole")["turns"]["errors_by_kind"] == {"context": len(shortened)}
    server.rule = None
    assert cli.fast(*command, "--out", "larger").rc == 0
    assert not _shortened(cli, "larger")
    assert "shortened" not in _summary(cli, "larger")["turns"]


def test_another_failure_of_a_shortened_prompt_is_what_is_told(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    def rule(body: Mapping[str, Any]) -> Behaviour | None:
        busy = not is_judge(body) and len(body["messages"]) == MOST and "|>" in str(body)
        return _short_of_memory(body) or (rate_limited() if busy else None)

    server.rule = rule
    assert cli.fast(*api, *SMALL, "--no-rubric", "--truncate-history", "--no-cache").rc == 3
    failed = [r for r in _replies(cli).values() if r["status"] == "error"]
    assert failed
    assert all(reply["detail"].startswith("rate_limit:") for reply in failed)
    assert not _shortened(cli)
    server.rule = _short_of_memory
    assert cli.fast("resume", "out", "--retry-errors").rc == 0
    assert _shortened(cli).keys() == _later(cli)


# --- in this process -----------------------------------------------------------------------------

#: Room for the first turns of dialogues; the third is read without two exchanges.
CONTEXT = 1200
TOKENS = 16
LOCAL = ("--dataset", "sample", "--no-rubric", "--limit", "2", "--max-tokens", str(TOKENS))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`large` can read the first turn of each dialogue whole, `small` not even that of each."""
    import lively_models

    folder = tmp_path_factory.mktemp("models")
    lively_models.build(folder / "large", context=CONTEXT)
    lively_models.build(folder / "small", context=900)
    return folder


@pytest.fixture
def local(tmp_path: Path, models: Path) -> Cli:
    """The command line with torch in it."""
    from warm_cli import WarmCli

    folder = tmp_path / "local"
    folder.mkdir()
    return WarmCli.in_folder(folder)


def _run(cli: Cli, model: Path, out: str, *more: str) -> int:
    return cli.fast("run", "--model", f"hf/{model}", *LOCAL, "--out", out, *more).rc


def test_a_local_model_reads_as_much_as_its_context_holds(local: Cli, models: Path) -> None:
    assert _run(local, models / "large", "whole") == 3
    whole = _replies(local, "whole")
    failed = {turn for turn, reply in whole.items() if reply["status"] == "error"}
    assert 0 < len(failed) < len(whole)
    assert _summary(local, "whole")["turns"]["errors_by_kind"] == {"context": len(failed)}

    assert _run(local, models / "large", "cut", "--truncate-history") == 0
    cut = _replies(local, "cut")
    assert cut.keys() == whole.keys()
    assert _shortened(local, "cut").keys() == failed
    assert {detail.split()[1] for detail in _shortened(local, "cut").values()} == {"1", "2"}
    assert _summary(local, "cut")["turns"]["shortened"] == len(failed)
    for turn, reply in cut.items():
        assert reply["status"] in ("ok", "truncated")
        assert 800 < reply["usage"]["prompt_tokens"] <= CONTEXT - TOKENS
        if turn not in failed:
            assert (reply["text"], reply["detail"]) == (whole[turn]["text"], "")
    assert _protocol(local, "cut")[0] != _protocol(local, "whole")[0]

    files = [local.folder / "cut" / name for name in ("replies.jsonl", "verdicts.jsonl")]
    before = [path.read_bytes() for path in files]
    assert _run(local, models / "large", "cut", "--truncate-history") == 0
    assert [path.read_bytes() for path in files] == before


def test_where_not_even_the_last_message_fits_the_turn_fails(local: Cli, models: Path) -> None:
    assert _run(local, models / "small", "out", "--truncate-history") == 3
    replies = _replies(local)
    failed = [reply for reply in replies.values() if reply["status"] == "error"]
    assert failed
    assert _summary(local)["turns"]["errors_by_kind"] == {"context": len(failed)}
    assert all(reply["detail"].startswith("context: ") for reply in failed)
