"""Small trainings on gold replies, for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny_models
import tiny_policy
from rowdata import in_memory

from kardiabench.contracts import LocalOptions
from kardiabench.models.local.loading import load_trainable
from kardiabench.prompts import PromptPlan
from kardiabench.rows import read_row, turns_of
from trainer.config import HeldOut, Sft
from trainer.data import TrainingData
from trainer.texts import Texts


def texts(tokenizer: Any, thinking: bool | None = None) -> Texts:
    return Texts(tokenizer, PromptPlan(), [tokenizer.eos_token_id], thinking=thinking)


def spelt_model(folder: Path, *, tied: bool, padded: int = 0, family: str = "qwen2") -> Path:
    """A model whose tokenizer spells the tags in pieces; `padded` rows are nobody's."""
    size = len(tiny_models.build_tokenizer(family, special_tags=False))
    config = {"tie_word_embeddings": tied, "vocab_size": size + padded}
    return tiny_models.build(folder, family, special_tags=False, scale=0.05, config=config)


def data_of(n_rows: int = 10, n_held_out: int = 2) -> TrainingData:
    """Short dialogues of one turn each."""
    draw = random.Random(0)
    rows = [tiny_policy.make_row(n, f"p{n}", 1, draw) for n in range(n_rows + n_held_out)]
    every = [turn for raw in in_memory(list(rows)).rows() for turn in turns_of(read_row(raw))]
    return TrainingData(
        train=tuple(every[:n_rows]),
        held_out=tuple(every[n_rows:]),
        identity={"name": "tiny"},
        notes=(),
        source={},
        test=None,
    )


def recipe(model: Path, output: Path, **changes: Any) -> Sft:
    """Three steps an epoch of ten rows."""
    fields: dict[str, Any] = {
        "model": str(model),
        "output": output,
        "learning_rate": 5e-3,
        "epochs": 3,
        "batch_size": 4,
        "per_device_batch_size": 2,
        "save_every": 2,
        "held_out": HeldOut(personas=1),
    }
    return Sft(**fields | changes)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights to the last bit."""
    import torch

    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def logits(folder: Path, ids: Sequence[int]) -> Any:
    """What the model in `folder` makes of `ids`."""
    import torch

    model, _ = load_trainable(str(folder), LocalOptions(dtype="float32"))
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([list(ids)])).logits


def silent(_: str) -> None:
    """Nobody listens."""


def callback(name: str, function: Callable[[Any, Any], None]) -> Any:
    """A callback that calls `function(state, model)` at the event `name`."""
    from transformers import TrainerCallback

    def method(_self: Any, _args: Any, state: Any, _control: Any, **more: Any) -> None:
        function(state, more.get("model"))

    return type("Callback", (TrainerCallback,), {name: method})()


class KilledError(Exception):
    """Ends a training in the middle."""


def killed_after(step: int) -> Any:
    def end(state: Any, _: Any) -> None:
        if state.global_step == step:
            raise KilledError

    return callback("on_step_end", end)
