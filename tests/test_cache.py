"""The cache: by content, shared by processes, without failures, and never in the way."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kardiabench.cache import Cache, default_path, request_key
from kardiabench.errors import ConfigError
from kardiabench.records import ChatRequest, Completion, Message, Usage, Verdict


@dataclass
class Model:
    """As much of a model as a key needs."""

    identity: dict[str, Any] = field(default_factory=lambda: {"name": "m"})


@pytest.fixture
def cache(tmp_path):
    opened = Cache(tmp_path / "deep" / "c.sqlite")
    yield opened
    opened.close()


def verdict(**changes: Any) -> Verdict:
    return Verdict(**({"turn_id": "d/0", "judge": "j", "fingerprint": "f", "scores": {}} | changes))


# --- what is kept ---------------------------------------------------------------------------------


def test_what_is_stored_comes_back_equal(cache):
    completion = Completion(
        "text \0 \u2028 {{ }}", "why", "stop", usage=Usage(1, 2, 3, 4, 5, 0.1 + 0.2), latency=1 / 3
    )
    judged = verdict(scores={"a": 0.1 + 0.2, "b": None}, evidence={"a": "“so”"})
    cache.put_completion("k", completion)
    cache.put_verdict("k", judged)
    assert cache.get_completion("k") == completion
    assert cache.get_verdict("k") == judged


def test_what_was_never_stored_is_none(cache):
    assert cache.get_completion("k") is None
    assert cache.get_verdict("k") is None


def test_replies_and_verdicts_of_one_key_do_not_meet(cache):
    cache.put_verdict("k", verdict())
    assert cache.get_completion("k") is None


@pytest.mark.parametrize("status", ["truncated", "refused", "error"])
def test_a_reply_that_did_not_go_well_is_never_stored(cache, status):
    cache.put_completion("k", Completion("half", status=status))
    assert cache.get_completion("k") is None


@pytest.mark.parametrize("status", ["unparsed", "refused", "error", "skipped"])
def test_a_judgement_that_failed_is_never_stored(cache, status):
    cache.put_verdict("k", verdict(status=status))
    assert cache.get_verdict("k") is None


def test_it_is_still_there_for_the_next_process(tmp_path):
    first = Cache(tmp_path / "c.sqlite")
    first.put_completion("k", Completion("kept"))
    first.close()
    assert Cache(tmp_path / "c.sqlite").get_completion("k") == Completion("kept")


def test_the_last_one_stored_counts(cache):
    for text in ("one", "two"):
        cache.put_completion("k", Completion(text))
    assert cache.get_completion("k") == Completion("two")


floats = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.none() | floats), floats)
@settings(max_examples=50, deadline=None)
def test_scores_and_costs_come_back_to_the_last_bit(tmp_path_factory, scores, cost):
    opened = Cache(tmp_path_factory.mktemp("c") / "c.sqlite")
    judged = verdict(scores=scores, usage=Usage(cost=cost))
    opened.put_verdict("k", judged)
    assert repr(opened.get_verdict("k")) == repr(judged)
    opened.close()


# --- the key --------------------------------------------------------------------------------------

HELLO = (Message("user", "hello"),)
REQUEST = ChatRequest(HELLO, turn_id="d/0", persona_id="p")


@pytest.mark.parametrize(
    ("model", "request_"),
    [
        (Model({"name": "other"}), REQUEST),
        (Model({"name": "m", "api_base": "http://127.0.0.1:1"}), REQUEST),
        (Model({"name": "m", "temperature": 0.7}), REQUEST),
        (Model({"name": "m", "temperature": None}), REQUEST),
        (Model(), ChatRequest(HELLO, sample=1)),
        (Model(), ChatRequest(HELLO, json_schema={"type": "object"})),
        (Model(), ChatRequest((Message("system", "hello"),))),
        (Model(), ChatRequest((*HELLO, *HELLO))),
        (Model(), ChatRequest((Message("user", "hello "),))),
    ],
)
def test_all_that_decides_an_answer_is_in_the_key(model, request_):
    assert request_key(model, request_) != request_key(Model(), REQUEST)


def test_turn_and_persona_are_in_the_key_since_a_backend_may_answer_by_them():
    keys = {
        request_key(Model(), ChatRequest(HELLO, turn_id=turn, persona_id=persona))
        for turn in ("d/0", "d/1")
        for persona in ("p", "q")
    }
    assert len(keys) == 4


def test_messages_that_run_together_alike_have_different_keys():
    def key(*texts):
        return request_key(Model(), ChatRequest(tuple(Message("user", text) for text in texts)))

    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("abc", "")}) == 4


def test_the_place_of_the_cache_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("KARDIABENCH_CACHE", str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"
    monkeypatch.delenv("KARDIABENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "kardiabench" / "cache-v1.sqlite"


# --- several processes ----------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from kardiabench.cache import Cache
from kardiabench.records import Completion, Verdict
file, gate, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
cache = Cache(file)
for i in range(150):
    cache.put_completion(f"own:{number}:{i}", Completion(f"{number} {i}"))
    cache.put_completion(f"shared:{i}", Completion("same"))
    cache.put_verdict(f"{number}:{i}", Verdict("d/0", "j", "f", {"a": i / 3}))
    assert cache.get_completion(f"shared:{i}") == Completion("same")
cache.close()
"""


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path):
    file, gate = tmp_path / "c.sqlite", tmp_path / "go"
    command = [sys.executable, "-c", WRITER, str(file), str(gate)]
    writers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    gate.touch()
    ends = [(*writer.communicate(timeout=60), writer.returncode) for writer in writers]
    assert ends == [(b"", b"", 0)] * 4
    cache = Cache(file)
    for number in range(4):
        for i in range(150):
            assert cache.get_completion(f"own:{number}:{i}") == Completion(f"{number} {i}")
            assert cache.get_verdict(f"{number}:{i}").scores == {"a": i / 3}


