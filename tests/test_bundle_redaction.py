"""What of a manifest is published, and that a protocol is published only as it is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from bundle_run import MARK, RUBRIC, SECRET, WEIGHTS, a_manifest, a_run, rated, with_data
from hypothesis import given
from hypothesis import strategies as st
from rundata import make_item, make_manifest, make_run

from judges.emotion import EmotionJudge
from judges.format import FormatJudge
from kardiabench.bundle_check import EMOTION_RULE, FORMAT_RULE
from kardiabench.bundle_packing import pack_run
from kardiabench.bundle_redaction import public_manifest, public_model, public_text, run_id
from kardiabench.errors import RunError
from kardiabench.fingerprints import digest, fingerprint

NAMES = [
    ("openai/gpt-5", "openai/gpt-5"),
    ("replay//home/me/out/replies.jsonl", "replay/replies.jsonl"),
    ("replay/runs of mine/x.jsonl", "replay/x.jsonl"),
    ("scripted/C:\\Users\\me\\x.jsonl", "scripted/x.jsonl"),
    ("hf/Qwen/Qwen3-8B", "hf/Qwen/Qwen3-8B"),
    ("hf//home/me too/ckpt", "hf/ckpt"),
    ("vllm/./out/ckpt-3", "vllm/ckpt-3"),
    ("vllm/~/ckpt", "vllm/ckpt"),
    ("hf/out/sft/final", "hf/final"),
    ("/home/me/model", "model"),
]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_of_a_model_that_is_a_file_its_name_is_left(name: str, shown: str):
    found = public_model({"name": name, "identity": {"model": name, "seed": 1}})
    assert found == {"name": shown, "identity": {"model": shown, "seed": 1}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("either/or, and 1/2", "either/or, and 1/2"),
        ("</response> was missing", "</response> was missing"),
        ("2026-11-25T16:04:57+00:00", "2026-11-25T16:04:57+00:00"),
        ("see /home/me/x.txt, line 3", "see [left out], line 3"),
        ("see C:\\Users\\me\\x.txt now", "see [left out] now"),
        ("at \\\\server\\share\\x", "at [left out]"),
        ("in ../up/x and ~me/y", "in [left out] and [left out]"),
        ("judge hf//home/me/ckpt failed", "judge hf/[left out] failed"),
        ("asked https://10.0.0.1:8000/v1/chat twice", "asked  twice"),
        ("/home/me/last part.txt", "last part.txt"),
        ("sk-abcdefghijklmnopqrstuvwx", "[redacted]"),
    ],
)
def test_texts_lose_paths_addresses_and_keys(text: str, shown: str):
    assert public_text(text) == shown


PIECES = st.sampled_from(
    ["/", "\\", "~", ".", "..", "C:", "http://", "hf/", "replay/", "a", "home", " ", "@", ",", "=",
     "//", "x.jsonl", "<", "+", "[left out]", "file:", "'", "é", "1"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30)


@given(TEXTS)
def test_what_was_made_public_stays_as_it_is(text: str):
    shown = public_text(text)
    assert public_text(shown) == shown
    model = public_model({"name": text, "identity": {"model": text, "extra": {"user": text}}})
    assert public_model(model) == model


@given(TEXTS, TEXTS, TEXTS)
def test_a_public_manifest_is_its_own_and_has_the_id_of_the_run(model: str, data: str, other: str):
    manifest = a_manifest(
        3,
        model={"name": model, "identity": {"model": other, "of": [model], "extra": {"a": other}}},
        dataset={"name": data, "sha256": "0" * 64},
        config={"judges": [other, f"rubric:model={model}"], "dataset": data, "plugins": [other]},
        environment={"plugins": {other: model}, "platform": other},
    )
    public = public_manifest(manifest)
    assert public_manifest(public) == public
    assert run_id(public) == run_id(manifest)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8))
def test_no_folder_of_a_path_is_left(folder: str):
    for name in (f"/{folder}Q/x", f"hf//{folder}Q/x", f"C:\\{folder}Q\\x", f"~/{folder}Q/x"):
        assert f"{folder}Q" not in public_text(name)
        assert f"{folder}Q" not in public_text(f"see {name} there")
        assert f"{folder}Q" not in str(public_model({"name": name, "identity": {"a": [name]}}))


@pytest.mark.parametrize(
    "piece", ["a", "~/", "hf/", "/", "~a", "..", "C:\\", "-", "a:", "@a", "://", ". ", "sk-", "\n/"]
)
def test_long_texts_take_time_in_proportion(piece: str):
    text = piece * (1_000_000 // len(piece))
    before = time.process_time()
    public_text(text)
    assert time.process_time() - before < 5


# --- the protocol ---------------------------------------------------------------------------------


def run_judged_by(path: Path, model: dict[str, Any], description: str = "how warm") -> Path:
    """A run of one turn whose rubric judge asks `model`."""
    manifest = make_manifest([FormatJudge(), EmotionJudge(), RUBRIC], 1, WEIGHTS)
    manifest = with_data(manifest, 1, ["d0"], 1)
    judge = manifest["protocol"]["scorer"]["judges"]["rubric"]
    judge["identity"] = {"judge": "rubric", "model": model}
    judge["fingerprint"] = fingerprint(judge["identity"])
    judge["dimensions"][0]["description"] = description
    manifest["protocol_id"] = digest(manifest["protocol"])
    item = make_item()
    rules = [asyncio.run(one.judge([item]))[0] for one in (FormatJudge(), EmotionJudge())]
    return make_run(path, manifest, [(item.turn, item.reply, rules)])


@pytest.mark.parametrize(
    "model",
    [
        {"model": f"hf//home/{SECRET}/judge"},
        {"model": "x", "extra": {"base_url": f"http://{SECRET}.example/v1"}},
        {"files": [{"at": f"~/{SECRET}"}]},
        {f"/home/{SECRET}": 1},
    ],
)
def test_a_protocol_that_names_what_is_private_is_packed_only_when_told_to(
    tmp_path: Path, model: dict[str, Any]
):
    run = run_judged_by(tmp_path / "run", model)
    with pytest.raises(RunError) as caught:
        pack_run(run, tmp_path)
    assert "protocol.scorer.judges.rubric.identity" in str(caught.value)
    assert "--allow-protocol" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert pack_run(run, tmp_path, allow_protocol=True).path.exists()


@pytest.mark.parametrize("key", ["rather-short", "sk-abcdefghijklmnopqrstuvwx"])
@pytest.mark.parametrize("allow_protocol", [True, False])
def test_a_protocol_with_a_key_is_never_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, allow_protocol: bool
):
    monkeypatch.setenv("MY_API_KEY", "rather-short")
    run = run_judged_by(tmp_path / "run", {"note": f"with {key}"})
    with pytest.raises(
        RunError, match=r"identity\.model\.note in the manifest holds a key"
    ) as caught:
        pack_run(run, tmp_path, allow_protocol=allow_protocol)
    assert key not in str(caught.value)


def test_a_description_may_name_an_address(tmp_path: Path):
    run = run_judged_by(tmp_path / "run", {"model": "x"}, "see https://example.org/scale")
    assert pack_run(run, tmp_path).path.exists()


def test_the_rules_that_are_checked_are_those_of_the_judges():
    assert (EmotionJudge().identity, FormatJudge().identity) == (EMOTION_RULE, FORMAT_RULE)
    assert rated(make_item(), 0).fingerprint == MARK


def test_keys_of_the_environment_are_cut_out_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "their-package")
    run = a_run(tmp_path / "run")
    assert pack_run(run, tmp_path).bundle.manifest["environment"]["plugins"]["models.x"] == (
        "[redacted] 1.2"
    )
