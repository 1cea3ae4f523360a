"""What `--model-arg` may say to vLLM: arguments of the engine and of sampling, told apart by name.

Nothing of vLLM is imported here. Names of sampling arguments are a list; every other name has to be
one of the installed vLLM's engine arguments, which `check_engine` is told when it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, did_you_mean

#: Fields of `SamplingParams` that shape what is drawn. None of them is an engine argument too.
SAMPLING = (
    "allowed_token_ids",
    "bad_words",
    "frequency_penalty",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "thinking_token_budget",
    "top_k",
    "top_p",
)
_GREEDY_ONLY = "the engine's answers are read whole, one a request"
#: Names that have an option of their own, or that this backend sets, and what to do instead.
RESERVED: Mapping[str, str] = {
    "model": "it is --model",
    "tokenizer": "a model is read with its own tokenizer",
    "revision": "use --model-revision",
    "tokenizer_revision": "use --model-revision",
    "code_revision": "use --model-revision",
    "dtype": "use --dtype",
    "device": "use --device",
    "trust_remote_code": "use --trust-remote-code",
    "seed": "use --seed",
    "temperature": "use --temperature",
    "max_tokens": "use --max-tokens",
    "enable_lora": "use --adapter",
    "n": _GREEDY_ONLY,
    "output_kind": _GREEDY_ONLY,
    "stop": "replies end where the model ends them",
    "stop_token_ids": "replies end where the model ends them",
    "ignore_eos": "replies end where the model ends them",
    "include_stop_str_in_output": "replies end where the model ends them",
    "generation_config": "of it only the end tokens are used, always",
    "override_generation_config": "give sampling arguments as such: --model-arg top_p=0.9",
    "detokenize": "replies are decoded from their tokens",
    "skip_special_tokens": "replies are decoded from their tokens",
    "spaces_between_special_tokens": "replies are decoded from their tokens",
    "skip_tokenizer_init": "replies are decoded from their tokens",
    "structured_outputs": "use --guided-spans",
    "logprobs": "judges that use them ask for them",
    "prompt_logprobs": "nothing reads them",
    "enable_log_requests": "prompts are not logged",
    "runner": "only generation is of use here",
    "convert": "only generation is of use here",
}
#: Engine arguments that decide how fast answers come and from how much memory, not what they say.
CAPACITY = (
    "async_scheduling",
    "block_size",
    "cpu_offload_gb",
    "disable_log_stats",
    "distributed_executor_backend",
    "download_dir",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_cpu_loras",
    "max_logprobs",
    "max_loras",
    "max_lora_rank",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "num_gpu_blocks_override",
    "pipeline_parallel_size",
    "safetensors_load_strategy",
    "scheduling_policy",
    "tensor_parallel_size",
    "use_tqdm_on_load",
)  # fmt: skip
_CAPACITY_BEGINNINGS = ("data_parallel_", "offload_", "cudagraph_", "compilation_", "numa_")


class Arguments(NamedTuple):
    """What was given: for the engine, and for the sampling of each reply."""

    engine: Mapping[str, object]
    sampling: Mapping[str, object]


def split_arguments(given: Mapping[str, object]) -> Arguments:
    """Tell sampling arguments from the engine's; raise `ConfigError` for one that is reserved."""
    for name in given:
        if name in RESERVED:
            raise ConfigError(f"--model-arg {name} cannot be set here: {RESERVED[name]}")
    engine = {name: value for name, value in given.items() if name not in SAMPLING}
    return Arguments(engine, {n: v for n, v in given.items() if n in SAMPLING})


def engine_part(given: Mapping[str, object]) -> Mapping[str, object]:
    """The engine's arguments among `given`, which were checked where they were given."""
    return {n: v for n, v in given.items() if n not in SAMPLING and n not in RESERVED}


def sampling_values(given: Mapping[str, object]) -> dict[str, Any]:
    """The sampling arguments as `SamplingParams` takes them; token ids may come as text.

    Raises `ValueError`.
    """
    values: dict[str, Any] = dict(given)
    bias = values.get("logit_bias")
    if bias is not None:
        if not isinstance(bias, Mapping):
            raise ValueError("logit_bias is not a mapping of token ids to numbers")
        values["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
    return values


def check_engine(given: Mapping[str, object], fields: Collection[str]) -> None:
    """Raise `ConfigError` for the first of `given` that is none of the engine's `fields`."""
    for name in given:
        if name not in fields:
            known = (set(fields) | set(SAMPLING)) - RESERVED.keys()
            hint = did_you_mean(name, (n for n in known if not n.startswith("_")))
            if hint.startswith("known: "):  # several hundred names help nobody
                hint = "vllm/ takes what `vllm serve --help` lists, with underscores"
            raise ConfigError(f"--model-arg {name}: vLLM has no such argument; {hint}")


def deciding(engine: Mapping[str, object]) -> dict[str, object]:
    """The engine's arguments that enter the model's identity: not capacity, not parallelism."""
    return {
        name: value
        for name, value in engine.items()
        if name not in CAPACITY and not name.startswith(_CAPACITY_BEGINNINGS)
    }


def local_arguments(local: LocalOptions) -> dict[str, object]:
    """The engine arguments that stand for the options of a local model.

    Raises `ConfigError` for what vLLM cannot do.
    """
    if local.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"--device {local.device}: vLLM runs on what it was built for, over all that it is "
            "shown; choose with CUDA_VISIBLE_DEVICES, spread with --model-arg "
            "tensor_parallel_size=N"
        )
    if local.quantize == "8bit":
        raise ConfigError(
            "--quantize 8bit: vLLM quantizes to 4 bits while it loads; use --quantize 4bit, "
            "--model-arg quantization=fp8 on a GPU that has it, or hf/ for 8 bits"
        )
    quantized = {"quantization": "bitsandbytes"} if local.quantize else {}
    return {
        "dtype": local.dtype,
        "trust_remote_code": local.trust_remote_code,
        **quantized,
    }
