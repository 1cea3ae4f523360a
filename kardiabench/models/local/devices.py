"""Where a model computes, in which numbers, and how much memory that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kardiabench.errors import ConfigError, PreflightError, did_you_mean

#: Placements of one model over several devices, by accelerate: our name and its.
PLACEMENTS = {
    "balanced": "balanced",
    "balanced_low_0": "balanced_low_0",
    "sequential": "sequential",
    "auto-map": "auto",
}
_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", *PLACEMENTS)
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_CGROUP = Path("/sys/fs/cgroup")


def device_of(name: str) -> str:
    """The device that `--device NAME` means here: `cpu`, `cuda:0`, `mps`, … or a placement.

    `auto` is the first GPU, else Apple's, else the processor. Raises `ConfigError` for a word that
    means none and `PreflightError` for a device that this machine, or this torch, has not.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in _DEVICES or kind == "auto" or (number and not number.isdecimal()):
        raise ConfigError(f"--device {name!r} is no device; {did_you_mean(name, _DEVICES)}")
    if kind in PLACEMENTS:
        _check_there(name, "cuda", 0)
        return kind
    if kind != "cpu":
        _check_there(name, kind, int(number or 0))
        return kind if kind == "mps" else f"{kind}:{number or 0}"
    return "cpu"


def _check_there(asked: str, kind: str, number: int) -> None:
    import torch

    module = getattr(torch, kind)
    if not module.is_available():
        built = kind != "cuda" or torch.version.cuda or torch.version.hip
        why = "torch sees none here" if built else f"torch {torch.__version__} is built without"
        raise PreflightError(
            f"--device {asked} asks for a GPU, but {why}: use --device cpu or auto"
        )
    count = module.device_count()
    if number >= count:
        has = f"only {kind}:0" if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
        raise PreflightError(f"--device {asked} is not there: this machine has {has}")


def dtype_of(asked: str, saved: str | None, device: str) -> str:
    """The number type to load with: as asked, else (`auto`) as the weights were saved.

    float16 is computed in float32 on a processor: the same weights, and few processors multiply
    float16. What was saved in no float type that is known stays `auto`, which is transformers'
    own choice. Raises `ConfigError` for another word.
    """
    if asked not in _DTYPES:
        raise ConfigError(f"--dtype {asked!r} cannot be used; {did_you_mean(asked, _DTYPES)}")
    if asked != "auto":
        return asked
    if saved == "float16" and device == "cpu":
        return "float32"
    return saved if saved in _DTYPES else "auto"


def kv_bytes_per_token(config: Any, dtype: Any) -> int:
    """Bytes that the cache of one token takes over all layers: an upper bound.

    `config` is the model's, `dtype` a torch dtype or its name. Every attention layer counts as if
    it kept all tokens, sliding windows too; layers without a cache that grows do not.
    """
    import torch

    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    growing = sum("attention" in kind and "linear" not in kind for kind in kinds)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = max(size, getattr(text, "global_head_dim", None) or 0, _latent_head(text))
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return int(2 * growing * heads * size * kind.itemsize)


def _latent_head(text: Any) -> int:
    """The size of a head that is kept in two parts (DeepSeek's), else 0."""
    parts = (getattr(text, name, None) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim"))
    return sum(parts)


def free_memory(device: str) -> int:
    """Bytes that can still be allocated on `device` now; for a placement, on its fullest GPU.

    On a GPU that is what the driver has and what torch keeps but does not use; for the processor
    what the machine has available, or this process's control group, whichever is less.
    """
    import torch

    if device in PLACEMENTS:
        return min(free_memory(f"cuda:{number}") for number in range(torch.cuda.device_count()))
    if device.startswith("cuda"):
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return _free_for_processor()


def _free_for_processor() -> int:
    import psutil

    available = int(psutil.virtual_memory().available)
    group = _free_in_group(_CGROUP)
    return available if group is None else min(available, group)


def _free_in_group(folder: Path) -> int | None:
    """What a control group (version 2) leaves: its limit less what it uses and cannot drop."""
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    droppable = dict(line.split() for line in lines).get("inactive_file", "0")
    return None if limit == "max" else max(0, int(limit) - used + int(droppable))
