"""Replies from elsewhere: found by turn, missing ones told, bad lines named."""

import asyncio
import gzip
import hashlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench.contracts import ModelOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.replay import ReplayModel, build
from kardiabench.records import ChatRequest, Completion, Message


@pytest.fixture
def write(tmp_path):
    def write(*records, name="replies.jsonl", end="\n"):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        file = tmp_path / name
        file.write_text("\n".join(lines) + end, encoding="utf-8")
        return file

    return write


def replies(model, *turn_ids: str) -> list[Completion]:
    requests = [ChatRequest((Message("user", "hi"),), turn_id=turn_id) for turn_id in turn_ids]
    return asyncio.run(used(model, model.complete(requests)))


def preflight(model) -> None:
    asyncio.run(used(model, model.preflight()))


async def used(model, doing):
    try:
        return await doing
    finally:
        await model.aclose()


def test_each_turn_gets_its_own_reply_in_the_order_asked(write):
    model = ReplayModel(write({"turn_id": "d/0", "text": "a"}, {"turn_id": "d/1", "text": "b"}))
    assert [c.text for c in replies(model, "d/1", "d/0", "d/1")] == ["b", "a", "b"]


def test_dialogue_and_index_and_the_key_reply_do_as_well(write):
    model = ReplayModel(write({"dialogue_id": "d", "index": 2, "reply": "a", "model": "theirs"}))
    assert replies(model, "d/2") == [Completion(text="a", text_source="file")]


def test_the_last_record_of_a_turn_counts(write):
    model = ReplayModel(write({"turn_id": "d/0", "text": "a"}, {"turn_id": "d/0", "text": "b"}))
    assert replies(model, "d/0")[0].text == "b"


def test_a_missing_turn_is_an_error_that_says_so(write):
    file = write({"turn_id": "d/0", "text": "a"})
    [completion] = replies(ReplayModel(file), "d/9")
    assert completion.status == "error"
    assert completion.detail == f"missing: no reply for turn d/9 in {file}"


@pytest.mark.parametrize(
    ("given_fields", "status"),
    [
        ({}, "ok"),
        ({"finish_reason": "stop"}, "ok"),
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": "content_filter"}, "refused"),
        ({"finish_reason": "length", "status": "ok"}, "ok"),
        ({"status": "error", "detail": "timeout: 60 s"}, "error"),
    ],
)
def test_status_is_the_files_own_or_follows_the_finish_reason(write, given_fields, status):
    model = ReplayModel(write({"turn_id": "d/0", "text": "a", **given_fields}))
    [completion] = replies(model, "d/0")
    assert completion.status == status
    assert completion.finish_reason == given_fields.get("finish_reason")
    assert completion.detail == given_fields.get("detail", "")


