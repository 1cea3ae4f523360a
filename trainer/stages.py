"""From a recipe to a trained model: every step of the three stages, in order."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, RunError
from kardiabench.models.local.loading import load_trainable
from kardiabench.plugins import load_registry
from kardiabench.registry import Registry
from kardiabench.store import write_json
from trainer.arguments import processes, weights_type
from trainer.checkpoints import newest, step_of
from trainer.config import Grpo, Sft, Split, Training
from trainer.data import TrainingData, open_data
from trainer.extras import check_bf16, check_reports, check_vllm_range, require
from trainer.live import LiveTable
from trainer.preflight import (
    check_batches,
    check_judges,
    check_output,
    check_round_trip,
    describe_prompt,
    describe_tags,
)
from trainer.saving import save_final
from trainer.scorers import open_scorers

if TYPE_CHECKING:
    from trainer.grpo import Prepared
    from trainer.texts import Texts
    from trainer.watching import Watching

Say = Callable[[str], None]
#: The chosen checkpoint, and why.
BEST = "best.json"


def run_stage(stage: Sft | Split | Grpo, *, quiet: bool = False, only_check: bool = False) -> Path:
    """Do all that `stage` says, and return what it made: a model's folder, or `split.json`.

    With `only_check` it stops before any weight moves. Raises a `KardiaBenchError`, one sentence.
    """
    if isinstance(stage, Split):
        from trainer.split import run_split

        with LiveTable("split", quiet=quiet) as live:
            return run_split(stage, live.note)
    _settle_libraries()
    _check_machine(stage)
    with LiveTable(f"{stage.stage}: {stage.model}", quiet=quiet) as live, _quiet_libraries():
        say = live.note if _is_first() else _nothing
        if isinstance(stage, Sft):
            return _sft(stage, live, say, only_check=only_check)
        return _grpo(stage, live, say, quiet=quiet, only_check=only_check)


def _sft(stage: Sft, live: LiveTable, say: Say, *, only_check: bool) -> Path:
    from trainer.card import write_card
    from trainer.sft import prepare, run_sft

    data = _open(stage, load_registry([str(path) for path in stage.plugins]), say)
    if only_check:
        texts = prepare(stage, data, say).texts
        say(describe_tags(texts.format.tokenizer))
        say(check_round_trip(texts, texts.format.tokenizer))
        return stage.output
    folder = run_sft(stage, data, say, [live.callback()])
    if _is_first():
        _write_curves(stage.output)
        write_card(stage.output, folder)
        say(f"the trained model: {folder}")
    return folder


def _grpo(stage: Grpo, live: LiveTable, say: Say, *, quiet: bool, only_check: bool) -> Path:
    from trainer.grpo import prepare, train
    from trainer.saving import FINAL
    from trainer.watching import Watching

    registry = load_registry([str(path) for path in stage.plugins])
    data = _open(stage, registry, say)
    if stage.eval_every and not data.held_out:
        raise ConfigError(
            "eval_every needs dialogues to measure on: set held_out.personas above 0, or leave "
            "eval_every out"
        )
    scorers = open_scorers(
        stage,
        stage.judging,
        tuple(stage.held_out.judges),
        warn=say,
        processes=processes(),
        registry=registry,
    )
    try:
        if _is_first():
            say(check_judges(scorers))
        prepared = prepare(stage, data, scorers)
        for line in _checked(prepared.texts, data):
            say(line)
        if only_check:
            return stage.output
        at = None if prepared.checkpoint is None else step_of(prepared.checkpoint)
        if at is not None:
            say(f"going on from the checkpoint of step {at}")
        watching = Watching(
            stage.output,
            scorers,
            stage.alarm,
            stage.best,
            say,
            writes=_is_first(),
            resume_at=at,
        )
        callbacks = [live.callback(), _curves_page(stage.output)]
        train(prepared, watching, say, callbacks)
        final = stage.output / FINAL
        if _is_first():
            final = _finish(stage, prepared, watching, say, quiet=quiet)
    finally:
        asyncio.run(scorers.aclose())
        scorers.close()
    return final


def _finish(stage: Grpo, prepared: Prepared, watching: Watching, say: Say, *, quiet: bool) -> Path:
    """Save the chosen weights, and say what is known of them."""
    from trainer.card import write_card

    choice, last = watching.choice() if watching.evaluations else None, newest(stage.output)
    if last is None:
        raise RunError(f"{stage.output} has no whole checkpoint; give the same command again")
    step = step_of(last) if choice is None or choice.step is None else choice.step
    checkpoint = stage.output / f"checkpoint-{step}"
    if choice is not None:
        say(choice.why)
        write_json(stage.output / BEST, choice.to_json())
    final = save_final(
        stage.output,
        checkpoint,
        prepared.texts.format.tokenizer,
        prepared.texts.eos_ids,
        base=None if stage.lora is None else partial(_base, stage),
        dtype=weights_type(stage),
    )
    _write_curves(stage.output, "ledger")
    write_card(stage.output, final, step=step, source="ledger")
    say(f"the trained model, of step {step}: {final}")
    if stage.final is not None:
        from trainer.final_run import evaluate_final

        say(f"its run: {evaluate_final(stage, stage.final, final, quiet=quiet)}")
    return final


def _base(stage: Training) -> Any:
    """The model below an adapter, in float32."""
    local = LocalOptions(
        dtype="float32",
        revision=stage.model_revision,
        trust_remote_code=stage.trust_remote_code,
    )
    return load_trainable(stage.model, local)[0]


def _open(stage: Sft | Grpo, registry: Registry, say: Say) -> TrainingData:
    data = open_data(stage.data, stage.held_out, registry, compare_texts=_is_first())
    for note in data.notes:
        say(note)
    amount, personas = data.dialogues, data.personas
    say(
        f"training on {len(data.train)} turns of {amount.train} dialogues and {personas.train} "
        f"personas; held out are {len(data.held_out)} turns of {personas.held_out} personas"
    )
    return data


def _check_machine(stage: Sft | Grpo) -> None:
    """What can be told before anything is loaded."""
    require("torch", "transformers", "trl", "accelerate", *(["peft"] if stage.lora else []))
    check_reports(stage.report_to)
    check_bf16(stage.dtype)
    check_output(stage.output)
    candidates = stage.candidates if isinstance(stage, Grpo) else None
    check_batches(stage.batch_size, stage.per_device_batch_size, processes(), candidates)
    if isinstance(stage, Grpo) and stage.vllm.mode != "off":
        check_vllm_range()


def _checked(texts: Texts, data: TrainingData) -> Iterator[str]:
    """What was found of the model, a line each; raises for what would ruin the training."""
    turn = data.train[0]
    yield describe_tags(texts.format.tokenizer)
    yield check_round_trip(texts, texts.format.tokenizer, turn)
    yield describe_prompt(texts, turn)


def _curves_page(folder: Path) -> Any:
    """A callback that writes the page of curves anew after every evaluation."""
    from transformers import TrainerCallback

    class CurvesPage(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.is_world_process_zero:
                _write_curves(folder)

    return CurvesPage()


def _write_curves(folder: Path, source: Literal["log", "ledger"] = "log") -> None:
    from trainer.curves import write_page

    write_page(folder, source)


def _is_first() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _nothing(_: str) -> None:
    """Every process but the first is silent."""


def _settle_libraries() -> None:
    """TRL tells its makers that it is used, unless it is told not to."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what transformers and TRL tell their own developers off the screen."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
