"""The run directory: torn lines, full disks, locks, and files that somebody changed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rundata import StubJudge, make_item, make_manifest, make_run, make_turn, say

from kardiabench.errors import ConfigError, KardiaBenchError, RunError, StorageError
from kardiabench.files import Log, write_json
from kardiabench.fingerprints import digest
from kardiabench.manifests import MANIFEST, MANIFEST_VERSION, read_manifest
from kardiabench.pending import Pending
from kardiabench.records import Completion, Reply, Usage, Verdict
from kardiabench.results import read_results
from kardiabench.store import (
    REPLIES,
    SUMMARY,
    VERDICTS,
    RunStore,
    create,
    iterate_replies,
    iterate_verdicts,
    read_summary,
    reply_at,
    reply_digest,
)

JUDGE = StubJudge()


def lines_of(count: int):
    items = [
        make_item("d0", n, say("sad", f"Reply {n}, “there” \u2028 é\n.")) for n in range(count)
    ]
    return [(item.turn, item.reply, [JUDGE.verdict(item)]) for item in items]


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run", make_manifest([JUDGE], 3), lines_of(3))


def replies(path: Path) -> list[Reply]:
    return [stored.reply for _, stored in iterate_replies(path)]


def verdicts(path: Path) -> list[Verdict]:
    return [line.verdict for line in iterate_verdicts(path)]


def reopen(path: Path) -> None:
    with RunStore(path):
        pass


# --- what is written is read back -----------------------------------------------------------------


def test_replies_and_verdicts_come_back_in_order(run):
    expected = lines_of(3)
    assert replies(run) == [reply for _, reply, _ in expected]
    assert verdicts(run) == [verdict for _, _, (verdict,) in expected]
    first = next(iterate_replies(run)).stored
    assert (first.persona_id, first.gold_emotion, first.gold_source) == ("p0", "sad", "span")


def test_a_reply_is_found_again_at_its_offset(run):
    for offset, stored in iterate_replies(run):
        assert reply_at(run, offset) == stored.reply


floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
usages = st.builds(Usage, *[st.integers(0, 2**53)] * 5, st.none() | floats)


@given(texts, texts, texts, usages, floats, st.none() | texts)
@settings(max_examples=60, deadline=None)
def test_any_reply_comes_back_equal(tmp_path_factory, text, detail, why, usage, latency, finish):
    reply = Reply("d0/0", text, "ok", detail, finish, why, usage, latency)
    path = tmp_path_factory.mktemp("s")
    make_run(path, make_manifest([JUDGE], 1), [(make_turn(), reply, [])])
    assert repr(replies(path)) == repr([reply])


@given(st.dictionaries(texts, st.none() | floats), st.dictionaries(texts, texts), usages)
@settings(max_examples=60, deadline=None)
def test_any_verdict_comes_back_equal_to_the_last_bit(tmp_path_factory, scores, evidence, usage):
    verdict = Verdict("d0/0", "j", "f", scores, "ok", evidence, usage)
    path = tmp_path_factory.mktemp("s")
    make_run(path, make_manifest([JUDGE], 1), [(make_turn(), Reply("d0/0", ""), [verdict])])
    assert repr(verdicts(path)) == repr([verdict])


def test_a_nan_cannot_be_stored_as_a_score(tmp_path):
    verdict = Verdict("d0/0", "j", "f", {"d": math.nan}, usage=Usage(cost=math.inf))
    make_run(tmp_path, make_manifest([JUDGE], 1), [(make_turn(), Reply("d0/0", ""), [verdict])])
    assert b"NaN" not in (tmp_path / VERDICTS).read_bytes()
    assert verdicts(tmp_path) == [replace(verdict, scores={"d": None}, usage=Usage())]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_nan_in_a_log_is_a_damaged_line(run, number):
    log = run / VERDICTS
    log.write_bytes(log.read_bytes().replace(b'"d":1.0', b'"d":' + number, 1))
    with pytest.raises(RunError, match="byte 0: this line was changed or damaged"):
        verdicts(run)


def test_whatever_a_backend_answers_becomes_a_reply_that_can_be_stored(tmp_path):
    wild = Completion("a\ud800b", "\udfff", status="error", detail="\ud83d", latency=math.nan)
    reply = Reply.of("d0/0", wild)
    make_run(tmp_path, make_manifest([JUDGE], 1), [(make_turn(), reply, [])])
    assert replies(tmp_path) == [reply]
    assert (reply.text, reply.latency) == ("a\ufffdb", 0.0)


# --- torn lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [REPLIES, VERDICTS])
def test_a_last_line_torn_at_any_byte_is_cut_and_the_rest_kept(run, log):
    file = run / log
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = b"".join(lines[:-1])
    for size in range(len(kept), len(whole)):
        file.write_bytes(whole[:size])
        before = [replies(run), verdicts(run)]  # a reader leaves out what is not whole
        reopen(run)
        assert file.read_bytes() == kept
        assert [replies(run), verdicts(run)] == before
    file.write_bytes(whole)
    reopen(run)
    assert file.read_bytes() == whole


def test_a_torn_only_line_leaves_an_empty_log(run):
    (run / REPLIES).write_bytes(b'{"persona_id":"p')
    reopen(run)
    assert (run / REPLIES).read_bytes() == b""


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 2**18])
def test_a_torn_line_longer_than_a_block_is_cut(tmp_path, size):
    file = tmp_path / "log"
    file.write_bytes(b"kept\n" + b"x" * size)
    Log(file).close()
    assert file.read_bytes() == b"kept\n"
    file.write_bytes(b"x" * size)
    Log(file).close()
    assert file.read_bytes() == b""


def test_after_a_torn_line_writing_goes_on_where_it_was_cut(run):
    file = run / REPLIES
    size = file.stat().st_size
    file.write_bytes(file.read_bytes() + b'{"torn')
    turn = make_turn("d0", 3)
    with RunStore(run) as store:
        assert store.append_reply(turn, Reply(turn.id, "x")) == size
    assert [reply.turn_id for reply in replies(run)] == ["d0/0", "d0/1", "d0/2", "d0/3"]


# --- the last line wins ---------------------------------------------------------------------------


def test_the_last_reply_to_a_turn_counts(run):
    turn = make_turn("d0", 1)
    manifest = read_manifest(run)
    with RunStore(run) as store:
        offset = store.append_reply(turn, Reply(turn.id, "again", "truncated"))
    results = read_results(run, manifest)
    assert results.turns["d0/1"].status == "truncated"
    assert Pending(run, {}).offset(turn) == offset


def test_a_verdict_on_a_reply_that_was_replaced_does_not_count(run):
    turn = make_turn("d0", 1)
    fingerprints = {"stub": JUDGE.verdict(make_item()).fingerprint}
    assert Pending(run, fingerprints).missing_judges(turn) == ()
    with RunStore(run) as store:
        store.append_reply(turn, Reply(turn.id, "again"))
    assert read_results(run, read_manifest(run)).turns["d0/1"].verdicts == {}
    assert Pending(run, fingerprints).missing_judges(turn) == ("stub",)


def test_the_last_verdict_of_a_judge_counts(run):
    item = make_item("d0", 0, say("sad", "Reply 0, “there” \u2028 é\n."))
    with RunStore(run) as store:
        store.append_verdicts(item.reply, [JUDGE.verdict(item, scores={"d": 0.25})])
    turn = read_results(run, read_manifest(run)).turns["d0/0"]
    assert turn.verdicts["stub"].scores == (0.25,)


def test_a_verdict_of_a_judge_that_was_changed_since_does_not_count(run):
    item = make_item("d0", 0, say("sad", "Reply 0, “there” \u2028 é\n."))
    with RunStore(run) as store:
        old = JUDGE.verdict(item, scores={"d": 0.25}, fingerprint="older")
        store.append_verdicts(item.reply, [old])
    turn = read_results(run, read_manifest(run)).turns["d0/0"]
    assert turn.verdicts["stub"].scores == (1.0,)
    assert Pending(run, {"stub": "newer"}).missing_judges(item.turn) == ("stub",)


def test_a_reply_is_known_by_its_words_and_status():
    reply = Reply("d0/0", "x")
    assert reply_digest(reply) == reply_digest(replace(reply, turn_id="y/1", latency=3.0))
    assert reply_digest(reply) != reply_digest(replace(reply, status="truncated"))
    assert reply_digest(reply) != reply_digest(replace(reply, text="x "))


@pytest.mark.parametrize("status", ["error", "unparsed", "refused"])
def test_failed_verdicts_are_done_again_only_when_asked_for(tmp_path, status):
    item = make_item()
    failed = JUDGE.verdict(item, status=status, scores={"d": None})
    make_run(tmp_path, make_manifest([JUDGE], 1), [(item.turn, item.reply, [failed])])
    names = {"stub": failed.fingerprint}
    assert Pending(tmp_path, names).missing_judges(item.turn) == ()
    assert Pending(tmp_path, names, retry_verdicts=True).missing_judges(item.turn) == ("stub",)
    with RunStore(tmp_path) as store:
        store.append_verdicts(item.reply, [JUDGE.verdict(item)])
    assert Pending(tmp_path, names, retry_verdicts=True).missing_judges(item.turn) == ()


def test_failed_replies_are_done_again_only_when_asked_for(tmp_path):
    item = make_item(status="error", detail="timeout: 3 s")
    make_run(tmp_path, make_manifest([JUDGE], 1), [(item.turn, item.reply, [])])
    assert not Pending(tmp_path, {}).needs_reply(item.turn)
    again = Pending(tmp_path, {}, retry_replies=True)
    assert again.needs_reply(item.turn)
    assert again.n_replied == 0


def test_nothing_is_pending_in_a_directory_without_logs(tmp_path):
    create(tmp_path, make_manifest([JUDGE], 1))
    pending = Pending(tmp_path, {"stub": "f"})
    assert (pending.n_replied, pending.n_judged) == (0, 0)
    assert pending.needs_reply(make_turn())


# --- a full disk ----------------------------------------------------------------------------------

FILL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from rundata import StubJudge, make_item, make_manifest, say
from kardiabench.errors import StorageError
from kardiabench.store import RunStore, create
path, limit = Path(sys.argv[1]), int(sys.argv[3])
judge = StubJudge()
create(path, make_manifest([judge], 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with RunStore(path) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        for n in range(1000):
            item = make_item(f"d{n}")
            store.append_reply(item.turn, item.reply)
            store.append_verdicts(item.reply, [judge.verdict(item)])
    except StorageError as error:
        print(n, error.exit_code, error)
"""


