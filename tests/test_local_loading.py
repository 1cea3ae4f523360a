"""Loading local models: what is loaded, what is shared, and what is said when it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_server
import pytest

#: Of peft's use of transformers.
import tiny_models
import torch

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local import devices, held, loading
from kardiabench.models.local.loading import Loaded, context_of, load

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ANY = LocalOptions()
IDS = torch.arange(20, 60)[None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with a tiny model of every family."""
    folder = tmp_path_factory.mktemp("models")
    for family in tiny_models.FAMILIES:
        tiny_models.build(folder / family, family)
    return folder


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A Qwen 2 of one's own, to spoil."""
    return shutil.copytree(models / "qwen2", tmp_path / "model")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def sentence(name: str | Path, **options: Any) -> str:
    with pytest.raises((PreflightError, ConfigError)) as caught:
        load(str(name), LocalOptions(**options))
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def change_config(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def change_weights(folder: Path, change: Any) -> Path:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def logits(loaded: Loaded) -> Any:
    with torch.inference_mode():
        return loaded.model(IDS).logits


# --- what is loaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_is_loaded_as_it_was_saved(models: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    loaded = load(str(models / family), ANY)
    assert (loaded.device, loaded.dtype, loaded.context) == ("cpu", "float32", 2048)
    assert not loaded.model.training
    assert not any(weights.requires_grad for weights in loaded.model.parameters())
    saved = AutoModelForCausalLM.from_pretrained(models / family)
    assert torch.equal(logits(loaded), saved(IDS).logits)


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("qwen2", ["<|im_end|>", "<|endoftext|>"]),
        ("gemma3_text", ["<eos>", "<end_of_turn>"]),
        ("llama", ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]),
        ("mistral", ["</s>"]),
    ],
)
def test_every_end_of_the_generation_config_counts(
    models: Path, family: str, ends: list[str]
) -> None:
    loaded = load(str(models / family), ANY)
    assert loaded.tokenizer.convert_ids_to_tokens(list(loaded.eos_ids)) == ends
    assert loaded.pad_id == loaded.tokenizer.pad_token_id


def test_the_tokenizers_end_counts_beside_the_generation_configs(model: Path) -> None:
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))
    loaded = load(str(model), ANY)
    assert loaded.eos_ids == (7, loaded.tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("saved", "asked", "dtype"),
    [
        ("bfloat16", "auto", "bfloat16"),
        ("float16", "auto", "float32"),
        ("bfloat16", "float32", "float32"),
        ("float32", "float16", "float16"),
    ],
)
def test_the_number_type(model: Path, saved: str, asked: str, dtype: str) -> None:
    loaded = load(str(change_config(model, dtype=saved)), LocalOptions(dtype=asked))
    assert loaded.dtype == dtype
    assert {str(weights.dtype) for weights in loaded.model.parameters()} == {f"torch.{dtype}"}


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model", max_shard_size="50KB")
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 1
    whole = load(str(tiny_models.build(tmp_path / "whole")), ANY)
    assert torch.equal(logits(load(str(folder), ANY)), logits(whole))
    parts[1].unlink()
    assert f"lacks {parts[1].name}" in sentence(folder)


