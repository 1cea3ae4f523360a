"""The `grpo` stage: candidates of a policy, the Scorer's composites as rewards, honest watching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError
from kardiabench.models.local.weights import locate, shown_name
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
    without_bars,
)
from trainer.beginning import begin
from trainer.checkpoints import Complete, is_over, step_of
from trainer.config import Grpo, Vllm
from trainer.data import TrainingData
from trainer.ledger import Header, Ledger, ledger_name
from trainer.log import LOG, LogFile
from trainer.manifest import check as check_manifest
from trainer.manifest import make_manifest
from trainer.rewards import Component, MaskedBudget, Reward
from trainer.scorers import Scorers
from trainer.scoring_thread import GRACE, ScoringThread
from trainer.texts import Texts
from trainer.watching import Watching

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A training that can begin: everything made, nothing moved."""

    stage: Grpo
    data: TrainingData
    scorers: Scorers
    model: Any
    texts: Texts
    rank: int
    world: int
    #: The whole checkpoint that it goes on from; None: from the beginning.
    checkpoint: Path | None


def prepare(stage: Grpo, data: TrainingData, scorers: Scorers) -> Prepared:
    """Load the model; nothing is written yet. Raises a `KardiaBenchError`, one sentence."""
    model, tokenizer = load_policy(stage)
    texts = make_texts(stage, model, tokenizer, stage.max_prompt_tokens)
    model.generation_config.eos_token_id = list(texts.eos_ids)
    rank = int(state().process_index)
    return Prepared(stage, data, scorers, model, texts, rank, processes(), None)


def begun(prepared: Prepared) -> Prepared:
    """The same with its output folder settled; `RunError` where that has another training."""
    return replace(prepared, checkpoint=begin(prepared.stage.output, manifest_of(prepared)))


def manifest_of(prepared: Prepared) -> dict[str, Any]:
    """What decides this training."""
    stage, scorers = prepared.stage, prepared.scorers
    return make_manifest(
        stage.model_dump(mode="json"),
        prepared.data.identity,
        policy_identity(stage, prepared.texts),
        {"rewarded": scorers.rewarded.identity, "watched": scorers.watched.identity},
        prepared.world,
    )


def check(prepared: Prepared) -> None:
    """Raise what beginning would: TRL refuses the recipe, the output has another training."""
    grpo_config(prepared)
    check_manifest(prepared.stage.output, manifest_of(prepared))


def train(prepared: Prepared, watching: Watching, say: Say, callbacks: Sequence[Any] = ()) -> None:
    """Train to the end; nothing where that was reached, or where the alarm had ended it.

    Raises `ScoringError` past the masked budget.
    """
    checkpoint = prepared.checkpoint
    if checkpoint is not None and (is_over(checkpoint) or watching.stop()):
        return
    scorers, path = prepared.scorers, prepared.stage.output / ledger_name(prepared.rank)
    scoring = ScoringThread(scorers.fresh, scorers.limit + GRACE, say)
    at = None if checkpoint is None else step_of(checkpoint)
    with Ledger(path, make_header(prepared), resume_at=at) as ledger:
        trainer = make_trainer(prepared, watching, scoring, ledger, callbacks)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            scoring.close()


def make_trainer(
    prepared: Prepared,
    watching: Watching,
    scoring: ScoringThread,
    ledger: Ledger,
    callbacks: Sequence[Any],
) -> Any:
    """TRL's trainer with our prompts, rewards and checkpoints."""
    from trainer.policy import PolicyTrainer, Ways

    stage, data, texts = prepared.stage, prepared.data, prepared.texts
    reward = Reward(data.turns, texts.reply, scoring, ledger.append, rank=prepared.rank)
    budget = MaskedBudget(stage.judging.masked_budget, stage.judging.masked_window)
    try:
        trainer = PolicyTrainer(
            Ways(data.turns, texts, reward, budget, watching),
            model=prepared.model,
            reward_funcs=reward_functions(stage, reward, prepared.scorers),
            args=grpo_config(prepared),
            train_dataset=rows_of(data.train),
            eval_dataset=rows_of(data.held_out) if stage.eval_every else None,
            processing_class=texts.format.tokenizer,
            peft_config=lora_config(stage.lora),
            callbacks=[
                LogFile(stage.output / LOG),
                Complete(stage.keep_checkpoints, watching.best_step),
                *callbacks,
            ],
        )
    except ValueError as error:  # peft's and TRL's word for what does not go together
        why = " ".join(str(error).split())
        raise ConfigError(f"{stage.model} cannot be trained so: {why}") from error
    without_bars(trainer)
    return trainer


