"""What a training leaves behind: a plain model folder that every tool can load, and the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kardiabench.errors import RunError
from kardiabench.models.local.trouble import quiet

FINAL, ADAPTER = "final", "adapter"
#: Files of a checkpoint that are the model and not the state of the training.
_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_UNFINISHED = ".unfinished"


def save_final(
    output: Path,
    checkpoint: Path,
    tokenizer: Any,
    eos_ids: Sequence[int],
    *,
    base: Callable[[], Any] | None = None,
    dtype: str = "float32",
) -> Path:
    """Make the folder `final` of `checkpoint`, and return it; one process does so.

    `base` gives the model below a LoRA adapter, in float32 and with the tokens that were added;
    the two are merged, saved as `dtype`, and `adapter` keeps the adapter by itself. None: the
    checkpoint holds all weights. `eos_ids` become the ends of the generation config. Raises
    `RunError` for a checkpoint without whole weights.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise RunError(
            f"{checkpoint} holds no whole weights, only every process's own part; set "
            "fsdp_state_dict_type: FULL_STATE_DICT (FSDP) or zero3_save_16bit_model: true "
            "(DeepSpeed) in accelerate's configuration, and train again"
        )
    folder = _begin(output, FINAL)
    if base is None:
        generation = _copy_model(checkpoint, folder)
    else:
        _save_adapter(checkpoint, output, tokenizer)
        with quiet():
            generation = _merge(base(), checkpoint, folder, dtype)
    tokenizer.save_pretrained(folder)
    _ending_with(generation, eos_ids, tokenizer).save_pretrained(folder)
    return _rename(folder, output / FINAL)


def _begin(output: Path, name: str) -> Path:
    """An empty folder that is renamed when it is whole."""
    folder = output / (name + _UNFINISHED)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _copy_model(checkpoint: Path, folder: Path) -> Any:
    """Copy the model; returns its generation config."""
    from transformers import GenerationConfig

    _copy(checkpoint, folder, _MODEL_FILES)
    if (checkpoint / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(checkpoint)
    return GenerationConfig()


def _merge(base: Any, checkpoint: Path, folder: Path, dtype: str) -> Any:
    """Save `base` with the adapter of `checkpoint` in it; returns its generation config."""
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig

    adapted = PeftModel.from_pretrained(base, str(checkpoint))
    merged = adapted.merge_and_unload(safe_merge=True).to(getattr(torch, dtype))
    # Its own may be one that transformers refuses to save.
    generation, merged.generation_config = merged.generation_config, GenerationConfig()
    merged.save_pretrained(folder)
    return generation


def _save_adapter(checkpoint: Path, output: Path, tokenizer: Any) -> None:
    folder = _begin(output, ADAPTER)
    _copy(checkpoint, folder, _ADAPTER_FILES)
    tokenizer.save_pretrained(folder)
    _rename(folder, output / ADAPTER)


def _copy(source: Path, folder: Path, patterns: Sequence[str]) -> None:
    for file in source.iterdir():
        if any(fnmatch(file.name, pattern) for pattern in patterns):
            shutil.copyfile(file, folder / file.name)


def _ending_with(generation: Any, eos_ids: Sequence[int], tokenizer: Any) -> Any:
    """`generation` with these ends; only what decides ends and padding where it is not valid."""
    from transformers import GenerationConfig

    ends = {
        "eos_token_id": list(eos_ids) if len(eos_ids) > 1 else eos_ids[0],
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    generation.update(**ends)
    try:
        generation.validate(strict=True)
    except ValueError:  # some published ones are not, and could not be saved
        return GenerationConfig(**ends)
    return generation


def _rename(unfinished: Path, folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    return unfinished.replace(folder)
