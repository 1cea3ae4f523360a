"""Where rows come from: the sample, files, directories, the Hub (as a small local server)."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rowdata import make_row, to_lines, write_rows

from kardiabench.dialogues import load
from kardiabench.errors import ConfigError, DataError
from kardiabench.rows import BadRow, read_row
from kardiabench.sources import _json_rows, open_path, open_sample


def situations(source) -> list[str]:
    return [row.value["situation"] for row in source.rows()]


def problems(source) -> list[str | None]:
    return [row.problem for row in source.rows()]


def path_error(path, split=None, kind=DataError) -> str:
    with pytest.raises(kind) as caught:
        list(open_path(str(path), split, None).rows())
    return str(caught.value)


GOOD = to_lines([make_row(0)])


# --- one file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_jsonl_file_is_read_line_by_line(tmp_path, name):
    source = open_path(str(write_rows(tmp_path / name, map(make_row, range(3)))), None, None)
    found = list(source.rows())
    assert [row.value for row in found] == [make_row(n) for n in range(3)]
    assert [(row.line, row.counted) for row in found] == [(1, "line"), (2, "line"), (3, "line")]
    assert found[0].file == str(tmp_path / name)
    assert list(source.rows()) == found


def test_a_gzip_that_is_named_jsonl_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(GOOD))
    assert situations(open_path(str(path), None, None)) == ["Exam number 0 is tomorrow."]


def test_the_identity_is_name_split_and_hash_of_the_bytes(tmp_path):
    path = write_rows(tmp_path / "test.jsonl", [make_row()])
    source = open_path(str(path), None, None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.identity == {"name": str(path), "split": "test", "sha256": digest}
    assert not source.licence_allows_text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"person": "a"\n', "is not JSON: Expecting ',' delimiter at column 15"),
        (b"nonsense\n", "is not JSON: Expecting value at column 1"),
        (b'{"person": "a', "is cut off: the file ends in the middle of it"),
        (b'{"person": "\xff"}\n', "is not UTF-8 from byte 13 on"),
        (b'{"person": "\0"}\n', "has NUL bytes"),
        (b"\0" * 20, "has NUL bytes"),
        (b"[" * 100_000 + b"\n", "is nested too deeply"),
        (b'{"person": "a\tb"}\n', "is not JSON: Invalid control character at column 14"),
    ],
    ids=["not closed", "no json", "truncated", "utf-8", "nul", "nul tail", "deep", "control"],
)
def test_an_unreadable_line_is_told_with_its_place_and_the_rest_is_read(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line)
    source = open_path(str(path), None, None)
    assert problems(source) == [None, problem]
    with pytest.raises(BadRow) as caught:
        load(source)
    assert str(caught.value).startswith(f"{path} line 2: {problem}")


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_are_no_problem(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n  \n" + to_lines([make_row(1)]).strip())
    assert [row.line for row in open_path(str(path), None, None).rows()] == [1, 4]
    assert load(open_path(str(path), None, None)).n_dialogues == 2


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_give_rows_and_never_an_exception(lines):
    for row in _json_rows(lines, "fuzz.jsonl"):
        with pytest.raises(BadRow):
            read_row(row)


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.touch()
    with pytest.raises(DataError, match="has no rows"):
        load(open_path(str(path), None, None))


def test_a_damaged_gzip_is_one_sentence(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(5000))[:2000])
    assert f"{path} is a damaged gzip file" in path_error(path)


@pytest.mark.parametrize(
    ("name", "split", "kind", "sentence"),
    [
        ("nothing.jsonl", None, DataError, "does not exist"),
        ("a.csv", None, DataError, "give .jsonl, .jsonl.gz or .parquet"),
        ("a.jsonl", "train", ConfigError, "leave --split train out"),
        ("test.jsonl", "train", ConfigError, "leave --split train out"),
        ("pipe.jsonl", None, DataError, "has to be read twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, name, split, kind, sentence):
    for there in ("a.csv", "a.jsonl", "test.jsonl"):
        (tmp_path / there).write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert sentence in path_error(tmp_path / name, split, kind)


def test_a_revision_is_only_for_the_hub(tmp_path):
    for factory, name in ((open_sample, "sample"), (open_path, str(tmp_path))):
        with pytest.raises(ConfigError, match="--revision is for datasets of the Hub"):
            factory(name, None, "main")


# --- parquet ------------------------------------------------------------------------------------


def test_parquet_gives_the_same_dialogues_as_jsonl(tmp_path):
    rows = [make_row(n) | {"extra": n} for n in range(150)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet", row_group_size=40)
    parquet = load(open_path(str(tmp_path / "test.parquet"), None, None))
    jsonl = load(open_path(str(write_rows(tmp_path / "test.jsonl", rows)), None, None))
    assert parquet.fingerprint == jsonl.fingerprint
    assert list(parquet) == list(jsonl)


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [make_row(n) for n in range(70)]
    rows[69]["messages"][1]["content"] = None
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(BadRow) as caught:
        load(open_path(str(path), None, None))
    reason = "a.parquet, row 70, field messages[1].content: is null, not text"
    assert reason in str(caught.value)


def test_invalid_utf8_in_parquet_costs_its_row_only(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist([make_row(n) for n in range(3)])
    spoilt = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    at = table.column_names.index("situation")
    pq.write_table(table.set_column(at, "situation", spoilt), path)
    assert problems(open_path(str(path), None, None)) == [None, "is not UTF-8", None]


def test_a_parquet_file_that_is_none_is_one_sentence(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(GOOD)
    assert f"{path} is not a sound parquet file" in path_error(path)


# --- directories --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "train.jsonl", [make_row(0)])
    write_rows(tmp_path / "data" / "test-00000-of-00002.jsonl", [make_row(1)])
    write_rows(tmp_path / "data" / "test-00001-of-00002.jsonl.gz", [make_row(2)])
    return tmp_path


@pytest.mark.parametrize(
    ("split", "wanted", "name"),
    [(None, [1, 2], "test"), ("test", [1, 2], "test"), ("train", [0], "train"),
     ("all", [1, 2, 0], "all")],
)  # fmt: skip
def test_a_directory_gives_the_files_of_the_split_in_order(folder, split, wanted, name):
    source = open_path(str(folder), split, None)
    assert situations(source) == [make_row(n)["situation"] for n in wanted]
    assert source.identity["split"] == name


def test_a_directory_without_splits_gives_all_files(tmp_path):
    for number, name in enumerate(["b.jsonl", "a.jsonl", "tests.jsonl"]):
        write_rows(tmp_path / name, [make_row(number)])
    source = open_path(str(tmp_path), None, None)
    assert situations(source) == [make_row(n)["situation"] for n in (1, 0, 2)]
    assert source.identity["split"] == "all"


def test_a_directory_without_the_split_says_what_it_has(folder):
    error = path_error(folder, "dev")
    assert "has no dev split" in error
    assert "train.jsonl" in error


def test_a_directory_of_other_things_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert "it has notes.txt" in path_error(tmp_path)


def test_a_split_in_two_formats_is_refused(folder):
    (folder / "test.parquet").touch()
    assert "has test in two formats" in path_error(folder)


# --- the sample ---------------------------------------------------------------------------------


def test_the_sample_is_sound_and_may_be_published():
    source = open_sample("sample", None, None)
    found = load(source)
    assert (found.n_dialogues, found.n_personas) == (32, 8)
    assert source.licence_allows_text
    assert source.identity["split"] == "all"


def test_the_samples_splits_are_six_and_two_personas():
    train, test, everything = (
        load(open_sample("sample", split, None)) for split in ("train", "test", "all")
    )
    assert (train.n_personas, test.n_personas) == (6, 2)
    assert train.n_dialogues + test.n_dialogues == everything.n_dialogues
    in_order = list(dict.fromkeys(dialogue.persona_id for dialogue in everything))
    assert {dialogue.persona_id for dialogue in test} == set(in_order[6:])


def test_an_unknown_split_of_the_sample_is_answered():
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        open_sample("sample", "trian", None)


# --- the Hub ------------------------------------------------------------------------------------

REPO = "Jhcircle/KardiaBench"
PAGE = f"https://huggingface.co/datasets/{REPO}"
SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"# card\n",
    "test.jsonl": to_lines(make_row(n) for n in range(5)),
    "train.jsonl": to_lines(make_row(n) for n in range(5, 9)),
}


def gated(status: int, message: str) -> tuple[int, str, str]:
    return status, "GatedRepo", message


ANONYMOUS = gated(
    401,
    f"Access to dataset {REPO} is restricted. You must have access to it and be authenticated to"
    " access it. Please log in.",
)
NOT_ASKED = gated(
    403,
    f"Access to dataset {REPO} is restricted and you are not in the authorized list. Visit {PAGE}"
    " to ask for access.",
)
PENDING = gated(
    403, f"Your request to access dataset {REPO} is awaiting a review from the repo authors."
)
REJECTED = gated(
    403, f"Your request to access dataset {REPO} has been rejected by the repo's authors."
)
NARROW = gated(
    403,
    "Please enable access to public gated repositories in your fine-grained token settings to view"
    " this repository.",
)
UNKNOWN = (404, "RepoNotFound", "Repository not found")
HIDDEN = (401, None, "Invalid username or password.")
NO_REVISION = (404, "RevisionNotFound", "Invalid rev id: v9")
DOWN = (500, None, "Internal Error")


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of the Hub that a download needs. `gate` refuses files, `door` all."""

    gate: tuple[int, str | None, str] | None = None
    door: tuple[int, str | None, str] | None = None
    files = FILES
    seen: list[str]

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        self.seen.append(self.path)
        path = self.path.partition("?")[0]
        if self.door:
            self.refuse(*self.door)
        elif path.startswith(f"/api/datasets/{REPO}/revision/"):
            self.give(json.dumps({"id": REPO, "sha": SHA, "siblings": []}).encode())
        elif path.startswith(f"/api/datasets/{REPO}/tree/{SHA}"):
            self.give(json.dumps(self.tree()).encode())
        elif self.gate:
            self.refuse(*self.gate)
        else:
            name = path.removeprefix(f"/datasets/{REPO}/resolve/{SHA}/")
            self.give(self.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": SHA})

    def tree(self):
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]

    def give(self, body, headers=None):
        self.reply(200, body, headers or {})

    def refuse(self, status, code, message):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, json.dumps({"error": message}).encode(), headers)

    def reply(self, status, body, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def hub(**settings):
    seen: list[str] = []
    handler = type("ThisHub", (Hub,), settings | {"seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


ASK = """
import json, sys
from kardiabench.dialogues import load
from kardiabench.errors import KardiaBenchError
from kardiabench.sources import open_hub
try:
    split, revision, on_bad_row = json.loads(sys.argv[1])
    found = load(open_hub("KardiaBench", split, revision), on_bad_row=on_bad_row)
    print(json.dumps([found.identity, [d.situation for d in found]]))
except KardiaBenchError as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def ask(home, endpoint, *, split=None, revision=None, token=None, offline=False, on_bad_row="fail"):
    """Open the dataset in a process of its own: the Hub's client reads its settings once."""
    settings = {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([split, revision, on_bad_row])],
        env=kept | settings | ({"HF_TOKEN": token} if token else {}),
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_hub_gives_the_test_split_pinned_to_its_commit_and_later_works_offline(tmp_path):
    with hub() as (endpoint, seen):
        identity, found = ask(tmp_path, endpoint, token="hf_x")
    assert identity == {"name": REPO, "split": "test", "revision": SHA}
    assert found == [make_row(n)["situation"] for n in range(5)]
    assert not any("train.jsonl" in path for path in seen)
    nowhere = "http://127.0.0.1:9"
    assert ask(tmp_path, nowhere, offline=True) == [identity, found]
    assert ask(tmp_path, nowhere, revision=SHA) == [identity, found]
    assert "cannot be reached, and the train split" in ask(tmp_path, nowhere, split="train")


def test_an_unknown_split_of_the_hub_says_what_there_is(tmp_path):
    with hub() as (endpoint, _):
        answer = ask(tmp_path, endpoint, split="dev")
    assert answer == (f"DataError: {REPO} has no dev split: it has test.jsonl, train.jsonl,"
                      " choose with --split")  # fmt: skip


@pytest.mark.parametrize(
    ("refusal", "token", "sentence"),
    [
        ({"gate": ANONYMOUS}, None, f"{REPO} is gated and you are not logged in: ask for access at"
         f" {PAGE}, then run `hf auth login`"),
        ({"gate": NOT_ASKED}, "hf_x", f"you have no access to {REPO} yet: ask for it at {PAGE},"
         " then try again"),
        ({"gate": PENDING}, "hf_x", f"your request for access to {REPO} is waiting for its authors:"
         f" try again when {PAGE} shows that it is granted"),
        ({"gate": REJECTED}, "hf_x", f"your request for access to {REPO} was rejected: write to"
         f" its authors at {PAGE}"),
        ({"gate": NARROW}, "hf_x", f"your token may not read gated datasets such as {REPO}: allow"
         " it at https://huggingface.co/settings/tokens, or run `hf auth login` with a read token"),
        ({"door": UNKNOWN}, "hf_x", f"the Hub shows no dataset {REPO}: it may be renamed, removed"
         f" or private; look for it at {PAGE}, and run `hf auth login` if it is private"),
        ({"door": HIDDEN}, None, f"the Hub shows no dataset {REPO}: it may be renamed, removed"
         f" or private; look for it at {PAGE}, and run `hf auth login` if it is private"),
        ({"door": HIDDEN}, "hf_x", f"the Hub does not accept your token for {REPO}: run"
         " `hf auth login` again"),
        ({"door": NO_REVISION}, "hf_x", f"{REPO} has no revision 'v9': see {PAGE}/commits, or"
         " leave it out"),
    ],
    ids=["anonymous", "not asked", "pending", "rejected", "narrow token", "unknown", "hidden",
         "bad token", "revision"],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_sentence_with_the_next_step(
    tmp_path, refusal, token, sentence
):
    with hub(**refusal) as (endpoint, _):
        answer = ask(tmp_path, endpoint, token=token, revision="v9")
    assert answer == f"DataError: {sentence}"


@pytest.mark.parametrize("offline", [True, False], ids=["offline mode", "no connection"])
def test_offline_without_a_cache_is_one_sentence(tmp_path, offline):
    answer = ask(tmp_path, "http://127.0.0.1:9", offline=offline)
    assert answer == (
        f"DataError: the Hugging Face Hub cannot be reached, and the test split of {REPO} is not in"
        " the local cache: connect and try again, or give --dataset a file that you have"
    )


def test_a_hub_that_is_down_is_one_sentence(tmp_path):
    with hub(door=DOWN) as (endpoint, _):
        assert "the Hugging Face Hub cannot be reached" in ask(tmp_path, endpoint)


def test_a_hub_file_that_is_no_table_is_read_row_by_row(tmp_path):
    with hub(files={"test.jsonl": GOOD + b"{nonsense\n"}) as (endpoint, _):
        strict = ask(tmp_path, endpoint)
        identity, situations = ask(tmp_path, endpoint, on_bad_row="skip")
    assert strict.startswith("BadRow: ")
    assert f"test.jsonl line {len(GOOD.splitlines()) + 1}: is not JSON" in strict
    assert (identity["revision"], len(situations)) == (SHA, len(GOOD.splitlines()))


def test_a_bad_hub_row_is_named_by_its_number(tmp_path):
    files = {"test.jsonl": to_lines([make_row(0), make_row(1, emotion="blue")])}
    with hub(files=files) as (endpoint, _):
        answer = ask(tmp_path, endpoint)
    assert answer.startswith(f"BadRow: {REPO} test, row 2, field emotion: emotion 'blue' is none")