def make_header(prepared: Prepared) -> Header:
    """What makes the ledger readable by itself."""
    scorers = prepared.scorers
    return Header(
        scorer=scorers.rewarded.identity,
        settings=scorers.all_settings.to_json(),
        data=prepared.data.identity,
        held_out=scorers.watched.identity if scorers.held_out else None,
        model=shown_name(prepared.stage.model),
    )


def reward_functions(stage: Grpo, reward: Reward, scorers: Scorers) -> list[Any]:
    """The composite; under `gdpo` every weighted judge's part, each None where that one is."""
    if stage.normalize == "composite":
        return [reward]
    names = sorted(scorers.rewarded.weights)
    return [
        Component(reward, scorers.rewarded, name, logs=place == 0)
        for place, name in enumerate(names)
    ]


def grpo_config(prepared: Prepared) -> Any:
    """TRL's configuration."""
    from trl import GRPOConfig

    stage = prepared.stage
    arguments = common_arguments(stage, prepared.world) | {
        "num_generations": stage.candidates,
        "num_generations_eval": 1,
        "max_completion_length": stage.max_tokens,
        "temperature": stage.temperature,
        "top_p": stage.top_p,
        "beta": stage.beta,
        "epsilon": stage.epsilon,
        "epsilon_high": stage.epsilon_high,
        "loss_type": stage.loss,
        "scale_rewards": stage.scale_rewards,
        "num_iterations": stage.iterations,
        # For the reference model, which TRL loads by itself where there is no adapter.
        "trust_remote_code": stage.trust_remote_code,
        "model_init_kwargs": _pinned(stage),
        **_normalization(prepared),
        **_vllm(stage.vllm, prepared.texts.eos_ids),
    }
    if prepared.checkpoint is not None:
        arguments["eval_on_start"] = False  # that evaluation is in the books
    return trl_config(GRPOConfig, stage, arguments)


def _pinned(stage: Grpo) -> dict[str, Any] | None:
    """The revision of a model of the Hub, as it was loaded."""
    place = locate(stage.model, LocalOptions(revision=stage.model_revision))
    return None if place.revision is None else {"revision": place.revision}


def _normalization(prepared: Prepared) -> dict[str, Any]:
    if prepared.stage.normalize == "composite":
        return {"multi_objective_aggregation": "sum_then_normalize"}
    weights = prepared.scorers.rewarded.weights
    total = sum(weights.values())
    return {
        "multi_objective_aggregation": "normalize_then_sum",
        "reward_weights": [weights[name] / total for name in sorted(weights)],
    }


def _vllm(vllm: Vllm, eos_ids: Sequence[int]) -> dict[str, Any]:
    if vllm.mode == "off":
        return {}
    return {
        "use_vllm": True,
        "vllm_mode": vllm.mode,
        "vllm_server_base_url": vllm.server_base_url,
        "vllm_gpu_memory_utilization": vllm.gpu_memory_utilization,
        "vllm_tensor_parallel_size": vllm.tensor_parallel_size,
        "vllm_enable_sleep_mode": vllm.sleep,
        "vllm_max_model_length": vllm.max_model_length,
        "generation_kwargs": {"stop_token_ids": list(eos_ids)},
    }


def rows_of(turns: Sequence[Turn]) -> Any:
    """TRL's dataset: a row a turn. Its `prompt` is only counted; the trainer makes the real one.

    So no dialogue is held twice, and none can get into a log of TRL's.
    """
    from datasets import Dataset

    ids = [turn.id for turn in turns]
    prompts = [[{"role": "user", "content": turn_id}] for turn_id in ids]
    return Dataset.from_dict({"prompt": prompts, "turn_id": ids})
