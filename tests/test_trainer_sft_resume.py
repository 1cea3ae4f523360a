"""A fine-tuning that is killed and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from sft_runs import KilledError, data_of, killed_after, recipe, same, silent

from kardiabench.errors import KardiaBenchError
from trainer.config import Lora
from trainer.log import read_log
from trainer.sft import run_sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize("lora", [None, Lora(r=4, dropout=0.2)])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, lora: Lora | None) -> None:
    dropout = {"attention_dropout": 0.2, "tie_word_embeddings": True}
    model = tiny_models.build(tmp_path / "base", special_tags=False, scale=0.05, config=dropout)
    data, changes = data_of(), {"tags": "special", "lora": lora, "eval_every": 4}
    unbroken = run_sft(recipe(model, tmp_path / "unbroken", **changes), data, silent)
    stage = recipe(model, tmp_path / "broken", **changes)
    for step in (1, 5, 6, 8):  # before any checkpoint, within epochs, and at the end of one
        with pytest.raises(KilledError):
            run_sft(stage, data, silent, [killed_after(step)])
    assert same(run_sft(stage, data, silent), unbroken)
    first, second = map(losses, (tmp_path / "unbroken", tmp_path / "broken"))
    assert first == second and len(first) == 9 + 3


def losses(folder: Path) -> list[tuple[int, str, float]]:
    """All losses that were logged behind the first step, of training and of evaluation."""
    return [
        (entry["step"], name, entry[name])
        for entry in read_log(folder / "log.jsonl")
        for name in ("loss", "eval_loss")
        if name in entry and entry["step"]
    ]


def test_a_checkpoint_that_was_not_finished_is_not_gone_on_from(
    policy: Path, tmp_path: Path
) -> None:
    data = data_of()
    unbroken = run_sft(recipe(policy, tmp_path / "unbroken"), data, silent)
    stage = recipe(policy, tmp_path / "broken")
    with pytest.raises(KilledError):
        run_sft(stage, data, silent, [killed_after(5)])
    (stage.output / "checkpoint-4" / "complete").unlink()
    (stage.output / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert same(run_sft(stage, data, silent), unbroken)


@pytest.mark.parametrize("max_steps", [None, 5])
def test_a_training_killed_behind_its_last_step_learns_no_further(
    policy: Path, tmp_path: Path, max_steps: int | None
) -> None:
    stage = recipe(policy, tmp_path / "out", max_steps=max_steps)
    final = run_sft(stage, data_of(), silent)
    kept = final.rename(tmp_path / "kept")
    assert same(run_sft(stage, data_of(), silent), kept)


def test_another_recipe_does_not_go_on_with_a_training(policy: Path, tmp_path: Path) -> None:
    run_sft(recipe(policy, tmp_path / "out", max_steps=1), data_of(4), silent)
    with pytest.raises(KardiaBenchError, match=r"recipe\.learning_rate: 0.005 -> 0.1"):
        changed = recipe(policy, tmp_path / "out", max_steps=1, learning_rate=0.1)
        run_sft(changed, data_of(4), silent)
