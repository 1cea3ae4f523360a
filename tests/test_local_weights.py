"""Where the weights of local models are found, and what identifies them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local import fingerprint as fingerprints
from kardiabench.models.local.weights import locate, locate_adapter, weights_identity

ANY = LocalOptions()
COMMIT = "a" * 40


def write_model(folder: Path, config: object = None, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]} | (config or {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_adapter(folder: Path, base: str = "team/base") -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def sentence(name: str | Path, options: LocalOptions = ANY) -> str:
    with pytest.raises((PreflightError, ConfigError)) as caught:
        weights_identity(str(name), options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    from huggingface_hub import constants

    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def online(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str]]:
    """A Hub that has `team/model`; gives the folder that it serves and its address."""
    from huggingface_hub import constants

    folder = write_model(tmp_path / "served")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub_server.hub(folder, "team/model") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield folder, address


def put_in_cache(cache: Path, name: str, folder: Path, ref: str = "main") -> None:
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(COMMIT)


# --- fingerprints -------------------------------------------------------------------------------


def test_a_copy_elsewhere_is_the_same_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "one")
    copy = shutil.copytree(model, tmp_path / "far" / "away")
    identity = weights_identity(str(model), ANY)
    assert identity == weights_identity(str(copy), ANY)
    assert list(identity) == ["weights"]
    assert len(str(identity["weights"])) == 16


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "x.py"]
)
def test_another_content_is_another_model(tmp_path: Path, file: str) -> None:
    model = write_model(tmp_path / "model")
    before = weights_identity(str(model), ANY)
    content = (model / file).read_bytes() if (model / file).exists() else b""
    (model / file).write_bytes(content + b" ")
    assert weights_identity(str(model), ANY) != before


@pytest.mark.parametrize(
    "file", ["README.md", "optimizer.pt", "training_args.bin", "pytorch_model.bin", "trainer.json"]
)
def test_what_is_not_loaded_does_not_count(tmp_path: Path, file: str) -> None:
    model = write_model(tmp_path / "model")
    before = weights_identity(str(model), ANY)
    (model / file).write_bytes(b"beside")
    assert weights_identity(str(model), ANY) == before


def test_a_change_of_the_same_size_is_seen(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", weights=b"weights")
    before = weights_identity(str(model), ANY)
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert weights_identity(str(model), ANY) != before


def test_large_files_are_read_in_spans_from_first_to_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "_SPAN", 10)
    monkeypatch.setattr(fingerprints, "_SPANS", 5)
    content = bytes(5000)

    def digest(changed: int | None) -> str:
        file = tmp_path / f"{changed}.bin"
        values = bytearray(content)
        if changed is not None:
            values[changed] = 1
        file.write_bytes(values)
        return fingerprints.fingerprint({"weights": file})

    plain = digest(None)
    assert digest(0) != plain
    assert digest(4999) != plain
    assert digest(2500) != plain
    assert digest(600) == plain  # between spans: the price of speed, as documented
    longer = tmp_path / "longer"
    longer.write_bytes(content + b"\0")
    assert fingerprints.fingerprint({"weights": longer}) != plain


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path / "model")
    first = weights_identity(str(model), ANY)
    monkeypatch.setattr(Path, "open", None)
    names = {name: model / name for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert fingerprints.fingerprint(names) == first["weights"]


def test_a_gguf_file_is_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "two.GGUF").write_bytes(b"GGUF and more")
    one = weights_identity(str(tmp_path / "one.gguf"), ANY)
    assert one == weights_identity(str(tmp_path / "two.GGUF"), ANY)
    place = locate(str(tmp_path / "one.gguf"), ANY)
    assert (place.source, place.arguments) == (str(tmp_path), {"gguf_file": "one.gguf"})


def test_an_adapter_is_a_part_of_the_identity(tmp_path: Path) -> None:
    model, adapter = write_model(tmp_path / "model"), write_adapter(tmp_path / "adapter")
    plain = weights_identity(str(model), ANY)
    both = weights_identity(str(model), LocalOptions(adapter=str(adapter)))
    assert both["weights"] == plain["weights"]
    (adapter / "adapter_model.safetensors").write_bytes(b"trained on")
    later = weights_identity(str(model), LocalOptions(adapter=str(adapter)))
    assert both["adapter"] != later["adapter"]


def test_a_name_that_exists_as_a_folder_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "team" / "model")
    monkeypatch.chdir(tmp_path)
    assert locate("team/model", ANY).kind == "folder"


# --- folders that are no model ------------------------------------------------------------------


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    assert "does not exist" in sentence(tmp_path / "nowhere")
    assert "does not exist" in sentence("./nowhere")
    assert "does not exist" in sentence("nowhere.gguf")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in sentence(tmp_path / "empty")
    assert "it is empty" in sentence(tmp_path / "empty")
    model = write_model(tmp_path / "model")
    assert "--model-revision" in sentence(model, LocalOptions(revision="main"))
    (model / "model.safetensors").unlink()
    assert "no weights" in sentence(model)
    (model / "config.json").write_text("{")
    (model / "model.safetensors").write_bytes(b"")
    assert "config.json" in sentence(model)
    (model / "config.json").write_text("[]")
    assert "no JSON object" in sentence(model)


def test_a_folder_of_gguf_files_asks_for_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    assert "model-q4.gguf" in sentence(tmp_path)
    (tmp_path / "text.gguf").write_text("no such thing")
    assert "no GGUF file" in sentence(tmp_path / "text.gguf")


def test_an_adapter_given_as_the_model_names_its_base(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    assert f"give team/base as the model, with --adapter {adapter}" in sentence(adapter)


def test_model_and_adapter_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "adapter_config.json").write_text("{}")
    assert "which is meant" in sentence(model)


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    parts = {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    assert "lacks model-00002-of-00002.safetensors" in sentence(model)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no adapter_config.json"),
        ({"config.json": "{}"}, "belongs to --model"),
        ({"adapter_config.json": "{}"}, "lacks adapter_model.safetensors"),
    ],
)
def test_what_is_no_adapter_is_said(tmp_path: Path, files: dict[str, str], words: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(PreflightError, match=words):
        locate_adapter(str(folder))


def test_an_adapter_that_does_not_exist() -> None:
    with pytest.raises(PreflightError, match="no folder"):
        locate_adapter("./nowhere")


# --- the Hub ------------------------------------------------------------------------------------


def test_offline_the_cache_says_which_commit(tmp_path: Path, cache: Path) -> None:
    put_in_cache(cache, "team/model", write_model(tmp_path / "model"))
    assert weights_identity("team/model", ANY) == {"revision": COMMIT}
    assert weights_identity("team/model", LocalOptions(revision=COMMIT)) == {"revision": COMMIT}
    assert locate("team/model", ANY).config["model_type"] == "qwen2"


def test_offline_a_tag_of_the_cache_is_found_and_another_is_not(
    tmp_path: Path, cache: Path
) -> None:
    put_in_cache(cache, "team/model", write_model(tmp_path / "model"), ref="v1")
    assert weights_identity("team/model", LocalOptions(revision="v1")) == {"revision": COMMIT}
    text = sentence("team/model", LocalOptions(revision="v2"))
    assert "'v2'" in text
    assert "hf download team/model" in text


@pytest.mark.usefixtures("cache")
def test_offline_what_is_not_cached_is_said() -> None:
    assert "HF_HUB_OFFLINE is set" in sentence("team/model")
    assert "neither a folder here nor a name" in sentence("a/b/c")


def test_a_cached_copy_without_weights_is_said(tmp_path: Path, cache: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").unlink()
    put_in_cache(cache, "team/model", model)
    assert "no weights" in sentence("team/model")


def test_an_adapter_of_the_hub_is_pinned(tmp_path: Path, cache: Path) -> None:
    put_in_cache(cache, "team/adapter", write_adapter(tmp_path / "adapter"))
    model = write_model(tmp_path / "model")
    identity = weights_identity(str(model), LocalOptions(adapter="team/adapter"))
    assert identity["adapter"] == f"team/adapter@{COMMIT}"


@pytest.mark.usefixtures("online")
def test_online_the_hub_says_which_commit() -> None:
    place = locate("team/model", ANY)
    assert place.revision == hub_server.COMMIT
    assert place.config["model_type"] == "qwen2"
    assert place.arguments == {"revision": hub_server.COMMIT}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("team/unknown", "the Hub has no model team/unknown"),
        ("team/gated", "team/gated is gated"),
        ("team/old", "has no revision 'v9'"),
        ("team/broken", "the Hub has trouble"),
    ],
)
@pytest.mark.usefixtures("online")
def test_what_the_hub_refuses_is_said(name: str, words: str) -> None:
    assert words in sentence(name, LocalOptions(revision="v9" if name == "team/old" else None))


def test_an_adapter_on_the_hub_given_as_the_model(online: tuple[Path, str]) -> None:
    folder, _ = online
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "team/base"}')
    assert "give team/base as the model" in sentence("team/model")


def test_without_a_network_the_cache_serves(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in sentence("team/model")
    put_in_cache(cache, "team/model", write_model(tmp_path / "model"))
    assert weights_identity("team/model", ANY) == {"revision": COMMIT}
