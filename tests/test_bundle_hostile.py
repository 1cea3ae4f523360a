"""Bundles come from somebody else: whatever is wrong with one is named, in one sentence."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_run import a_bundle, edit_json, edit_row, members, rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kardiabench import bundle_archive
from kardiabench.bundle import read_bundle
from kardiabench.bundle_archive import INDEX, TEXTS, TURNS, checksum, write_archive
from kardiabench.bundle_check import verify_bundle
from kardiabench.errors import RunError
from kardiabench.fingerprints import digest, fingerprint
from kardiabench.manifests import MANIFEST
from kardiabench.store import ANCHORS, CALIBRATION, SUMMARY
from kardiabench.texts import iterate_texts

CARD = "cards/rubric.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_bundle(tmp_path_factory.mktemp("hostile"), include_replies=True)


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "b.kardia.zip"))


def refused(path: Path) -> str:
    """The one sentence that says what is wrong."""
    with pytest.raises(RunError) as caught:
        read_bundle(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path.name in sentence
    assert len(sentence) < 600
    return sentence


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(20))
def test_a_part_of_a_bundle_is_none(bundle: Path, part: int):
    content = bundle.read_bytes()
    bundle.write_bytes(content[: len(content) * part // 20])
    assert "is no bundle, or only a part of one" in refused(bundle)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_is_an_error_or_no_change(whole: Path, tmp_path: Path, data: st.DataObject):
    content = bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "b.kardia.zip"
    path.write_bytes(content)
    try:
        bundle = read_bundle(path)
    except RunError:
        return
    assert (bundle.results, bundle.manifest) == (  # a date, a flag: nothing that is read
        read_bundle(whole).results,
        read_bundle(whole).manifest,
    )


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"\0" * 5000, b"PK\5\6" + b"\0" * 18])
def test_what_is_no_zip_file_is_no_bundle(tmp_path: Path, content: bytes):
    path = tmp_path / "b.kardia.zip"
    path.write_bytes(content)
    assert "is no bundle" in refused(path)


def test_folders_and_missing_files_are_no_bundles(tmp_path: Path):
    assert "is no file" in refused(tmp_path)
    assert "is no file" in refused(tmp_path / "nowhere.kardia.zip")


def test_a_foreign_zip_file_is_named(tmp_path: Path):
    path = tmp_path / "b.kardia.zip"
    write_archive(path, {"photo.jpg": b"x"})
    assert "'photo.jpg' in it is of an unknown name" in refused(path)
    write_archive(path, {MANIFEST: b"{}"})
    assert "it has no bundle.json" in refused(path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "/etc/passwd", "cards/../../evil.json", "cards/.json", "cards/a/b.json",
        "cards\\evil.json", "C:\\evil", "cards/", "turns.jsonl/", "TURNS.JSONL", "cards/..json",
        "cards/.hidden.json",
    ],
)  # fmt: skip
def test_members_of_other_names_are_refused_and_nothing_is_written(
    bundle: Path, tmp_path: Path, name: str
):
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"{}")
    before = sorted(tmp_path.rglob("*"))
    assert "is of an unknown name" in refused(bundle)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(bundle: Path):
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(TURNS, b"")
    assert "'turns.jsonl' in it is there twice" in refused(bundle)


def test_more_members_than_a_bundle_has_are_not_even_listed(tmp_path: Path):
    path = tmp_path / "b.kardia.zip"
    write_archive(path, {f"cards/c{number}.json": b"{}" for number in range(200)})
    assert "too many members" in refused(path)


def test_a_bomb_is_refused_by_its_ratio(bundle: Path):
    content = members(bundle)
    content[SUMMARY] = b" " * (40 << 20)
    write_archive(bundle, content)
    assert "unpacks to more than 400 times its size" in refused(bundle)


def test_a_bomb_is_refused_by_its_size(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_archive, "MOST_BYTES", 30_000)
    assert "unpacks to more than" in refused(bundle)


def test_a_file_that_is_too_large_is_not_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_archive, "MOST_PACKED", 1000)
    assert "has more than" in refused(bundle)


def test_a_member_that_says_it_is_small_is_read_no_further(bundle: Path):
    """The sizes in the list of members are what is checked, so nothing beyond them is read."""
    content = bytearray(bundle.read_bytes())
    info = zipfile.ZipFile(bundle).getinfo(TEXTS)
    at = content.rindex(b"PK\1\2", 0, content.rindex(TEXTS.encode()))
    content[at + 24 : at + 28] = struct.pack("<L", 10)  # the size unpacked
    bundle.write_bytes(content)
    assert info.file_size > 10
    assert "texts.jsonl: it" in refused(bundle)


def test_an_object_that_is_too_large_is_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_archive, "MOST_OBJECT", 1000)
    assert "unpacks to more than 0 MiB" in refused(bundle)


def test_an_encrypted_or_oddly_packed_member_is_refused(bundle: Path):
    content = members(bundle)
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_BZIP2) as archive:
        for name, inside in content.items():
            archive.writestr(name, inside)
    assert "is encrypted or packed in another way" in refused(bundle)


# --- checksums and versions -----------------------------------------------------------------------


@pytest.mark.parametrize("member", [MANIFEST, SUMMARY, TURNS, TEXTS, ANCHORS, CALIBRATION, CARD])
def test_a_member_that_was_changed_is_named(bundle: Path, member: str):
    rewrite(bundle, member, lambda content: content.replace(b"1", b"2", 1), fix=False)
    assert f"{member}: it was changed since it was packed" in refused(bundle)


def test_a_member_that_is_missing_or_was_added_is_named(bundle: Path):
    content = members(bundle)
    write_archive(bundle, {n: c for n, c in content.items() if n != ANCHORS})
    assert f"{ANCHORS}: it is missing" in refused(bundle)
    write_archive(bundle, content | {"cards/more.json": b"{}"})
    assert "cards/more.json: it is not listed" in refused(bundle)


@pytest.mark.parametrize("version", [2, "1", None, 1.5, [1]])
def test_another_version_is_named(bundle: Path, version: Any):
    rewrite(bundle, INDEX, edit_json(lambda index: index.update(bundle_version=version)), fix=False)
    assert "use the version that packed it" in refused(bundle)


def test_a_manifest_of_another_version_is_named(bundle: Path):
    rewrite(bundle, MANIFEST, edit_json(lambda it: it.update(manifest_version=2)))
    assert "it has version '2', this kardiabench reads 1" in refused(bundle)


# --- what is in the members -----------------------------------------------------------------------


def put(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("turn_id", to="../../etc/0"), "turn_id"),
        (put("turn_id", to="<b>/0"), "turn_id"),
        (put("turn_id", to="d0/x"), "turn_id"),
        (put("turn_id", to="d0/99999999999"), "turn_id"),
        (put("turn_id", to="d0/0"), "d0/0 is there twice or out of order"),
        (put("persona_id", to="<script>"), "persona_id"),
        (put("persona_id", to="p\n"), "persona_id"),
        (put("gold_emotion", to="hungry"), "gold_emotion"),
        (put("predicted", to="x" * 9), "predicted"),
        (put("status", to="fine"), "status"),
        (put("gold_source", to="me"), "gold_source"),
        (put("digest", to="zz"), "digest"),
        (put("problems", to=["missing:everything"]), "problems"),
        (put("latency", to=-1), "latency"),
        (put("latency", to="1"), "latency"),
        (put("latency", to=1e300), "latency"),
        (put("usage", "cost", to=-0.1), "usage.cost"),
        (put("usage", "calls", to=1.5), "usage.calls"),
        (put("usage", "calls", to=True), "usage.calls"),
        (put("words", to={"essay": 3}), "words"),
        (put("finish_reason", to="a b"), "finish_reason"),
        (put("error_kind", to="a sentence"), "error_kind"),
        (put("note", to="hello"), "note"),
        (put("verdicts", "rubric", "scores", to=[9.0, 1.0]), "rubric.warm 9 is not in 1..5"),
        (put("verdicts", "rubric", "scores", to=[1.0]), "rubric has 1 scores for 2 dimensions"),
        (put("verdicts", "rubric", "parts", to=[[0.0, 1.0]]), "rubric.warm 0 is not in 1..5"),
        (put("verdicts", "rubric", "status", to="error"), "rubric has scores and the status error"),
        (put("verdicts", "rubric", "status", to="good"), "verdicts.rubric.status"),
        (put("verdicts", "nobody", to={"status": "ok", "scores": []}), "has no judge nobody"),
        (put("verdicts", "a b", to={"status": "ok", "scores": []}), "verdicts.a b"),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(bundle: Path, change: Any, said: str):
    rewrite(bundle, TURNS, edit_row(1, change))
    sentence = refused(bundle)
    assert "turns.jsonl line 2: " in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n", "line 1"),
        (b"[]\n", "line 1"),
        (b'{"turn_id": "d0/0"}\n', "line 1: persona_id"),
        (b"\xff\xfe\n", "line 1"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b'{"turn_id"', "its last line is cut off"),
    ],
)
def test_rows_that_are_none_are_named(bundle: Path, content: bytes, said: str):
    rewrite(bundle, TURNS, lambda _: content)
    assert said in refused(bundle)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_is_infinite(bundle: Path, number: str):
    for member, what in ((SUMMARY, b"1"), (TURNS, b"1.0"), (CALIBRATION, b"5.0"), (CARD, b"3.0")):
        changed = Path(shutil.copy(bundle, bundle.with_name(f"{Path(member).name}.kardia.zip")))
        rewrite(changed, member, lambda c, what=what: c.replace(b" " + what, number.encode(), 1))
        rewrite(
            changed, member, lambda c, what=what: c.replace(b":" + what, b":" + number.encode())
        )
        assert member in refused(changed)


@pytest.mark.parametrize("member", [MANIFEST, SUMMARY, CALIBRATION, CARD])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b'{"a": 1, "a": 2}', b"{" * 9, b'{"a":' * 50_000, b'{"a": 1e99}']
)
def test_objects_that_are_none_are_named(bundle: Path, member: str, content: bytes):
    rewrite(bundle, member, lambda _: content)
    assert member in refused(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("model", "name", to=3), "model.name"),
        (put("model", "name", to="other"), "not what run_id stands for"),
        (put("created", to="<now>"), "created"),
        (put("protocol_id", to="0" * 16), "protocol_id stands for"),
        (put("protocol", "dataset", "turns", to=-1), "protocol.dataset.turns"),
        (put("environment", "python", to={}), "environment.python"),
        (put("rows", "skipped", to=None), "rows.skipped"),
        (put("config", to=[]), "config"),
        (put("config", "emotions", to=5), "config.emotions"),
        (put("config", "emotions", to=[5]), "config.emotions.0"),
        (put("config", "judges", to="rubric"), "config.judges"),
        (put("config", "model_args", to=[]), "config.model_args"),
        (put("config", "weights", to={"rubric": "2"}), "config.weights.rubric"),
        (put("config", "seed", to={}), "config.seed"),
        (put("config", "temperature", to=True), "config.temperature"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_named(bundle: Path, change: Any, said: str):
    rewrite(bundle, MANIFEST, edit_json(change))
    assert said in refused(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("judges", "rubric", "fingerprint", to="0" * 16), "the fingerprint of another judge"),
        (put("judges", "../x", to={}), "judges"),
        (put("judges", "rubric", "dimensions", 0, "low", to=5.0), "a range that does not rise"),
        (
            put("judges", "rubric", "dimensions", 0, "name", to="clear"),
            "two dimensions of one name",
        ),
        (put("judges", "rubric", "dimensions", to=[]), "dimensions"),
        (put("weights", "rubric", to=0), "weights.rubric"),
        (put("weights", to={}), "weights"),
        (put("missing", to="guess"), "missing"),
    ],
)
def test_a_protocol_is_checked_though_its_digest_was_mended(bundle: Path, change: Any, said: str):
    def edit(manifest: Any) -> None:
        change(manifest["protocol"]["scorer"])
        manifest["protocol_id"] = digest(manifest["protocol"])

    rewrite(bundle, MANIFEST, edit_json(edit))
    assert said in refused(bundle)


def take(*path: str) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        del value[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (take("created"), "created"),
        (put("created", to=""), "created"),
        (put("created", to="99T99:99:99+99:99Z-.."), "created"),
        (put("created", to="2026-02-30T00:00:00+00:00"), "is no time"),
        (take("protocol", "prompts"), "protocol.prompts"),
        (take("protocol", "prompts", "history"), "protocol.prompts.history"),
        (take("protocol", "prompts", "system_prompt_hash"), "system_prompt_hash"),
        (take("protocol", "gold_emotion"), "protocol.gold_emotion"),
        (take("protocol", "dataset", "dialogues"), "protocol.dataset.dialogues"),
        (take("protocol", "dataset", "personas"), "protocol.dataset.personas"),
        (take("protocol", "dataset", "fingerprint"), "protocol.dataset.fingerprint"),
        (put("protocol", "dataset", "turns", to=0), "protocol.dataset.turns"),
    ],
)
def test_what_a_page_cannot_do_without_is_in_a_manifest(bundle: Path, change: Any, said: str):
    def edit(manifest: Any) -> None:
        change(manifest)
        manifest["protocol_id"] = digest(manifest["protocol"])

    rewrite(bundle, MANIFEST, edit_json(edit))
    rewrite(bundle, INDEX, edit_json(lambda it: it.update(run_id=_run_id(bundle))), fix=False)
    assert said in refused(bundle)


def test_a_smoke_test_is_never_said_to_be_none(bundle: Path):
    def edit(manifest: Any) -> None:
        judge = manifest["protocol"]["scorer"]["judges"]["rubric"]
        judge["identity"] = {"judge": "smoke"}
        judge["fingerprint"] = fingerprint(judge["identity"])
        manifest["protocol_id"] = digest(manifest["protocol"])

    rewrite(bundle, MANIFEST, edit_json(edit))
    assert "rubric is the smoke test and is said to be none" in refused(bundle)


def test_what_no_bundle_publishes_is_dropped_from_a_manifest(bundle: Path):
    def edit(manifest: Any) -> None:
        manifest["config"] |= {"api_base": "http://there", "judges": ["x:model=hf//home/me/m"]}
        manifest["more"] = "<script>"

    rewrite(bundle, MANIFEST, edit_json(edit))
    read = read_bundle(bundle).manifest
    assert "api_base" not in read["config"]
    assert "more" not in read
    assert "/home" not in json.dumps(read)


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff x"])
def test_half_a_character_is_refused_wherever_it_stands(bundle: Path, half: str):
    at_home = Path(shutil.copy(bundle, bundle.with_name("c.kardia.zip")))
    rewrite(at_home, MANIFEST, lambda c: c.replace(b"their-package", half.encode()))
    assert "manifest.json" in refused(at_home)
    rewrite(bundle, TEXTS, lambda c: c.replace(b"PLUGH", half.encode()))
    with pytest.raises(RunError, match=r"texts\.jsonl line 1"):
        list(iterate_texts(bundle))


def test_an_error_is_one_line_whatever_a_key_is_called(bundle: Path):
    rewrite(bundle, TURNS, edit_row(1, put("words", to={"a\nb\x1b[31m\u202e": 3})))
    sentence = refused(bundle)
    assert "words.a\N{REPLACEMENT CHARACTER}b" in sentence
    assert sentence.isprintable()


def test_a_card_of_another_judge_is_refused(bundle: Path):
    rewrite(bundle, CARD, edit_json(put("fingerprint", to="0" * 16)))
    assert "it is the card of no judge of the run" in refused(bundle)


@pytest.mark.parametrize(
    ("member", "change"),
    [
        (CARD, put("card_version", to=9)),
        (CALIBRATION, put("dimensions", "warm", "x", to=[5.0, 1.0])),
        (CALIBRATION, put("dimensions", "warm", "rectifier", "df", to=0)),
        (CALIBRATION, put("calibration_version", to=9)),
    ],
)
def test_instruments_that_are_none_are_named_without_a_folder(
    bundle: Path, member: str, change: Any
):
    rewrite(bundle, member, edit_json(change))
    sentence = refused(bundle)
    assert member in sentence
    assert "kardiabench-" not in sentence  # the folder that it was read from


@pytest.mark.parametrize("line", [b"{}\n", b'{"a": 1e99}\n', b"x\n", b"[1]\n"])
def test_verdicts_on_anchors_that_are_none_are_named(bundle: Path, line: bytes):
    rewrite(bundle, ANCHORS, lambda content: content + line)
    assert ANCHORS in refused(bundle)


def test_more_turns_than_the_dataset_has_are_refused(bundle: Path):
    def edit(manifest: Any) -> None:
        manifest["protocol"]["dataset"]["turns"] = 3
        manifest["protocol_id"] = digest(manifest["protocol"])

    rewrite(bundle, MANIFEST, edit_json(edit))
    index = edit_json(lambda it: it.update(run_id=_run_id(bundle)))
    rewrite(bundle, INDEX, index, fix=False)
    assert "replies to 12 turns, and its dataset has 3" in refused(bundle)


def _run_id(bundle: Path) -> str:
    from kardiabench.bundle_redaction import run_id

    return run_id(json.loads(members(bundle)[MANIFEST]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("turn_id", to="d9/9"), "not in turns.jsonl"),
        (put("turn_id", to="d0/0"), "there twice"),
        (put("spans", to={"response": 3}), "spans.response"),
        (put("spans", to={"essay": "x"}), "spans"),
        (put("evidence", to={"<b>": {}}), "evidence"),
        (put("prompt", to="x"), "prompt"),
    ],
)
def test_texts_that_break_the_schema_are_named_where_they_are_read(
    bundle: Path, change: Any, said: str
):
    rewrite(bundle, TEXTS, edit_row(1, change))
    for read in (lambda: list(iterate_texts(bundle)), lambda: verify_bundle(bundle)):
        with pytest.raises(RunError, match=r"texts\.jsonl line 2") as caught:
            read()
        assert said in str(caught.value)


def test_the_helpers_mend_checksums(bundle: Path):
    """Else the tests above would only meet changed checksums."""
    rewrite(bundle, SUMMARY, edit_json(put("model", to="somebody else")))
    content = members(bundle)
    assert json.loads(content[INDEX])["members"][SUMMARY] == checksum(content[SUMMARY])
    assert read_bundle(bundle).summary["model"] == "somebody else"
    assert fingerprint({"a": 1})