def test_nothing_is_printed(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(str(models / "gemma2"), ANY)
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file(tmp_path: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import gguf

    pieces = load(str(models / "llama"), ANY)
    file = write_gguf(gguf, tmp_path / "llama.gguf", pieces)
    capfd.readouterr()
    loaded = load(str(file), ANY)
    assert capfd.readouterr() == ("", "")
    assert (loaded.dtype, loaded.context) == ("float32", 2048)
    assert torch.allclose(logits(loaded), logits(pieces), atol=1e-3)
    assert loaded.tokenizer.eos_token_id in loaded.eos_ids


def write_gguf(gguf: Any, file: Path, pieces: Loaded) -> Path:
    """The Llama of `pieces` as a GGUF file, as llama.cpp's converter lays it out."""
    model, tokenizer, config = pieces.model, pieces.tokenizer, pieces.model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(words)
    writer.add_token_types([3 if number in special else 1 for number in range(len(words))])
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, weights in model.state_dict().items():
        for part, count in heads.items():
            if f"{part}.weight" in key:  # llama.cpp keeps the two halves of a rotation together
                shape = (count, 2, weights.shape[0] // count // 2, *weights.shape[1:])
                halves = weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)
                break
        else:
            halves = weights
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(name, halves.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# --- adapters -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was trained on the Qwen 2, under another path."""
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    return tiny_models.build_adapter(folder, models / "qwen2", base_name="elsewhere/qwen2")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_the_model_as_peft_does(models: Path, adapter: Path, dtype: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = load(str(models / "qwen2"), LocalOptions(adapter=str(adapter), dtype=dtype))
    base = AutoModelForCausalLM.from_pretrained(models / "qwen2", dtype=getattr(torch, dtype))
    expected = PeftModel.from_pretrained(base, adapter)(IDS).logits
    assert type(loaded.model).__name__ == "Qwen2ForCausalLM"
    assert torch.allclose(logits(loaded), expected, atol=1e-3)
    plain = load(str(models / "qwen2"), LocalOptions(dtype=dtype))
    assert not torch.allclose(logits(loaded), logits(plain), atol=1)


def test_only_float32_weights_take_the_adapter_in(models: Path, adapter: Path) -> None:
    def has_adapter(dtype: str) -> bool:
        loaded = load(str(models / "qwen2"), LocalOptions(adapter=str(adapter), dtype=dtype))
        return any("lora_" in name for name, _ in loaded.model.named_parameters())

    assert not has_adapter("float32")
    assert has_adapter("bfloat16")


@pytest.mark.parametrize(
    "other", [{"family": "llama"}, {"layers": 2}, {"layers": 6}, {"hidden": 64}]
)
def test_an_adapter_for_another_base(tmp_path: Path, adapter: Path, other: dict[str, Any]) -> None:
    folder = tiny_models.build(tmp_path / "other", **other)
    text = sentence(folder, adapter=str(adapter))
    assert f"{adapter} does not fit {folder}" in text
    assert "elsewhere/qwen2" in text


def test_only_lora_adapters_are_taken(model: Path, adapter: Path, tmp_path: Path) -> None:
    other = shutil.copytree(adapter, tmp_path / "prompt")
    path = other / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "PROMPT_TUNING"}))
    assert "only LoRA" in sentence(model, adapter=str(other))


def test_an_adapter_that_brings_new_tokens(tmp_path: Path) -> None:
    """Its tokenizer, its template and the rows of its embeddings are taken."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tiny_models.build(tmp_path / "base", special_tags=False, template=None)
    tokenizer = tiny_models.build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    trained = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")

    loaded = load(str(base), LocalOptions(adapter=str(tmp_path / "adapter")))
    tag = loaded.tokenizer.convert_tokens_to_ids("<|emotion_begin|>")
    assert tag == tokenizer.convert_tokens_to_ids("<|emotion_begin|>")
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert torch.equal(
        loaded.model.get_input_embeddings().weight[tag], model.get_input_embeddings().weight[tag]
    )


# --- what cannot be loaded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "is a BertModel"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "is a T5For"),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, "is a CLIPModel"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "no causal language model head"),
        ({"model_type": "zork", "architectures": ["ZorkForCausalLM"]}, "does not know"),
        (
            {"model_type": "zork", "auto_map": {"AutoModelForCausalLM": "zork.Zork"}},
            "--trust-remote-code",
        ),
        ({"hidden_size": -3}, "cannot be loaded"),
        ({"num_hidden_layers": "many"}, "cannot be loaded"),
        (
            {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 6},
            "lack model.layers.4.input_layernorm.weight and 23 more",
        ),
        ({"vocab_size": 800}, "do not fit its config.json"),
    ],
)
def test_a_config_that_cannot_be_used(model: Path, values: dict[str, Any], words: str) -> None:
    assert words in sentence(change_config(model, **values))


def test_own_code_runs_only_when_it_is_trusted(model: Path) -> None:
    change_config(
        model,
        model_type="zork",
        auto_map={"AutoConfig": "zork.ZorkConfig", "AutoModelForCausalLM": "zork.Zork"},
    )
    (model / "zork.py").write_text(
        "from pathlib import Path\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        f"Path({str(model / 'ran')!r}).touch()\n"
        "class ZorkConfig(Qwen2Config):\n    model_type = 'zork'\n"
        "class Zork(Qwen2ForCausalLM):\n    config_class = ZorkConfig\n"
    )
    assert "--trust-remote-code" in sentence(model)
    assert not (model / "ran").exists()
    loaded = load(str(model), LocalOptions(trust_remote_code=True))
    assert (model / "ran").exists()
    assert type(loaded.model).__name__ == "Zork"


@pytest.mark.parametrize("left", [100, -1000])
def test_weights_that_were_cut_off(model: Path, left: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    assert "model.safetensors of" in sentence(model)
    assert "cut off or damaged" in sentence(model)


def test_weights_that_lack_a_part(model: Path) -> None:
    change_weights(model, lambda weights: weights.pop("lm_head.weight"))
    assert "lack lm_head.weight" in sentence(model)


def test_weights_of_another_architecture(model: Path, models: Path) -> None:
    shutil.copy(models / "gemma2" / "model.safetensors", model)
    assert "another model's" in sentence(model)


def test_a_model_without_its_tokenizer(model: Path, models: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in sentence(model)
    bigger = tiny_models.build_tokenizer("llama", think_tags=True)
    bigger.save_pretrained(model)
    assert "no embedding (779 rows): it is another model's" in sentence(model)


def test_span_tags_need_embeddings_and_late_padding_does_not(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model", special_tags=False)
    tokenizer = load(str(folder), ANY).tokenizer
    tokenizer.add_special_tokens({"pad_token": "<late>"})
    tokenizer.save_pretrained(folder)
    loaded = load(str(folder), ANY)
    assert loaded.tokenizer.pad_token_id == 771
    assert loaded.pad_id < 771
    tokenizer.add_tokens(["<|emotion_begin|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert "has '<|emotion_begin|>'" in sentence(folder)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "balanced", "auto-map"])
def test_a_gpu_asked_for_and_absent(
    models: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # wherever the tests run
    assert f"--device {device} asks for a GPU" in sentence(models / "qwen2", device=device)


def test_a_gpu_with_too_high_a_number(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "has cuda:0 to cuda:1" in sentence(models / "qwen2", device="cuda:2")
    assert devices.device_of("cuda") == "cuda:0"
    assert devices.device_of("cuda:1") == "cuda:1"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "auto:1", ""])
def test_a_word_that_is_no_device(models: Path, device: str) -> None:
    assert "is no device" in sentence(models / "qwen2", device=device)


def test_a_word_that_is_no_number_type(models: Path) -> None:
    assert "did you mean 'bfloat16'" in sentence(models / "qwen2", dtype="bfloat")


@pytest.mark.parametrize(
    ("package", "options", "words"),
    [
        ("torch", {}, "pip install 'kardiabench[hf]'"),
        ("transformers", {}, "pip install 'kardiabench[hf]'"),
        ("peft", {"adapter": "./a"}, "need peft: pip install 'kardiabench[hf]'"),
        ("bitsandbytes", {"quantize": "4bit"}, "pip install bitsandbytes"),
    ],
)
def test_what_is_not_installed_comes_with_the_line_that_installs_it(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    options: dict[str, Any],
    words: str,
) -> None:
    def version(name: str) -> str:
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(loading, "version", version)
    assert words in sentence(models / "qwen2", **options)


def test_what_is_quantized_is_not_quantized_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "version", lambda _: "1.0")
    change_config(model, quantization_config={"quant_method": "awq"})
    assert "is quantized as it is" in sentence(model, quantize="8bit")


def test_a_model_that_does_not_fit_into_memory(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda _: 1000)
    text = sentence(models / "qwen2")
    assert "does not fit into the memory of cpu" in text
    assert "--dtype bfloat16" in text


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")]
)
def test_memory_that_runs_out_while_loading(
    models: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    assert "does not fit into the memory" in sentence(models / "qwen2")


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_cache_bytes_per_token_are_what_a_cache_takes(models: Path, family: str) -> None:
    from transformers import DynamicCache

    loaded = load(str(models / family), ANY)
    cache = DynamicCache()
    loaded.model(IDS, cache=cache)
    taken = sum(kept.nbytes for layer in cache.layers for kept in (layer.keys, layer.values))
    reckoned = devices.kv_bytes_per_token(loaded.model.config, loaded.dtype) * IDS.shape[1]
    assert reckoned == taken


def test_free_memory_of_the_processor_keeps_to_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = devices.free_memory("cpu")
    assert everything > 2**20
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("70000\n")
    (tmp_path / "memory.stat").write_text("anon 40000\ninactive_file 20000\n")
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    assert devices.free_memory("cpu") == 50000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.free_memory("cpu") > 2**20


def config_with(**values: object) -> Any:
    return SimpleNamespace(get_text_config=lambda **_: SimpleNamespace(**values))


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({}, None),
        (
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "llama3"}},
            131072,
        ),
    ],
)
def test_the_context_is_what_the_config_says(values: dict[str, object], context: int) -> None:
    assert context_of(config_with(**values)) == context


# --- held models --------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were really loaded."""
    names: list[str] = []

    def counted(name: str, local: LocalOptions) -> Loaded:
        names.append(name)
        return load(name, local)

    monkeypatch.setattr(held, "load", counted)
    return names


def test_the_same_weights_are_loaded_once(
    models: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    first = held.acquire(str(models / "qwen2"), ANY)
    second = held.acquire("./qwen2", LocalOptions(thinking=False))
    other = held.acquire("./qwen2", LocalOptions(dtype="bfloat16"))
    assert first is second
    assert other is not first
    assert len(loads) == 2
    for loaded in (first, second, other):
        held.release(loaded)


def test_the_last_release_lets_go(models: Path, loads: list[str]) -> None:
    name = str(models / "qwen2")
    first, second = held.acquire(name, ANY), held.acquire(name, ANY)
    held.release(first)
    assert held.acquire(name, ANY) is first
    held.release(first)
    held.release(second)
    with pytest.raises(ValueError, match="not held"):
        held.release(first)
    held.release(held.acquire(name, ANY))
    assert len(loads) == 2


def test_threads_that_ask_together_wait_for_one_load(models: Path, loads: list[str]) -> None:
    got: list[Loaded] = []
    threads = [
        threading.Thread(target=lambda: got.append(held.acquire(str(models / "llama"), ANY)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(loads) == 1
    assert len(set(map(id, got))) == 1
    for loaded in got:
        held.release(loaded)


def test_a_load_that_failed_is_tried_again(model: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text("{")
    with pytest.raises(PreflightError):
        held.acquire(str(model), ANY)
    (model / "config.json").write_text(config)
    held.release(held.acquire(str(model), ANY))


# --- the Hub ------------------------------------------------------------------------------------


def test_from_the_hub_and_then_from_the_cache(models: Path, tmp_path: Path) -> None:
    """Another process downloads it from a Hub of our own; with the Hub gone, the cache serves."""
    code = (
        "import sys; from kardiabench.contracts import LocalOptions\n"
        "from kardiabench.models.local.loading import load\n"
        "from kardiabench.models.local.weights import weights_identity\n"
        "print(weights_identity('team/model', LocalOptions())['revision'])\n"
        "print(load('team/model', LocalOptions(device='cpu')))\n"
    )
    cache = {"HF_HOME": str(tmp_path), "DISABLE_SAFETENSORS_CONVERSION": "1"}

    def run(**settings: str) -> str:
        environment = {**os.environ, **cache, **settings}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with hub_server.hub(models / "qwen3", "team/model") as address:
        first = run(HF_ENDPOINT=address, HF_HUB_OFFLINE="0")
    assert first.startswith(hub_server.COMMIT)
    assert first == run(HF_HUB_OFFLINE="1")
