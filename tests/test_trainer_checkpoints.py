"""Checkpoints that are damaged, have diverged, or do not fit on the disk."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learning
import pytest
import tiny_policy
import torch
from sft_runs import KilledError, callback, data_of, killed_after, recipe, silent

from kardiabench.contracts import LocalOptions
from kardiabench.errors import RunError, StorageError
from kardiabench.models.local.loading import load_trainable
from trainer.checkpoints import (
    MARKER,
    complete,
    discard_broken,
    is_over,
    mark,
    newest,
    reading,
    storing,
)
from trainer.config import Lora
from trainer.exact import load_candidates
from trainer.recipe_files import load_stage
from trainer.saving import check_finite, save_final
from trainer.sft import run_sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def saved(folder: Path, step: int) -> Path:
    """A checkpoint with a file and a sub-folder, marked as whole."""
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "ref").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"w" * 100)
    (checkpoint / "ref" / "adapter.bin").write_bytes(b"r" * 10)
    mark(checkpoint)
    return checkpoint


# --- whole, damaged, unfinished -------------------------------------------------------------


def test_the_marker_lists_what_was_saved(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 4)
    files = {"model.safetensors": 100, "ref/adapter.bin": 10}
    assert json.loads((checkpoint / MARKER).read_text()) == {"step": 4, "files": files}
    assert {path.name for path in checkpoint.iterdir()} == {MARKER, "model.safetensors", "ref"}
    mark(checkpoint)  # a second time: the marker is none of the files
    assert complete(tmp_path) == [checkpoint]


def cut(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"w" * 99)


def lose(checkpoint: Path) -> None:
    (checkpoint / "ref" / "adapter.bin").unlink()


def rewrite(text: str) -> Callable[[Path], None]:
    def write(checkpoint: Path) -> None:
        (checkpoint / MARKER).write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut, "model.safetensors has 99 bytes, and had 100"),
        (lose, "ref/adapter.bin is missing"),
        (rewrite(""), "complete lists no files"),
        (rewrite("[" * 100_000), "complete lists no files"),
        (rewrite("[1]"), "complete lists no files"),
        (rewrite('{"step": 6, "files": 3}'), "complete lists no files"),
        (rewrite('{"step": 4, "files": {}}'), "complete is of step 4"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    before, last = saved(tmp_path, 4), saved(tmp_path, 6)
    damage(last)
    for look in (newest, complete):
        with pytest.raises(RunError, match="checkpoint-6 is damaged") as raised:
            look(tmp_path)
        assert named in str(raised.value)
        assert "restore it, or delete the folder" in str(raised.value)
    assert discard_broken(tmp_path) == 0
    shutil.rmtree(last)
    assert newest(tmp_path) == before


def test_a_renamed_checkpoint_is_of_another_step(tmp_path: Path) -> None:
    saved(tmp_path, 4).rename(tmp_path / "checkpoint-8")
    with pytest.raises(RunError, match="complete is of step 4"):
        newest(tmp_path)


def test_an_unfinished_checkpoint_is_discarded(tmp_path: Path) -> None:
    whole, half = saved(tmp_path, 2), saved(tmp_path, 4)
    (half / MARKER).unlink()
    assert newest(tmp_path) == whole
    assert discard_broken(tmp_path) == 1
    assert not half.exists() and whole.exists()


def test_what_is_no_real_folder_is_no_checkpoint(tmp_path: Path) -> None:
    elsewhere, output = saved(tmp_path / "elsewhere", 6), tmp_path / "output"
    whole = saved(output, 4)
    (output / "checkpoint-5").write_text("a file")
    (output / "checkpoint-6").symlink_to(elsewhere, target_is_directory=True)
    (output / "checkpoint-7").symlink_to(output / "nowhere")
    assert complete(output) == [whole]
    assert discard_broken(output) == 0
    assert elsewhere.exists() and (output / "checkpoint-5").exists()
    for step in (5, 6, 7):
        refused = pytest.raises(RunError, match=f"checkpoint-{step} is no folder; move it away")
        with refused, storing(output / f"checkpoint-{step}"):
            pytest.fail("nothing may be written there")


def test_how_far_a_training_is(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 4)
    state = checkpoint / "trainer_state.json"
    for steps, over in ((4, True), (5, False)):
        state.write_text(json.dumps({"global_step": 4, "max_steps": steps}))
        assert is_over(checkpoint) is over
    for text in ("", "[]", "{}", '{"global_step": null, "max_steps": 4}', "[" * 100_000):
        state.write_text(text)
        with pytest.raises(RunError, match=r"trainer_state\.json does not say how far"):
            is_over(checkpoint)


def test_candidates_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 4)
    torch.save({"step": 1}, checkpoint / "candidates-0.pt")
    (checkpoint / "candidates-1.pt").write_bytes(b"nonsense")
    for rank in (0, 1, 2):  # a key missing, no archive, no file
        refused = pytest.raises(RunError, match=r"checkpoint-4 is damaged.*it cannot be read")
        with refused as raised, reading(checkpoint):
            load_candidates(checkpoint, rank, "cpu")
        assert "\n" not in str(raised.value)
    with pytest.raises(torch.OutOfMemoryError), reading(checkpoint):  # not the checkpoint's fault
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_damaged_fine_tuning_is_not_gone_on_with(policy: Path, tmp_path: Path) -> None:
    stage = recipe(policy, tmp_path / "out")
    with pytest.raises(KilledError):
        run_sft(stage, data_of(), silent, [killed_after(5)])
    weights = stage.output / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"checkpoint-4 is damaged.*model\.safetensors has"):
        run_sft(stage, data_of(), silent)
    shutil.rmtree(weights.parent)
    assert run_sft(stage, data_of(), silent).is_dir()


# --- weights that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_single_weight_is_enough(value: float, dtype: str) -> None:
    model = torch.nn.Linear(3, 3).to(getattr(torch, dtype))
    check_finite(model, 7)
    model.weight.data[1, 2] = value
    with pytest.raises(RunError, match=r"no longer finite after step 7: lower learning_rate"):
        check_finite(model, 7)
    model.weight.requires_grad_(False)  # what does not train is the base's own
    check_finite(model, 7)


@pytest.mark.parametrize("lora", [None, Lora(r=4)])
def test_a_training_that_diverges_saves_nothing(
    policy: Path, tmp_path: Path, lora: Lora | None
) -> None:
    def spoil(state: Any, model: Any) -> None:
        if state.global_step == 3:
            next(one for one in model.parameters() if one.requires_grad).data.view(-1)[0] = (
                torch.inf
            )

    stage = recipe(policy, tmp_path / "out", lora=lora, max_grad_norm=1e9)
    with pytest.raises(RunError, match="no longer finite after step 4"):
        run_sft(stage, data_of(), silent, [callback("on_step_end", spoil)])
    assert [path.name for path in stage.output.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (stage.output / "final").exists()


def test_grpo_saves_no_weights_that_are_not_finite(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.policy import PolicyTrainer

    step = PolicyTrainer.training_step

    def spoiled(self: Any, *arguments: Any) -> Any:
        if self.state.global_step == 1:  # the update of the second step is too large
            self.optimizer.param_groups[0]["lr"] = float("inf")
        return step(self, *arguments)

    monkeypatch.setattr(PolicyTrainer, "training_step", spoiled)
    rows, output = tiny_policy.write_rows(tmp_path / "rows", dialogues=16), tmp_path / "out"
    given = [f"model={policy}", f"data.dataset={rows}", f"output={output}", "learning_rate=1e-2"]
    given += ["max_steps=3", "save_every=1", "eval_every=null", "batch_size=32"]
    given += ["judging.judges=[letters]", "judging.weights={letters: 1}"]
    given += [f"plugins=[{learning.PLUGIN}]"]
    with pytest.raises(RunError, match="no longer finite after step 2"):
        learning.run(load_stage("grpo", "grpo-tiny", given))
    assert [path.name for path in complete(output)] == ["checkpoint-1"]


def test_no_model_is_made_of_weights_that_are_not_finite(policy: Path, tmp_path: Path) -> None:
    model, tokens = load_trainable(str(policy), LocalOptions())
    next(model.parameters()).data.view(-1)[5] = torch.nan
    checkpoint = tmp_path / "checkpoint-3"
    model.save_pretrained(checkpoint)
    mark(checkpoint)
    with pytest.raises(RunError, match="no longer finite after step 3"):
        save_final(tmp_path, checkpoint, tokens, [tokens.eos_token_id])
    assert not list(tmp_path.glob("final*"))


def test_a_merge_that_overflows_is_no_model(policy: Path, tmp_path: Path) -> None:
    stage = recipe(policy, tmp_path / "out", lora=Lora(r=4), max_steps=1, save_every=1)
    run_sft(stage, data_of(4), silent)
    shutil.rmtree(stage.output / "final")
    model, tokens = load_trainable(str(policy), LocalOptions(dtype="float32"))
    weight = model.get_output_embeddings().weight
    weight.data[0, 0] = 1e6  # finite, but not as float16
    checkpoint, ends = stage.output / "checkpoint-1", [tokens.eos_token_id]
    with pytest.raises(RunError, match="no longer finite after step 1"):
        save_final(stage.output, checkpoint, tokens, ends, base=lambda: model, dtype="float16")
    assert not (stage.output / "final").exists()


def test_only_a_whole_checkpoint_becomes_a_model(policy: Path, tmp_path: Path) -> None:
    model, tokens = load_trainable(str(policy), LocalOptions())
    checkpoint, ends = tmp_path / "checkpoint-3", [tokens.eos_token_id]
    model.save_pretrained(checkpoint)
    mark(checkpoint)
    weights = checkpoint / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(b"\xff" * size)
    with pytest.raises(RunError, match=r"checkpoint-3 is damaged.*SafetensorError"):
        save_final(tmp_path, checkpoint, tokens, ends)
    weights.write_bytes(b"\xff" * (size - 1))
    with pytest.raises(RunError, match=r"model\.safetensors has"):
        save_final(tmp_path, checkpoint, tokens, ends)


# --- a full disk ----------------------------------------------------------------------------


def full_disks() -> list[tuple[Exception, str]]:
    """As each library says it; taken from writing to a file system that was full."""
    from safetensors import SafetensorError

    rust = "No space left on device (os error 28)"
    return [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError(f"Error while serializing: I/O error: {rust}"), rust),
        (Exception(rust), rust),  # tokenizers
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "torch could not write a whole file: .*unexpected pos",
        ),
    ]


@pytest.mark.parametrize(("error", "reason"), full_disks())
def test_a_full_disk_is_one_sentence(tmp_path: Path, error: Exception, reason: str) -> None:
    sentence = rf"checkpoint-2 cannot be written \({reason}.*make room.*give the same command again"
    sentence = sentence.replace("(os error 28)", r"\(os error 28\)")
    with pytest.raises(StorageError, match=sentence), storing(tmp_path / "checkpoint-2"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("some library's word"),
        RunError("a sentence of our own"),
        KilledError(),
    ],
)
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, storing(tmp_path / "checkpoint-2"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("library", ["safetensors", "torch"])
def test_a_training_whose_disk_is_full_goes_on_when_there_is_room(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    from transformers import modeling_utils

    errors = {type(error).__name__: error for error, _ in full_disks()}

    def full(*_: Any, **__: Any) -> None:
        raise errors["SafetensorError" if library == "safetensors" else "RuntimeError"]

    stage = recipe(policy, tmp_path / "out", max_steps=4)
    with monkeypatch.context() as patch:
        if library == "safetensors":
            patch.setattr(modeling_utils, "safe_save_file", full)
        else:
            patch.setattr(torch, "save", full)
        with pytest.raises(StorageError, match=r"checkpoint-2 cannot be written"):
            run_sft(stage, data_of(), silent)
    assert newest(stage.output) is None
    assert run_sft(stage, data_of(), silent).is_dir()