@pytest.mark.parametrize("limit", [5_000, 5_001, 5_333, 6_000])
def test_when_no_byte_more_fits_what_was_received_is_kept_whole(tmp_path, limit):
    path = tmp_path / "run"
    command = [sys.executable, "-c", FILL, str(path), str(Path(__file__).parent), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    number, code, sentence = done.stdout.split(" ", 2)
    assert code == "3"
    assert "cannot be written" in sentence
    assert "make room or mend the rights, then give the same command again" in sentence
    assert (path / REPLIES).read_bytes().endswith(b"\n")
    assert [reply.turn_id for reply in replies(path)] == [f"d{n}/0" for n in range(int(number))]
    with RunStore(path) as store:  # room was made
        item = make_item(f"d{number}")
        store.append_reply(item.turn, item.reply)
    assert len(replies(path)) == int(number) + 1


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is a disk that is always full")
def test_a_disk_that_is_full_from_the_start_is_a_sentence(run):
    (run / REPLIES).unlink()
    (run / REPLIES).symlink_to("/dev/full")
    item = make_item()
    with RunStore(run) as store, pytest.raises(StorageError, match="No space left on device"):
        store.append_reply(item.turn, item.reply)


def test_a_torn_line_that_cannot_be_cut_off_is_never_written_on(tmp_path, monkeypatch):
    log = Log(tmp_path / "log")
    log.append(b"kept\n")

    def broken(*_):
        raise OSError(5, "Input/output error")

    write = os.write
    with monkeypatch.context() as disk:
        disk.setattr(os, "ftruncate", broken)
        disk.setattr(
            os, "write", lambda file, data: write(file, data[:3]) if len(data) > 3 else broken()
        )
        with pytest.raises(StorageError):
            log.append(b"lost\n")
    with pytest.raises(StorageError):
        log.append(b"more\n")
    log.close()
    Log(tmp_path / "log").close()
    assert (tmp_path / "log").read_bytes() == b"kept\n"


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created"):
        create(tmp_path / "file" / "run", make_manifest([JUDGE], 1))


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    for bad in ({"a": math.nan}, {"a": math.inf}, {"a": {1, 2}}, {"a": object()}):
        with pytest.raises(RunError, match="options that JSON can hold"):
            write_json(file, bad)
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_of_any_text_can_be_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": "é \ud800 \0"})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"a": "é \ufffd \0"}


# --- one process at a time ------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from kardiabench.store import RunStore
with RunStore(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_directory_that_another_process_uses_is_refused(run):
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="in use by another kardiabench process"):
            RunStore(run)
        assert len(replies(run)) == 3  # looking is allowed
        other.kill()
    reopen(run)


def test_a_store_that_cannot_be_opened_lets_go_of_its_lock(run):
    log = run / VERDICTS
    log.rename(run / "elsewhere")
    log.mkdir()
    with pytest.raises(StorageError):
        RunStore(run)
    log.rmdir()
    reopen(run)


# --- files that somebody changed ------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"\0" * (len(line) - 1) + b"\n",
        lambda line: b"\n",
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: line.replace(b'"text"', b'"txet"'),
        lambda line: line.replace(b'"status":"ok"', b'"status":"fine"'),
        lambda line: line.replace(b'"sad"', b'"happy"', 1),
        lambda line: line.replace(b'"d0/1"', b'"d0"'),
        lambda line: line.replace(b'"d0/1"', b'"d0/one"'),
        lambda line: line.replace(b'"latency":0.0', b'"latency":null'),
        lambda line: b"\xff" + line,
        lambda line: b"[]\n",
    ],
)
def test_a_line_that_was_changed_is_named_by_its_byte(run, damage):
    lines = (run / REPLIES).read_bytes().splitlines(keepends=True)
    assert damage(lines[1]) != lines[1]
    (run / REPLIES).write_bytes(lines[0] + damage(lines[1]) + lines[2])
    with pytest.raises(RunError, match=rf"{REPLIES}, byte {len(lines[0])}: .*remove the line"):
        replies(run)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        RunStore(tmp_path)
    with pytest.raises(RunError, match="is not a run directory"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b'"kardiabench"', b"\xff\xfe", b'{"name": "x"}']
)
def test_a_foreign_manifest_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_manifest(tmp_path)
    assert MANIFEST in str(caught.value)
    assert "\n" not in str(caught.value)


