"""What `vllm/…` says without vLLM: its arguments, its identity, its grammar."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kardiabench.contracts import LocalOptions, ModelOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local import vllm_engine, vllm_reaper
from kardiabench.models.local.chances import chances_of
from kardiabench.models.local.decoding import ReplyDecoder
from kardiabench.models.local.vllm_arguments import (
    CAPACITY,
    RESERVED,
    SAMPLING,
    check_engine,
    engine_part,
    sampling_values,
    split_arguments,
)
from kardiabench.models.local.vllm_engine import Adapter, acquire, release
from kardiabench.models.local.vllm_stats import EngineStats
from kardiabench.models.vllm import VllmModel, build
from kardiabench.records import ChatRequest, Message

ENGINE_FIELDS = {"max_num_seqs", "max_model_len", "tensor_parallel_size", "dtype", "model"}


def options(**changes: Any) -> ModelOptions:
    return replace(ModelOptions(), **changes)


def test_arguments_are_told_apart_by_name() -> None:
    given = {"top_p": 0.9, "max_num_seqs": 4, "repetition_penalty": 1.1, "quantization": "fp8"}
    engine, sampling = split_arguments(given)
    assert engine == {"max_num_seqs": 4, "quantization": "fp8"}
    assert sampling == {"top_p": 0.9, "repetition_penalty": 1.1}


@pytest.mark.parametrize(
    ("name", "instead"),
    [("temperature", "--temperature"), ("dtype", "--dtype"), ("enable_lora", "--adapter")],
)
def test_arguments_with_an_option_of_their_own_are_refused(name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*{instead}"):
        VllmModel("vllm/some/model", options(extra={name: 1}))


def test_no_name_has_two_meanings() -> None:
    assert not set(SAMPLING) & set(CAPACITY)
    assert not set(RESERVED) & {*SAMPLING, *CAPACITY}


def test_a_judge_takes_the_engine_and_leaves_the_rest() -> None:
    assert engine_part({"max_num_seqs": 4, "top_p": 0.9}) == {"max_num_seqs": 4}


def test_an_unknown_argument_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_num_seqs'"):
        check_engine({"max_num_seq": 4}, ENGINE_FIELDS)
    with pytest.raises(ConfigError, match="did you mean 'top_p'"):
        check_engine({"topp": 0.9}, ENGINE_FIELDS)
    with pytest.raises(ConfigError, match="vllm serve --help"):
        check_engine({"zzz": 1}, ENGINE_FIELDS)
    check_engine({"max_num_seqs": 4}, ENGINE_FIELDS)


def test_token_ids_of_a_bias_may_be_text() -> None:
    assert sampling_values({"logit_bias": {"7": 2}}) == {"logit_bias": {7: 2.0}}
    with pytest.raises(ValueError, match="mapping"):
        sampling_values({"logit_bias": 3})


@pytest.mark.parametrize(
    ("local", "words"),
    [
        (LocalOptions(device="cuda:1"), "CUDA_VISIBLE_DEVICES"),
        (LocalOptions(device="balanced"), "tensor_parallel_size"),
        (LocalOptions(quantize="8bit"), "4bit"),
    ],
)
def test_what_vllm_cannot_do_is_said(local: LocalOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VllmModel("vllm/some/model", options(local=local))


def test_without_vllm_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        vllm_engine.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "vllm" else find(name, *rest),
    )
    vllm_engine.load_vllm.cache_clear()
    with pytest.raises(PreflightError, match="hosted_vllm"):
        build("vllm/some/model", options())
    model = VllmModel("vllm/some/model", options())
    with pytest.raises(PreflightError, match=r"pip install 'kardiabench\[vllm\]'"):
        asyncio.run(model.preflight())
    (completion,) = asyncio.run(model.complete([ChatRequest((Message("user", "Hi"),))]))
    assert (completion.status, completion.text) == ("error", "")
    assert completion.detail.startswith("install: ")
    asyncio.run(model.aclose())
    vllm_engine.load_vllm.cache_clear()


def test_dialogues_fill_the_engine() -> None:
    assert VllmModel("vllm/x", options(extra={"max_num_seqs": 32})).dialogues_at_once == 6
    assert VllmModel("vllm/x", options(extra={"max_num_seqs": 1})).dialogues_at_once == 2
    assert VllmModel("vllm/x", options(extra={"max_num_seqs": 4096})).dialogues_at_once == 128
    assert VllmModel("vllm/x", options()).dialogues_at_once == 48


def test_the_identity_has_what_decides_replies_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    name = f"vllm/{tmp_path}"
    plain = VllmModel(name, options()).identity
    wide = {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5, "data_parallel_size": 2}
    assert VllmModel(name, options(extra=wide)).identity == plain
    assert VllmModel(name, options(local=LocalOptions(device="cpu"))).identity == plain
    changed = [
        options(extra={"top_p": 0.9}),
        options(extra={"quantization": "fp8"}),
        options(temperature=0.7),
        options(seed=1),
        options(max_tokens=7),
        options(local=LocalOptions(dtype="float16")),
        options(local=LocalOptions(thinking=False)),
    ]
    identities = [VllmModel(name, one).identity for one in changed]
    assert plain not in identities
    assert len({str(sorted(one.items(), key=str)) for one in identities}) == len(changed)


def test_engines_are_shared_by_arguments() -> None:
    lora = Adapter("lora", "/nowhere", 8)
    adapted = acquire("vllm/a", {"model": "a"}, lora)
    base = acquire("vllm/a", {"model": "a"}, None)
    other = acquire("vllm/b", {"model": "a", "max_num_seqs": 4}, None)
    second = acquire("vllm/a", {"model": "a"}, Adapter("lora2", "/nowhere", 8))
    assert base is adapted
    assert len({id(engine) for engine in (adapted, other, second)}) == 3
    for engine in (adapted, base, other, second):
        release(engine)
    again = acquire("vllm/a", {"model": "a"}, None)
    assert again is not adapted
    release(again)


def test_what_the_engine_counts() -> None:
    class Report:
        num_running_reqs, num_waiting_reqs = 1, 0
        num_prompt_tokens, num_generation_tokens = 100, 8

        class prefix_cache_stats:  # noqa: N801 - vLLM's name
            queries, hits = 100, 80

    stats = EngineStats()
    assert stats.hit_rate is None
    assert stats.tokens_per_second is None
    stats.note(Report, Report)
    time.sleep(0.01)
    stats.note(None, Report)
    assert stats.hit_rate == 0.8
    assert (stats.prompt_tokens, stats.generated_tokens) == (200, 16)
    assert stats.busy >= 0.01


def test_a_process_dies_with_the_one_that_had_it_watched() -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    parent = (
        "import sys; from kardiabench.models.local.vllm_reaper import watch; "
        f"watch([{watched.pid}]); sys.stdin.readline()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as process:
        time.sleep(2)
        assert watched.poll() is None
        process.kill()
    assert watched.wait(timeout=30) == -9


def test_the_watcher_ends_with_what_it_watches() -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    watcher = vllm_reaper.watch([watched.pid])
    watched.communicate()
    assert watcher.wait(timeout=30) == 0


class Letters:
    """A tokenizer of single characters; 0 is the end."""

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}
    all_special_ids: ClassVar = [0]
    all_special_tokens: ClassVar = ["<end>"]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


def test_chances_join_to_the_reply() -> None:
    decoder = ReplyDecoder(Letters(), [0])
    ids = [*map(ord, " 42\n"), 0]
    alternatives = [{number: -0.1, ord("7"): -3.0} for number in ids]
    found = chances_of(decoder, ids, alternatives, "42")
    assert [chance.token for chance in found] == ["4", "2"]
    assert found[0].top == (("4", -0.1), ("7", -3.0))
    begun = chances_of(decoder, ids, alternatives, "<x> 42\n", "<x>")
    assert "".join(chance.token for chance in begun) == "<x> 42\n"
    assert chances_of(decoder, ids, alternatives, "43") == ()
    assert chances_of(decoder, ids, [], "42") == ()
