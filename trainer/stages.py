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
from kardiabench.errors import ConfigError, KardiaBenchError, RunError, StorageError
from kardiabench.files import write_json
from kardiabench.models.local.loading import load_trainable
from kardiabench.plugins import load_registry
from kardiabench.registry import Registry
from trainer.arguments import processes, state, weights_type
from trainer.beginning import alone_in
from trainer.checkpoints import newest, step_of
from trainer.config import Grpo, Sft, Split, Training
from trainer.data import TrainingData, open_data
from trainer.extras import check_bf16, check_reports, check_vllm_range, require
from trainer.live import LiveTable
from trainer.memory import available_memory, check_memory, estimate_of
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
_CHECKED = "checked; nothing was trained, and no candidates were drawn"

#: The harness's words for what a recipe calls by another name.
_WORDS = {
    "and --on-missing is fail-fast; resume the run, or use --on-missing mask": (
        "and judging.on_missing is fail_fast; give the same command again, or use mask"
    ),
    "--weight ": "judging.weights: ",
    "--plugin ": "plugins: ",
}


def run_stage(stage: Sft | Split | Grpo, *, quiet: bool = False, only_check: bool = False) -> Path:
    """Do all that `stage` says, and return what it made: a model's folder, or `split.json`.

    With `only_check` it stops before any weight moves. Raises a `KardiaBenchError`, one sentence.
    """
    try:
        return _run(stage, quiet=quiet, only_check=only_check)
    except KardiaBenchError as error:
        said = str(error)
        for harness, recipe in _WORDS.items():
            said = said.replace(harness, recipe)
        if said != str(error):
            error.args = (said,)
        raise


def _run(stage: Sft | Split | Grpo, *, quiet: bool, only_check: bool) -> Path:
    if isinstance(stage, Split):
        from trainer.split import run_split

        with LiveTable("split", quiet=quiet) as live:
            return run_split(stage, live.note)
    _settle_libraries()
    _check_machine(stage)
    with LiveTable(f"{stage.stage}: {stage.model}", quiet=quiet) as live, _quiet_libraries():
        say = live.note if _is_first() else _nothing
        memory = estimate_of(stage)
        say(check_memory(memory, available_memory(), lora=stage.lora is not None))
        if isinstance(stage, Sft):
            return _sft(stage, live, say, only_check=only_check)
        return _grpo(stage, live, say, quiet=quiet, only_check=only_check)


def _sft(stage: Sft, live: LiveTable, say: Say, *, only_check: bool) -> Path:
    from trainer.sft import check, check_begin, prepare, run_sft

    data = _open(stage, load_registry([str(path) for path in stage.plugins]), say)
    if only_check:
        check(stage, data)
        prepared = prepare(stage, data, say)
        for line in _checked(prepared.texts, data):
            say(line)
        check_begin(prepared)
        say(_CHECKED)
        return stage.output
    with alone_in(stage.output):
        folder = run_sft(stage, data, say, [live.callback()])
        if _is_first():
            _write_curves(stage.output)
            _write_cards(stage.output)
            say(f"the trained model: {folder}")
    return folder


def _grpo(stage: Grpo, live: LiveTable, say: Say, *, quiet: bool, only_check: bool) -> Path:
    from trainer.grpo import check, prepare

    registry = load_registry([str(path) for path in stage.plugins])
    data = _open(stage, registry, say)
    needed = stage.batch_size // stage.candidates
    if len(data.train) < needed:
        raise ConfigError(
            f"a step takes {needed} prompts (batch_size {stage.batch_size} / candidates "
            f"{stage.candidates}), and there are {len(data.train)} turns to train on; lower "
            "batch_size, or train on more"
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
            check(prepared)
            say(_CHECKED)
            return stage.output
        with alone_in(stage.output):
            return _trained(prepared, live, say, quiet=quiet)
    finally:
        asyncio.run(scorers.aclose())
        scorers.close()


def _trained(prepared: Prepared, live: LiveTable, say: Say, *, quiet: bool) -> Path:
    """Train, and save what came of it."""
    from trainer.grpo import begun, train
    from trainer.saving import FINAL
    from trainer.watching import Watching

    stage, prepared = prepared.stage, begun(prepared)
    at = None if prepared.checkpoint is None else step_of(prepared.checkpoint)
    if at is not None:
        say(f"going on from the checkpoint of step {at}")
    watching = Watching(
        stage,
        prepared.scorers,
        say,
        writes=_is_first(),
        resume_at=at,
        after=partial(_told, stage.output, say) if _is_first() else None,
    )
    train(prepared, watching, say, [live.callback()])
    if _is_first():
        return _finish(prepared, watching, say, quiet=quiet)
    return stage.output / FINAL


def _finish(prepared: Prepared, watching: Watching, say: Say, *, quiet: bool) -> Path:
    """Save the chosen weights, and say what is known of them."""
    stage = prepared.stage
    choice, last = watching.choice() if watching.evaluations else None, newest(stage.output)
    if last is None:
        raise RunError(f"{stage.output} has no whole checkpoint; give the same command again")
    step = step_of(last) if choice is None or choice.step is None else choice.step
    if choice is not None:
        say(choice.why)
        write_json(stage.output / BEST, choice.to_json())
    final = save_final(
        stage.output,
        stage.output / f"checkpoint-{step}",
        prepared.texts.format.tokenizer,
        prepared.texts.eos_ids,
        base=None if stage.lora is None else partial(_base, stage),
        dtype=weights_type(stage),
    )
    _write_curves(stage.output, "ledger")
    _write_cards(stage.output, step, "ledger")
    say(f"the trained model, of step {step}: {final}")
    if stage.final is not None:
        from trainer.final_run import evaluate_final

        trained = prepared.scorers.all_settings
        run = evaluate_final(stage, stage.final, trained, final, quiet=quiet)
        say(f"its run, for a leaderboard: {run}")
    return final


def _told(folder: Path, say: Say) -> None:
    """Draw the curves after an evaluation; a page that cannot be written ends no training."""
    try:
        _write_curves(folder)
    except StorageError as error:
        say(str(error))


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
    if stage.eval_every and not stage.held_out.personas:
        raise ConfigError(
            "eval_every needs dialogues to measure on: set held_out.personas above 0, or leave "
            "eval_every out"
        )
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


def _write_curves(folder: Path, source: Literal["log", "ledger"] = "log") -> None:
    from trainer.curves import write_page

    write_page(folder, source)


def _write_cards(
    output: Path, step: int | None = None, source: Literal["log", "ledger"] = "log"
) -> None:
    """The cards of the model and, where there is one, of its adapter."""
    from trainer.card import write_card
    from trainer.saving import ADAPTER, FINAL

    for folder in (output / FINAL, output / ADAPTER):
        if folder.is_dir():
            write_card(output, folder, step=step, source=source)


def _is_first() -> bool:
    return bool(state().is_main_process)


def _nothing(_: str) -> None:
    """Every process but the first is silent."""


def _settle_libraries() -> None:
    """TRL tells its makers that it is used, unless it is told not to."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what transformers and TRL tell their own developers off the screen."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # It prints candidates whose reward is missing: the ledger has them, the screen need not.
    logging.getLogger("trl").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
