"""Loads a model and its tokenizer with transformers, and says in one sentence why it could not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local.adapters import attach
from kardiabench.models.local.architecture import check_architecture
from kardiabench.models.local.devices import PLACEMENTS, device_of, dtype_of, free_memory
from kardiabench.models.local.fingerprint import names_in, weight_names
from kardiabench.models.local.trouble import explained, no_room, quiet
from kardiabench.models.local.weights import Place, locate, locate_adapter
from kardiabench.spans import SPAN_NAMES

_INSTALL = "pip install 'kardiabench[hf]'"
_GIB = 2**30
_SPAN_TAGS = frozenset(f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end"))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to generate: in evaluation mode, without gradients.

    `eos_ids` are all ids that end a reply: those of the generation config and the tokenizer's.
    `context` is how many tokens the model takes, prompt and reply together; None: it does not say.
    `device` is where the input goes; `dtype` is torch's name of the weights' type.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    eos_ids: tuple[int, ...]
    pad_id: int
    context: int | None
    device: str
    dtype: str


def load(name: str, local: LocalOptions) -> Loaded:
    """Load `name` (a folder, a `.gguf` file or a model of the Hub) as `local` says.

    A GGUF file is unpacked into plain weights. Raises `PreflightError` or `ConfigError`, one
    sentence each, for all that can be wrong with the model, the options and this machine.
    """
    check_installed(name, local)
    place = locate(name, local)
    adapter = None if local.adapter is None else locate_adapter(local.adapter)
    check_architecture(place, trust_remote_code=local.trust_remote_code)
    _check_quantize(place, local)
    device = device_of(local.device)
    dtype = dtype_of(local.dtype, _saved_dtype(place.config), device)
    _check_room(place, dtype, device, local)
    with quiet(all_of_it=place.kind == "gguf"), explained(place, device):
        owner = adapter if adapter is not None and adapter.has_tokenizer else place
        tokenizer = _tokenizer(owner, local)
        model = _model(place, local, dtype, device)
        if adapter is not None:
            merge = local.quantize is None and _dtype_name(model) == "float32"
            model = attach(model, adapter, name, merge=merge)
    _check_vocabulary(name, model, tokenizer)
    return _loaded(model.eval().requires_grad_(False), tokenizer)


def load_trainable(name: str, local: LocalOptions) -> tuple[Any, Any]:
    """The model `name` with its gradients, and its tokenizer. Raises as `load`.

    It is where a launcher (accelerate, FSDP, DeepSpeed) wants it, else on the processor, with the
    type `local.dtype`; its generation config is its own.
    """
    check_installed(name, local)
    place = locate(name, local)
    check_architecture(place, trust_remote_code=local.trust_remote_code)
    with quiet(all_of_it=place.kind == "gguf"), explained(place, "cpu"):
        tokenizer = _tokenizer(place, local)
        model = _model(place, local, local.dtype, None)
    _check_vocabulary(name, model, tokenizer)
    return model.train(), tokenizer


def read_files(name: str, local: LocalOptions) -> tuple[Any, Any, Any]:
    """The tokenizer, the config and the generation config of `name`; no weights. Raises as `load`.

    The config is None for a GGUF file, whose configuration comes with its weights.
    """
    _check_packages(name, ["torch", "transformers"])
    place = locate(name, local)
    adapter = None if local.adapter is None else locate_adapter(local.adapter)
    check_architecture(place, trust_remote_code=local.trust_remote_code)
    with quiet(all_of_it=place.kind == "gguf"), explained(place, "cpu"):
        owner = adapter if adapter is not None and adapter.has_tokenizer else place
        tokenizer, configs = _tokenizer(owner, local), _configs(place, local)
    _check_tokenizer(name, tokenizer)
    return tokenizer, *configs


def _configs(place: Place, local: LocalOptions) -> tuple[Any, Any]:
    from transformers import AutoConfig, GenerationConfig

    if place.kind == "gguf":
        return None, GenerationConfig()
    config = AutoConfig.from_pretrained(
        place.source, trust_remote_code=local.trust_remote_code, **place.arguments
    )
    try:
        return config, GenerationConfig.from_pretrained(place.source, **place.arguments)
    except OSError:  # there is none: what the model's configuration says counts
        return config, GenerationConfig.from_model_config(config)


def end_ids(generation: Any, tokenizer: Any) -> tuple[int, ...]:
    """All ids that end a reply by the generation config and the tokenizer."""
    ends = (*_ids(generation.eos_token_id), *_ids(tokenizer.eos_token_id))
    return tuple(dict.fromkeys(ends))


def context_of(config: Any) -> int | None:
    """How many tokens a model takes: its positions, stretched where its YaRN scaling says so."""
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    values = (getattr(text, name, None) for name in names)
    context = next((value for value in values if isinstance(value, int) and value > 0), None)
    rope = getattr(text, "rope_parameters", None)
    if context is None or not isinstance(rope, Mapping) or rope.get("rope_type") != "yarn":
        return context
    original = rope.get("original_max_position_embeddings") or context
    return max(context, int(original * rope.get("factor", 1.0)))


def check_installed(name: str, local: LocalOptions) -> None:
    """Raise `PreflightError` with the install line when a package that `name` needs is missing."""
    needed = ["torch", "transformers", "accelerate"]
    needed += ["peft"] if local.adapter is not None else []
    _check_packages(name, needed)
    if local.quantize is not None and not _is_installed("bitsandbytes"):
        raise PreflightError("--quantize needs bitsandbytes: pip install bitsandbytes")


def _check_packages(name: str, needed: Sequence[str]) -> None:
    gguf = ["gguf"] if name.lower().endswith(".gguf") else []
    missing = [package for package in [*needed, *gguf] if not _is_installed(package)]
    if missing:
        raise PreflightError(f"local models need {' and '.join(missing)}: {_INSTALL}")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _check_quantize(place: Place, local: LocalOptions) -> None:
    if local.quantize is None:
        return
    if place.kind == "gguf":
        raise ConfigError(f"--quantize does not go with {place.name}, a GGUF file: leave it out")
    if place.config.get("quantization_config"):
        raise ConfigError(f"{place.name} is quantized as it is: leave --quantize out")


def _saved_dtype(config: Mapping[str, Any]) -> str | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        saved = part.get("dtype") or part.get("torch_dtype")
        if isinstance(saved, str):
            return saved.removeprefix("torch.")
    return None


def _check_room(place: Place, dtype: str, device: str, local: LocalOptions) -> None:
    """On Linux a process that takes too much is killed without a word, so ask before."""
    if place.kind != "folder" or place.path is None or local.quantize or device in PLACEMENTS:
        return
    files = weight_names(names_in(place.path))
    size = sum((place.path / file).stat().st_size for file in files)
    bytes_each = {"float32": 4, "bfloat16": 2, "float16": 2}
    saved = bytes_each.get(_saved_dtype(place.config) or "")
    if saved and dtype in bytes_each and not place.config.get("quantization_config"):
        size = size * bytes_each[dtype] // saved
    free = free_memory(device)
    if size > free:
        raise no_room(
            place.name, device, f"{size / _GIB:.1f} GiB of weights, {free / _GIB:.1f} free"
        )


def _tokenizer(place: Place, local: LocalOptions) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        place.source, trust_remote_code=local.trust_remote_code, **place.arguments
    )


def _model(place: Place, local: LocalOptions, dtype: str, device: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        place.source,
        dtype=dtype,
        device_map=None if device is None else PLACEMENTS.get(device, {"": device}),
        trust_remote_code=local.trust_remote_code,
        quantization_config=_quantization(place, local, dtype),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told apart below
        **place.arguments,
    )
    _check_complete(place.name, report["missing_keys"])
    _check_shapes(place.name, report["mismatched_keys"])
    return model


def _quantization(place: Place, local: LocalOptions, dtype: str) -> Any:
    from transformers import BitsAndBytesConfig, GgufConfig

    if place.kind == "gguf":
        return GgufConfig(dequantize=True)
    if local.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if local.quantize == "4bit":
        compute = "bfloat16" if dtype == "auto" else dtype
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    return None


def _check_complete(name: str, missing: Iterable[str]) -> None:
    """What the weights lack, transformers fills with random numbers: never evaluate those."""
    lacking = sorted(missing)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise PreflightError(
            f"the weights of {name} lack {lacking[0]}{more} of the model that its config.json "
            "describes: they are another model's, or saved incompletely"
        )


def _check_shapes(name: str, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    for key, saved, expected in sorted(mismatched):
        raise PreflightError(
            f"the weights of {name} do not fit its config.json ({key} is {tuple(saved)}, not "
            f"{tuple(expected)}): they are another model's, or were resized"
        )


def _check_tokenizer(name: str, tokenizer: Any) -> None:
    """Transformers makes an empty tokenizer where there is none."""
    if not set(tokenizer("a b", add_special_tokens=False).input_ids) - {tokenizer.unk_token_id}:
        raise PreflightError(
            f"{name} has no tokenizer: copy the tokenizer's files of its base model there"
        )


def _check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    _check_tokenizer(name, tokenizer)
    rows = _rows(model)
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows]
    needed = sorted(token for token in beyond if _is_needed(token, tokenizer))
    if needed:
        raise PreflightError(
            f"the tokenizer of {name} has {needed[0]!r}, for which the model has no embedding "
            f"({rows} rows): it is another model's, or an adapter's that came without embeddings"
        )


def _is_needed(token: str, tokenizer: Any) -> bool:
    """Not so padding that was added late, and what transformers adds to a GGUF file's tokens."""
    template = str(tokenizer.chat_template or "")
    special = {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
    return token not in special or token in template or token in _SPAN_TAGS


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _loaded(model: Any, tokenizer: Any) -> Loaded:
    ends = end_ids(model.generation_config, tokenizer)
    pads = (*_ids(tokenizer.pad_token_id), *_ids(model.generation_config.pad_token_id), *ends, 0)
    rows = _rows(model)
    _forget_generation_config(model)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        eos_ids=ends,
        pad_id=next(pad for pad in pads if pad < rows),
        context=context_of(model.config),
        device=str(model.device),
        dtype=_dtype_name(model),
    )


def _forget_generation_config(model: Any) -> None:
    """Only its end tokens count: `generate` would fill what we leave open from it."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),)


def _dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")
