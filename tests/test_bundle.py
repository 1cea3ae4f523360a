"""Bundles: what goes in comes out with the same figures, and nothing else goes in."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from bundle_run import HOME, MARK, SAID, SECRET, a_bundle, a_manifest, a_run, members
from site_runs import Made, write_run

from kardiabench.bundle import read_bundle
from kardiabench.bundle_archive import TEXTS, TURNS, write_archive
from kardiabench.bundle_packing import NEVER, REPLIES, bundle_name, pack_run
from kardiabench.bundle_redaction import is_open, public_manifest, run_id
from kardiabench.bundle_schema import _adapters
from kardiabench.errors import ConfigError, RunError
from kardiabench.files import lock_folder
from kardiabench.fingerprints import digest
from kardiabench.manifests import MANIFEST, read_manifest
from kardiabench.results import read_results
from kardiabench.settings import RunSettings
from kardiabench.spans import parse_spans
from kardiabench.store import ANCHORS, CALIBRATION
from kardiabench.store import REPLIES as REPLY_LOG
from kardiabench.summary import summarise
from kardiabench.texts import iterate_texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("bundle") / "run")


# --- the same figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("include_replies", [True, False])
def test_a_bundle_has_the_figures_of_its_run(run: Path, tmp_path: Path, include_replies: bool):
    packed = pack_run(run, tmp_path, include_replies=include_replies)
    bundle, manifest = read_bundle(packed.path), read_manifest(run)
    own = summarise(run, manifest)
    assert own["judges"]["rubric"]["drift"]["compared"]
    assert own["judges"]["rubric"]["calibrated"]["warm"]["scored"] > 0
    assert own["turns"]["errors_by_kind"] == {f"{SECRET} without a kind": 1, "timeout": 1}
    own["turns"]["errors_by_kind"] = {"other": 1, "timeout": 1}
    own["model"], own["dataset"]["name"] = "replay/replies.jsonl", "test.jsonl"
    del own["judges"]["rubric"]["card"]["sha256"]  # a key of the card stayed behind
    for summary in (bundle.summary, bundle.summarise()):
        del summary["judges"]["rubric"]["card"]["sha256"]
        assert summary == own
    assert bundle.summary["judges"]["rubric"]["card"]["findings"] == ["warm: no spread"]


def test_rows_come_back_as_they_were_with_their_samples(run: Path, tmp_path: Path):
    results = read_results(run, read_manifest(run))
    read = read_bundle(pack_run(run, tmp_path).path).results
    assert list(read.turns) == list(results.turns)
    results.turns["d4/0"].error_kind = "other"
    assert dict(read.turns) == dict(results.turns)
    assert read.turns["d0/1"].verdicts["rubric"].parts == ((2.0, 5.0), (2.0, None))
    assert (read.dimensions, read.weights, read.missing) == (
        results.dimensions,
        results.weights,
        results.missing,
    )


def test_notes_tell_how_a_reply_ended_and_how_long_its_spans_are(run: Path, tmp_path: Path):
    notes = read_bundle(pack_run(run, tmp_path).path).notes
    assert notes["d0/1"] == (
        None,
        {"understanding": 3, "reasoning": 4, "emotion": 1, "response": 2},
    )
    assert notes["d1/1"] == ("stop", dict.fromkeys(notes["d0/1"].words))
    assert notes["d2/1"].finish_reason == "other"  # the server's words were none to publish


def test_equal_runs_give_equal_bytes(run: Path, tmp_path: Path):
    first = pack_run(run, tmp_path / "a.kardia.zip").path.read_bytes()
    shutil.copytree(run, tmp_path / "elsewhere")
    lines = (tmp_path / "elsewhere" / REPLY_LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / "elsewhere" / REPLY_LOG).write_bytes(b"".join(reversed(lines)))
    (tmp_path / "elsewhere" / "summary.json").write_text("{}")  # stale: it is computed anew
    assert pack_run(tmp_path / "elsewhere", tmp_path / "b.kardia.zip").path.read_bytes() == first


def test_the_run_has_one_id_wherever_it_is_read(run: Path, tmp_path: Path):
    manifest = read_manifest(run)
    bundle = read_bundle(pack_run(run, tmp_path).path)
    assert bundle.run_id == run_id(manifest) == run_id(bundle.manifest)
    assert len(bundle.run_id) == 16
    others = [
        {**manifest, "created": "2026-01-02T03:04:06+00:00"},
        {**manifest, "model": {**manifest["model"], "identity": {"seed": 2}}},
        {**manifest, "protocol_id": "0" * 16},
    ]
    assert len({run_id(one) for one in (manifest, *others)}) == 4
    assert run_id({**manifest, "environment": {}, "kardiabench": "9"}) == run_id(manifest)


def test_an_incomplete_run_is_packed_and_its_coverage_shows_it(tmp_path: Path):
    packed = pack_run(a_run(tmp_path / "run", turns=5, planned=20), tmp_path)
    assert not packed.complete
    assert packed.bundle.summary["turns"] == packed.bundle.summary["turns"] | {
        "planned": 20,
        "answered": 5,
    }
    assert packed.bundle.summary["composite"]["total"] == 20


def test_a_run_without_a_reply_is_packed(tmp_path: Path):
    packed = pack_run(a_run(tmp_path / "run", turns=0, planned=4), tmp_path)
    assert packed.bundle.summary["composite"]["mean"] is None
    assert list(iterate_texts(packed.path)) == []


# --- what stays at home ---------------------------------------------------------------------------


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", f"plain-words-{SECRET}")
    return f"plain-words-{SECRET}"


def test_no_text_path_address_or_key_is_in_the_bytes_of_a_bundle(tmp_path: Path, key: str):
    bundle = a_bundle(tmp_path)
    for name, content in members(bundle).items():
        for marker in (SECRET, SAID, key, str(tmp_path), HOME, "example", "my prompt"):
            assert marker.encode() not in content, f"{marker} is in {name}"
    assert "my_judge.py" in members(bundle)["manifest.json"].decode()


def test_with_replies_the_model_and_the_judges_are_quoted_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "is quoted")  # it is in the judge's evidence
    content = members(a_bundle(tmp_path, include_replies=True))
    assert SAID.encode() in content[TEXTS]
    assert b"[redacted]" in content[TEXTS]
    for name, inside in content.items():
        for marker in (SECRET, str(tmp_path), HOME, "is quoted"):
            assert marker.encode() not in inside, f"{marker} is in {name}"
        assert name == TEXTS or SAID.encode() not in inside


def test_a_bundle_says_what_it_lacks(run: Path, tmp_path: Path):
    bare = read_bundle(pack_run(run, tmp_path / "a.kardia.zip").path)
    full = read_bundle(pack_run(run, tmp_path / "b.kardia.zip", include_replies=True).path)
    assert (bare.has_texts, full.has_texts) == (False, True)
    assert {NEVER, REPLIES} <= set(bare.left_out)
    assert NEVER in full.left_out
    assert REPLIES not in full.left_out


def test_replies_to_the_sample_go_out_and_those_to_what_is_called_so_do_not(tmp_path: Path):
    mine = write_run(tmp_path / "mine", Made("a/model"))
    theirs = a_run(tmp_path / "theirs", dataset={"name": "./sample", "sha256": "0" * 64})
    assert pack_run(mine, tmp_path / "a.kardia.zip").bundle.has_texts
    assert not pack_run(mine, tmp_path / "b.kardia.zip", include_replies=False).bundle.has_texts
    assert not pack_run(theirs, tmp_path / "c.kardia.zip").bundle.has_texts
    assert is_open(read_manifest(mine))
    assert not is_open(read_bundle(tmp_path / "c.kardia.zip").manifest)


def test_of_a_calibration_and_the_anchors_only_figures_are_packed(run: Path, tmp_path: Path):
    content = members(pack_run(run, tmp_path).path)
    calibration = json.loads(content[CALIBRATION])
    assert calibration["dimensions"]["warm"]["rectifier"]["by_persona"] == {"p0": 0.1, "p1": 0.2}
    anchors = [json.loads(line)["verdict"] for line in content[ANCHORS].splitlines()]
    assert len(anchors) == 144
    assert all(not one["evidence"] and one["fingerprint"] == MARK for one in anchors)
    card = json.loads(content["cards/rubric.json"])
    assert "later" not in card
    assert card["check"]["findings"] == ["warm: no spread"]


def test_stale_rows_and_judges_stay_behind(tmp_path: Path):
    run = a_run(tmp_path / "run")
    (run / "cards" / "other.json").write_text(json.dumps({"card_version": 1}))
    assert "cards/other.json" not in members(pack_run(run, tmp_path).path)


# --- texts ----------------------------------------------------------------------------------------


def test_texts_are_the_same_from_the_run_and_from_its_bundle(run: Path, tmp_path: Path):
    path = pack_run(run, tmp_path, include_replies=True).path
    own, packed = list(iterate_texts(run)), list(iterate_texts(path))
    assert [text.turn_id for text in own] == list(read_bundle(path).results.turns)
    assert [(t.turn_id, t.spans, t.raw) for t in own] == [
        (t.turn_id, t.spans, t.raw) for t in packed
    ]
    assert list(iterate_texts(read_bundle(path))) == packed
    by_id = {text.turn_id: text for text in packed}
    assert by_id["d1/1"].raw == f"no spans, {SAID}"
    assert by_id["d0/0"].raw is None
    assert by_id["d0/0"].evidence["rubric"] == {"warm": f"{SAID} is quoted"}
    assert by_id["d2/0"].evidence.keys() == {"emotion"}  # what a server said is nobody's quote
    assert parse_spans(by_id["d1/1"].raw).problems


def test_a_bundle_without_replies_has_no_texts(run: Path, tmp_path: Path):
    assert list(iterate_texts(pack_run(run, tmp_path).path)) == []


# --- where it goes --------------------------------------------------------------------------------


def test_the_name_says_model_data_and_run(run: Path, tmp_path: Path):
    manifest = read_manifest(run)
    expected = f"replay-replies-jsonl-test-jsonl-{run_id(manifest)[:8]}.kardia.zip"
    assert bundle_name(manifest) == expected
    assert pack_run(run, tmp_path / "new" / "folder").path == tmp_path / "new" / "folder" / expected


def test_no_name_leads_out_of_the_folder():
    name = bundle_name(
        a_manifest(1, model={"name": "../../etc/x", "identity": {}}, dataset={"name": "../.."})
    )
    assert "/" not in name.removesuffix(".kardia.zip")
    assert ".." not in name


def test_a_bundle_that_is_there_is_not_replaced_unasked(run: Path, tmp_path: Path):
    out = pack_run(run, tmp_path / "a.kardia.zip").path
    with pytest.raises(ConfigError, match="--force"):
        pack_run(run, out)
    assert pack_run(run, out, force=True).path == out
    assert [file.name for file in tmp_path.iterdir()] == [out.name]  # nothing half made is left
    with pytest.raises(ConfigError, match=r"ends with \.kardia\.zip"):
        pack_run(run, tmp_path / "a.zip")


def test_what_is_no_run_or_was_edited_is_not_packed(tmp_path: Path):
    with pytest.raises(RunError, match="is not a run directory"):
        pack_run(tmp_path, tmp_path)
    run = a_run(tmp_path / "run", turns=4, planned=3)
    with pytest.raises(RunError, match="replies to 4 turns, and its dataset has 3"):
        pack_run(run, tmp_path)
    assert list(tmp_path.glob("*.zip")) == []


def test_a_run_whose_rules_were_overruled_is_not_packed(tmp_path: Path):
    run = a_run(tmp_path / "run")
    log = run / "verdicts.jsonl"
    log.write_text(log.read_text().replace('"scores":{"emotion":0.0}', '"scores":{"emotion":1.0}'))
    with pytest.raises(RunError, match=r"was not packed: turns\.d\d/\d\.verdicts\.emotion"):
        pack_run(run, tmp_path)
    assert list(tmp_path.glob("*.zip")) == []


def with_manifest(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((run / MANIFEST).read_text())
    change(manifest)
    manifest["protocol_id"] = digest(manifest["protocol"])
    (run / MANIFEST).write_text(json.dumps(manifest))
    return run


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["config"].update(judges=5), "config.judges"),
        (lambda m: m["config"].update(plugins={"a": 1}), "config.plugins"),
        (lambda m: m["config"].update(judge_model=5), "config.judge_model"),
        (lambda m: m["config"].update(emotions=5), "config.emotions"),
        (lambda m: m["config"].update(model_args=nested(60)), "nested too deeply"),
        (lambda m: m["config"].update(model_args=nested(400)), "nested too deeply"),
        (lambda m: m["protocol"]["scorer"].update(weights={}), "protocol.scorer.weights"),
        (
            lambda m: m["protocol"]["scorer"].update(weights={"format": 0.0}),
            "protocol.scorer.weights.format",
        ),
        (lambda m: m["model"].update(name="\ud800"), "surrogates not allowed"),
        (lambda m: m.pop("created"), "created"),
    ],
)
def test_a_manifest_of_which_no_page_can_be_made_is_named_and_not_packed(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
):
    run = with_manifest(a_run(tmp_path / "run"), change)
    with pytest.raises(RunError) as caught:
        pack_run(run, tmp_path)
    assert str(caught.value).startswith(f"{run / MANIFEST}: ")
    assert said in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_every_setting_of_a_run_has_a_kind_in_the_schema():
    config = _adapters()[1].json_schema()["$defs"]["ConfigPart"]["properties"]
    servers = {"api_base", "judge_api_base", "ray"}  # no bundle has them
    assert {setting.name for setting in fields(RunSettings)} - servers == set(config)
    settings = RunSettings("a/b", emotions=["joyful"], judges=["rubric"], plugins=["x.py"])
    manifest = a_manifest(3, config=json.loads(json.dumps(settings.to_json())))
    _adapters()[1].validate_python(public_manifest(manifest))


def test_what_is_wrong_with_a_log_is_said_of_the_run(tmp_path: Path):
    run = a_run(tmp_path / "run")
    log = run / REPLY_LOG
    log.write_text(log.read_text().replace('"cost":0.5', '"cost":-5', 1))
    with pytest.raises(RunError) as caught:
        pack_run(run, tmp_path / "out")
    sentence = str(caught.value)
    assert sentence.startswith(f"{run} was not packed: turns.jsonl line 1: usage.cost: ")
    assert sentence.endswith("; restore the logs or score the run again")
    assert str(tmp_path / "out") not in sentence
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_packing_left_is_deleted_when_it_is_old(run: Path, tmp_path: Path):
    out = tmp_path / "a.kardia.zip"
    names = {".a.kardia.zip.123": 7200, ".a.kardia.zip.124": 60, ".a.kardia.zip.old": 7200,
             ".b.kardia.zip.123": 7200, "a.kardia.zip.123": 7200}  # fmt: skip
    for name, age in names.items():
        (tmp_path / name).write_bytes(b"PK")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    pack_run(run, out)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {*names, out.name} - {".a.kardia.zip.123"}


def test_a_run_that_is_being_written_is_packed_and_said_to_be(run: Path, tmp_path: Path):
    before = {file.name for file in run.iterdir()}
    lock = lock_folder(run)
    try:
        assert pack_run(run, tmp_path / "a.kardia.zip").in_use
    finally:
        lock.release()
    assert not pack_run(run, tmp_path / "b.kardia.zip").in_use
    lock_folder(run).release()  # it was let go
    assert {file.name for file in run.iterdir()} == before


def test_a_folder_may_have_a_dot_in_its_name_and_is_never_replaced(run: Path, tmp_path: Path):
    folder = tmp_path / "results.v2"
    with pytest.raises(ConfigError, match="or a folder that is there"):
        pack_run(run, folder)
    folder.mkdir()
    path = pack_run(run, folder).path
    assert path.parent == folder
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="is a folder, which no bundle replaces"):
        pack_run(run, folder, force=True)


def test_a_bundle_is_not_packed_again(run: Path, tmp_path: Path):
    path = pack_run(run, tmp_path).path
    with pytest.raises(ConfigError, match=r"is a bundle already; .* submit verify"):
        pack_run(path, tmp_path)


def test_a_public_manifest_is_its_own_public_manifest():
    public = public_manifest(a_manifest(3))
    assert public_manifest(public) == public
    assert SECRET not in json.dumps(public)
    assert public["protocol"] == a_manifest(3)["protocol"]
    assert public["config"]["judges"] == ["rubric:model=openai/judge"]
    assert public["config"]["model_args"] == {
        "top_p": 0.5,
        "user": "[left out]",
        "extra_body": {"top_k": 3, "tag": "[left out]"},
    }
    assert public["environment"]["plugins"] == {
        "judges.mine": "my_judge.py",
        "models.x": "their-package 1.2",
    }


def test_writing_is_the_same_whatever_the_order(tmp_path: Path):
    write_archive(tmp_path / "a", {TURNS: b"x", "b": b"y"})
    write_archive(tmp_path / "b", {"b": b"y", TURNS: b"x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