def test_a_reply_that_failed_needs_no_text(write):
    model = ReplayModel(write({"turn_id": "d/0", "status": "refused", "text": None}))
    assert replies(model, "d/0")[0].status == "refused"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"text": "a"}, "neither turn_id nor dialogue_id"),
        ({"dialogue_id": "d", "index": "0", "text": "a"}, "neither turn_id nor dialogue_id"),
        ({"dialogue_id": "d", "index": True, "text": "a"}, "neither turn_id nor dialogue_id"),
        ({"turn_id": "d/0"}, "neither text nor reply"),
        ({"turn_id": "d/0", "text": ["a"]}, "text is not a string"),
        ({"turn_id": "d/0", "text": "a", "status": "truncatd"}, "'truncated'"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(write, line, reason):
    file = write({"turn_id": "d/0", "text": "a"}, line, {"turn_id": "d/1", "text": "b"})
    with pytest.raises(PreflightError, match=rf"replies\.jsonl, line 2: .*{reason}"):
        preflight(ReplayModel(file))


def test_invalid_utf8_is_named(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_bytes(b'{"turn_id": "d/0", "text": "\xff"}\n')
    with pytest.raises(PreflightError, match=r"line 1: invalid UTF-8 at byte 28"):
        preflight(ReplayModel(file))


def test_bad_lines_can_be_passed_over_and_their_turns_are_then_missing(write):
    file = write("{", {"turn_id": "d/1", "text": "b"})
    model = build(f"replay/{file}", ModelOptions(extra={"on_bad_line": "skip"}))
    preflight(model)
    assert [c.status for c in replies(model, "d/0", "d/1")] == ["error", "ok"]


def test_blank_lines_a_byte_order_mark_and_no_last_line_break_are_fine(write):
    first = "\ufeff" + json.dumps({"turn_id": "d/0", "text": "a"})
    model = ReplayModel(write(first, "", {"turn_id": "d/1", "text": "b"}, end=""))
    assert [c.text for c in replies(model, "d/0", "d/1")] == ["a", "b"]


def test_a_gzip_is_read_whatever_its_name(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_bytes(gzip.compress(b'{"turn_id": "d/0", "text": "a"}\n'))
    assert replies(ReplayModel(file), "d/0")[0].text == "a"


def test_a_gzip_that_was_cut_off_is_told(tmp_path):
    file = tmp_path / "r.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"turn_id": "d/0", "text": "a"}\n' * 99)[:-12])
    with pytest.raises(PreflightError, match=r"cannot read the replies in .*r\.jsonl\.gz"):
        preflight(ReplayModel(file))


def test_a_run_directory_is_replayed_without_the_line_it_was_writing_when_killed(write):
    file = write({"turn_id": "d/0", "text": "a", "usage": {"calls": 1}}, '{"turn_id": "d/', end="")
    assert replies(ReplayModel(file.parent), "d/0")[0].text == "a"
    with pytest.raises(PreflightError, match="line 2"):
        preflight(ReplayModel(file))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_replies_fails_the_preflight(write, content):
    file = write(content)
    with pytest.raises(PreflightError, match="no usable reply"):
        preflight(ReplayModel(file))


def test_a_missing_file_or_directory_without_replies_fails_the_preflight(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.jsonl"):
        with pytest.raises(PreflightError, match="No such file"):
            preflight(ReplayModel(path))


def test_identity_is_the_content_and_not_the_place(write, tmp_path):
    file = write({"turn_id": "d/0", "text": "a"}, name="mine.jsonl")
    (tmp_path / "sub").mkdir()
    copy = tmp_path / "sub" / "mine.jsonl"
    copy.write_bytes(file.read_bytes())
    models = ReplayModel(file), ReplayModel(copy)
    identity, same = (model.identity for model in models)
    assert identity["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert identity == same
    for model in models:
        preflight(model)
    assert str(tmp_path) not in json.dumps(identity)


def test_a_file_rewritten_while_it_is_replayed_is_told(write):
    file = write({"turn_id": "d/0", "text": "a"}, {"turn_id": "d/1", "text": "b"})
    model = ReplayModel(file)
    asyncio.run(model.preflight())
    write({"turn_id": "d/5", "text": "something longer than what was there before, much"})
    assert [c.detail.split(":")[0] for c in replies(model, "d/0", "d/1")] == ["changed"] * 2


def test_a_closed_model_opens_its_file_again(write):
    model = ReplayModel(write({"turn_id": "d/0", "text": "a"}))
    assert [replies(model, "d/0")[0].text for _ in range(2)] == ["a", "a"]
    asyncio.run(model.aclose())


def test_arguments_are_checked_when_it_is_built():
    with pytest.raises(ConfigError, match="'on_bad_line'"):
        build("replay/x", ModelOptions(extra={"on_bad_lines": "skip"}))
    with pytest.raises(ConfigError, match="fail or skip"):
        build("replay/x", ModelOptions(extra={"on_bad_line": "ignore"}))
    with pytest.raises(ConfigError, match="needs a file"):
        build("replay/", ModelOptions())


@given(texts=st.lists(st.text(st.characters(codec=None)), min_size=1, max_size=6))
def test_any_text_comes_back_as_it_was_but_for_lone_surrogates(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("replay") / "r.jsonl"
    records = [{"turn_id": f"d/{n}", "text": text} for n, text in enumerate(texts)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    model = ReplayModel(file)
    found = replies(model, *(record["turn_id"] for record in records))
    for completion, text in zip(found, texts, strict=True):
        wanted = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert completion.text == wanted


def test_the_index_of_twenty_thousand_replies_holds_no_text(tmp_path):
    file = tmp_path / "r.jsonl"
    ids = [f"d{n:016x}/{n % 10}" for n in range(20_290)]
    with file.open("w") as out:
        for turn_id in ids:
            out.write(json.dumps({"turn_id": turn_id, "text": "x" * 1500}) + "\n")
    model = ReplayModel(file)
    tracemalloc.start()
    asyncio.run(model.preflight())
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 8e6  # the text alone is 30 MB
    assert {c.status for c in replies(model, *ids)} == {"ok"}


def test_a_run_directory_is_replayed(cli, tmp_path):
    sample = ("--dataset", "sample", "--limit", "3", "--judge", "smoke")
    assert cli.fast("run", "--model", "baseline/majority", *sample, "--out", "first").rc == 0
    again = cli.fast("run", "--model", "replay/first", *sample, "--out", "second")
    assert again.rc == 0, again.err
    said = [
        {
            line["reply"]["turn_id"]: line["reply"]["text"]
            for line in cli.lines("replies.jsonl", run)
        }
        for run in ("first", "second")
    ]
    assert said[0] == said[1]


def test_replies_to_like_prompts_are_not_mixed_up_by_the_cache(cli, tmp_path):
    from rowdata import exchange, gold, make_row, write_rows

    rows = [
        make_row(situation=f"situation {n}", messages=exchange("hello", gold("sad")))
        for n in range(2)
    ]
    write_rows(cli.folder / "test.jsonl", rows)
    dataset = ("--dataset", "test.jsonl", "--judge", "smoke", "--system-prompt", "fixed.txt")
    (cli.folder / "fixed.txt").write_text("Be kind.")
    listed = cli.fast("prompts", "--dataset", "test.jsonl").out.splitlines()
    ids = [json.loads(line)["turn_id"] for line in listed]
    replies = [{"turn_id": turn, "text": f"reply to {turn}"} for turn in ids]
    (cli.folder / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
    for out in ("first", "second"):
        assert cli.fast("run", "--model", "replay/r.jsonl", *dataset, "--out", out).rc == 0
        for line in cli.lines("replies.jsonl", out):
            assert line["reply"]["text"] == f"reply to {line['reply']['turn_id']}"


def test_an_error_in_the_file_stops_nothing(cli, tmp_path):
    listed = cli.fast("prompts", "--limit", "2").out.splitlines()
    ids = [json.loads(line)["turn_id"] for line in listed]
    bad = {"turn_id": ids[0], "status": "error", "detail": "auth: 401 back then"}
    replies = [bad, *({"turn_id": turn, "text": "hm"} for turn in ids[1:])]
    (cli.folder / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
    command = ("run", "--model", "replay/r.jsonl", "--dataset", "sample", "--limit", "2")
    ended = cli.fast(*command, "--judge", "smoke", "--out", "out")
    assert (ended.rc, "1 turns ended in an error (auth 1)" in ended.sentence) == (3, True)
    assert len(cli.lines("replies.jsonl")) == len(ids)