def edited(run: Path, edit) -> str:
    """What is said about the manifest after `edit` changed it, its protocol_id kept or not."""
    manifest = json.loads((run / MANIFEST).read_text())
    edit(manifest)
    (run / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RunError) as caught:
        read_manifest(run)
    return str(caught.value)


def remove(path: str):
    def edit(manifest):
        *parents, last = path.split(".")
        for parent in parents:
            manifest = manifest[parent]
        del manifest[last]

    return edit


@pytest.mark.parametrize(
    "path",
    [
        "config", "model", "model.name", "protocol", "protocol.dataset.turns", "protocol_id",
        "protocol.scorer", "protocol.scorer.weights", "protocol.scorer.judges.stub.dimensions",
        "protocol.scorer.judges.stub.fingerprint", "rows.skipped",
    ],
)  # fmt: skip
def test_a_manifest_that_lacks_a_part_is_refused_with_the_name_of_the_part(run, path):
    assert f"{MANIFEST}, {path}: Field required" in edited(run, remove(path))


def test_a_manifest_of_another_version_names_the_version_that_made_it(run):
    assert "use the version that made it (0)" in edited(run, lambda m: m.update(manifest_version=2))
    assert "schema version None" in edited(run, remove("manifest_version"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["protocol"]["scorer"]["weights"].update(rubric=2.0),
        lambda m: m["protocol"]["dataset"].update(turns=2),
        lambda m: m["protocol"]["scorer"].update(missing="zero"),
        lambda m: m.update(protocol_id="0" * 16),
    ],
)
def test_a_protocol_that_was_edited_is_told(run, edit):
    assert "was edited" in edited(run, edit)


def test_the_protocol_id_is_the_digest_of_what_is_written(run):
    manifest = json.loads((run / MANIFEST).read_text())
    assert digest(manifest["protocol"]) == manifest["protocol_id"]


def test_a_run_without_a_summary_says_how_to_get_one(run):
    with pytest.raises(RunError, match="kardiabench resume"):
        read_summary(run)
    with RunStore(run) as store:
        store.save_summary({"a": 1})
    assert read_summary(run) == {"a": 1}
    (run / SUMMARY).write_text("{")
    with pytest.raises(KardiaBenchError):
        read_summary(run)


def test_the_manifest_is_replaced_when_judges_are_added(run):
    more = make_manifest([JUDGE, StubJudge(name="more")], 3)
    with RunStore(run) as store:
        store.save_manifest(more)
        assert store.manifest == more
    assert read_manifest(run) == json.loads(json.dumps(more))
    assert more["manifest_version"] == MANIFEST_VERSION
