"""What a training leaves behind: a plain model folder that every tool can load, and the adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kardiabench.errors import RunError
from kardiabench.models.local.trouble import quiet
from trainer.checkpoints import check_whole, reading, step_of, storing

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
    `RunError` for a checkpoint that is damaged, without whole weights, or with weights that are
    not finite, and `StorageError` where the folder cannot be written.
    """
    _check(checkpoint)
    below = None
    if base is not None:
        with quiet():
            below = base()
    with storing(output / FINAL):
        folder = _begin(output, FINAL)
        if below is None:
            generation = _copy_model(checkpoint, folder)
        else:
            _save_adapter(checkpoint, output, tokenizer)
            with quiet():
                generation = _merge(below, checkpoint, folder, dtype)
        tokenizer.save_pretrained(folder)
        _ending_with(generation, eos_ids, tokenizer).save_pretrained(folder)
        return _rename(folder, output / FINAL)


def check_finite(model: Any, step: int) -> None:
    """Raise `RunError`, on all processes, where a weight that trains is no longer finite."""
    from accelerate.utils import gather_object

    trained = (weight for weight in model.parameters() if weight.requires_grad)
    if not all(gather_object([_all_finite(trained)])):
        raise diverged(step)


def _check(checkpoint: Path) -> None:
    """Raise `RunError` where no model can be made of `checkpoint`."""
    if not any(checkpoint.glob("*.safetensors")):
        raise RunError(
            f"{checkpoint} holds no whole weights, only every process's own part; set "
            "fsdp_state_dict_type: FULL_STATE_DICT (FSDP) or zero3_save_16bit_model: true "
            "(DeepSpeed) in accelerate's configuration, and train again"
        )
    check_whole(checkpoint)
    with reading(checkpoint):
        finite = all(_all_finite(_weights_in(file)) for file in checkpoint.glob("*.safetensors"))
    if not finite:
        raise diverged(step_of(checkpoint))


def _weights_in(file: Path) -> Iterable[Any]:
    """The tensors of a file, one at a time."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            yield opened.get_tensor(name)


def _all_finite(weights: Iterable[Any]) -> bool:
    """Whether there is no NaN and no infinity; of a weight in shards, in this process's."""
    return all(map(_finite, weights))


def _finite(weight: Any) -> bool:
    import torch

    part = weight.detach()
    part = part.to_local() if hasattr(part, "to_local") else part
    if part.numel() == 0 or not part.is_floating_point() or part.element_size() < 2:
        return True  # 8 bits: frozen, and torch has no comparison for them
    # A NaN is both the least and the greatest. Unlike `isfinite` this needs no second copy.
    return bool(torch.isfinite(torch.stack(torch.aminmax(part))).all())


def diverged(step: int) -> RunError:
    """The sentence for a training whose weights are infinite or no numbers."""
    return RunError(
        f"the weights are no longer finite after step {step}: lower learning_rate (or "
        "max_grad_norm), and start again from an earlier checkpoint or anew"
    )


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
    merged = adapted.merge_and_unload().to(getattr(torch, dtype))
    if not _all_finite(merged.parameters()):
        raise diverged(step_of(checkpoint))
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
