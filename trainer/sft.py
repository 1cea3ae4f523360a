"""The `sft` stage: a model learns the gold replies, from the prompts it will be evaluated with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kardiabench.errors import ConfigError, PreflightError
from kardiabench.records import Turn
from trainer.arguments import (
    common_arguments,
    load_policy,
    lora_config,
    make_texts,
    policy_identity,
    processes,
    state,
    trl_config,
    weights_type,
    without_bars,
)
from trainer.beginning import begin
from trainer.checkpoints import Complete, newest, step_of
from trainer.config import Sft
from trainer.data import TrainingData
from trainer.log import LOG, LogFile
from trainer.manifest import check as check_manifest
from trainer.manifest import make_manifest
from trainer.preflight import check_batches
from trainer.saving import FINAL, save_final
from trainer.sft_rows import GoldReplies, write_rows
from trainer.special_tags import add_span_tags, trainable_rows
from trainer.texts import Texts

Say = Callable[[str], None]
ROWS = "rows"
_LOOKED_AT = 200


@dataclass(frozen=True)
class Prepared:
    """A training that can begin: the model, its texts, and where it goes on from."""

    stage: Sft
    data: TrainingData
    say: Say
    model: Any
    texts: Texts
    #: The newest whole checkpoint; None: from the beginning.
    checkpoint: Path | None


def run_sft(stage: Sft, data: TrainingData, say: Say, callbacks: Sequence[Any] = ()) -> Path:
    """Train on the gold replies of `data`, and return the folder of the trained model.

    The same call goes on from the newest whole checkpoint in `stage.output`, and comes to the same
    weights as an unbroken training; of a finished one it only returns the folder. `say` is given
    sentences for the user, `callbacks` are transformers'. Raises a `KardiaBenchError` for what
    cannot be trained.
    """
    check(stage, data)
    here = state()
    prepared = begun(prepare(stage, data, say if here.is_main_process else _nothing))
    final = stage.output / FINAL
    if final.is_dir():
        prepared.say(f"{final} has the trained model already")
        return final
    trainer = make_trainer(prepared, callbacks)
    trainer.train(
        resume_from_checkpoint=None if prepared.checkpoint is None else str(prepared.checkpoint)
    )
    if here.is_main_process:
        _save(stage, prepared.texts)
    here.wait_for_everyone()
    return final


def check(stage: Sft, data: TrainingData) -> None:
    """Raise `ConfigError` for what can be seen to be wrong before the model is loaded."""
    check_batches(stage.batch_size, stage.per_device_batch_size, processes())
    if stage.eval_every and not data.held_out:
        raise ConfigError(
            "eval_every needs dialogues to measure the loss on: set held_out.personas above 0, or "
            "leave eval_every out"
        )
    targets = stage.lora.target_modules if stage.lora else []
    if "lm_head" in ([targets] if isinstance(targets, str) else targets):
        raise ConfigError(
            "lora.target_modules has lm_head, which TRL's loss would pass by; leave it out "
            "(all-linear leaves it out by itself)"
        )


def prepare(stage: Sft, data: TrainingData, say: Say) -> Prepared:
    """Load the model; nothing is written yet."""
    model, tokenizer = _load(stage)
    texts = make_texts(stage, model, tokenizer)
    return Prepared(stage, data, say, model, texts, None)


def begun(prepared: Prepared) -> Prepared:
    """The same with its output folder settled; `RunError` where that has another training."""
    checkpoint = begin(prepared.stage.output, manifest_of(prepared))
    if checkpoint is not None:
        prepared.say(f"going on from the checkpoint of step {step_of(checkpoint)}")
    return replace(prepared, checkpoint=checkpoint)


def manifest_of(prepared: Prepared) -> dict[str, Any]:
    """What decides this training."""
    stage = prepared.stage
    recipe, identity = stage.model_dump(mode="json"), policy_identity(stage, prepared.texts)
    return make_manifest(recipe, prepared.data.identity, identity, {}, processes())


def check_begin(prepared: Prepared) -> None:
    """Raise what beginning would: TRL refuses the recipe, rows are too long, another training.

    The first rows are looked at, which takes milliseconds each.
    """
    stage = prepared.stage
    sft_config(stage, processes(), resumed=False)
    check_manifest(stage.output, manifest_of(prepared))
    gold = GoldReplies(prepared.texts, stage.max_length)
    for _ in gold.examples(prepared.data.train[:_LOOKED_AT]):
        pass


def _load(stage: Sft) -> tuple[Any, Any]:
    """The model with the tokens that it is trained with, and its tokenizer."""
    model, tokenizer = load_policy(stage)
    if tokenizer.eos_token_id is None:
        raise PreflightError(
            f"the tokenizer of {stage.model} has no EOS token, so that a reply could not end; set "
            "eos_token in its tokenizer_config.json"
        )
    if stage.tags == "special":
        add_span_tags(model, tokenizer)
    return model, tokenizer


def make_trainer(prepared: Prepared, callbacks: Sequence[Any]) -> Any:
    """TRL's trainer with its rows; raises `ConfigError` for a recipe that it refuses."""
    from trainer.gold_trainer import GoldTrainer

    stage, data = prepared.stage, prepared.data
    arguments = sft_config(stage, processes(), resumed=prepared.checkpoint is not None)
    learnt = _rows(prepared, "train", data.train)
    measured = _rows(prepared, "held_out", data.held_out) if stage.eval_every else None
    try:
        trainer = GoldTrainer(
            model=prepared.model,
            args=arguments,
            train_dataset=learnt,
            eval_dataset=measured,
            processing_class=prepared.texts.format.tokenizer,
            peft_config=_lora(prepared),
            callbacks=[LogFile(stage.output / LOG), Complete(stage.keep_checkpoints), *callbacks],
        )
    except ValueError as error:  # peft's and TRL's word for what does not go together
        raise ConfigError(f"{stage.model} cannot be trained so: {_brief(error)}") from error
    without_bars(trainer)
    return trainer