# --- what goes wrong ------------------------------------------------------------------------------


def assert_refused(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Cache(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "--no-cache" in sentence
    assert "KARDIABENCH_CACHE" in sentence


def test_a_file_that_is_no_cache_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database " * 1000)
    assert_refused(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_directory_in_its_place_is_named(tmp_path):
    assert_refused(tmp_path)


def test_a_file_in_the_place_of_its_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert_refused(tmp_path / "file" / "c.sqlite")


def corrupt_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def test_a_cache_that_breaks_on_the_way_warns_once_and_is_left_out(tmp_path, capsys):
    path = tmp_path / "c.sqlite"
    first = Cache(path)
    for i in range(500):
        first.put_completion(f"k{i}", Completion("x" * 200))
    first.close()
    corrupt_middle(path)
    broken = Cache(path)
    assert [broken.get_completion(f"k{i}") for i in range(500)] == [None] * 500
    broken.put_completion("new", Completion("x"))
    warnings = capsys.readouterr().err
    assert warnings.count("warning: the cache") == 1
    assert "going on without it" in warnings


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"\xff", b'{"text": 1}', b"[]"])
def test_a_damaged_entry_counts_as_none_and_is_made_again(tmp_path, value):
    path = tmp_path / "c.sqlite"
    cache = Cache(path)
    with sqlite3.connect(path) as database:
        for key in ("k", "v:k"):
            database.execute("INSERT INTO entries VALUES (?, ?)", [key, value])
    database.close()
    assert cache.get_completion("k") is None
    assert cache.get_verdict("k") is None
    cache.put_completion("k", Completion("again"))
    assert cache.get_completion("k") == Completion("again")


def test_a_closed_cache_is_left_out_with_a_warning(cache, capsys):
    cache.close()
    assert cache.get_completion("k") is None
    assert "going on without it" in capsys.readouterr().err