def _rows(prepared: Prepared, part: str, turns: Sequence[Turn]) -> Any:
    """The rows of `turns`, in a file of this process."""
    gold = GoldReplies(prepared.texts, prepared.stage.max_length)
    name = f"{part}-{state().process_index}.arrow"
    rows = write_rows(prepared.stage.output / ROWS / name, gold.examples(turns))
    if gold.left_out:
        prepared.say(
            f"{gold.left_out} of {len(turns)} {part.replace('_', '-')} turns are left out: their "
            "gold replies have not all four spans"
        )
    return rows


def sft_config(stage: Sft, world: int, *, resumed: bool) -> Any:
    """TRL's configuration; raises `ConfigError` for a recipe that it cannot be made of.

    Rows fit into `max_length` as they are: TRL is told to cut none, unless it packs them.
    """
    from trl import SFTConfig

    arguments = common_arguments(stage, world) | {
        "max_length": stage.max_length if stage.trl.get("packing") else None,
        "data_seed": stage.seed,
        "prediction_loss_only": True,
    }
    if resumed:
        arguments["eval_on_start"] = False  # that evaluation is in the books
    return trl_config(SFTConfig, stage, arguments)


def _lora(prepared: Prepared) -> Any:
    stage = prepared.stage
    if stage.lora is None or stage.tags != "special":
        return lora_config(stage.lora)
    rows = trainable_rows(prepared.model, prepared.texts.format.tokenizer)
    return lora_config(stage.lora, trainable_token_indices=rows)


def _save(stage: Sft, texts: Texts) -> None:
    checkpoint = newest(stage.output)
    if checkpoint is None:
        raise RuntimeError("the training has ended without a checkpoint")
    save_final(
        stage.output,
        checkpoint,
        texts.format.tokenizer,
        texts.eos_ids,
        base=None if stage.lora is None else lambda: _load(_exact(stage))[0],
        dtype=weights_type(stage),
    )


def _exact(stage: Sft) -> Sft:
    """The stage with its base in float32, where merging an adapter rounds least."""
    return stage.model_copy(update={"dtype": "float32"})


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _nothing(_: str) -> None:
    """Say nothing: another process has said it."""
