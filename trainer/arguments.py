"""From a recipe to TRL's own arguments: what SFT and GRPO share."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, did_you_mean
from kardiabench.models.local.loading import end_ids, load_trainable
from kardiabench.models.local.weights import shown_name, weights_identity
from kardiabench.prompts import PromptPlan
from trainer.config import Lora, Training
from trainer.texts import Texts

#: TRL's arguments that would make rewards, ledger or resumption untrue beside what we set.
_OURS = frozenset(
    {
        *("chat_template_kwargs", "dataset_kwargs", "formatting_func", "model_init_kwargs"),
        *("generation_kwargs", "multi_objective_aggregation", "reward_weights"),
        *("use_transformers_continuous_batching", "use_transformers_paged"),
        *("use_vllm", "vllm_mode", "vllm_server_base_url", "vllm_server_host", "vllm_server_port"),
        *("push_to_hub", "hub_model_id", "log_completions_hub_repo", "trust_remote_code"),
        *("resume_from_checkpoint", "ignore_data_skip", "save_only_model"),
        *("load_best_model_at_end", "auto_find_batch_size", "shuffle_dataset", "data_seed"),
    }
)

#: One process may wait so long for another that judges or saves, in seconds.
PATIENCE = 4 * 3600


def processes() -> int:
    """How many processes train together."""
    return int(state().num_processes)


def state() -> Any:
    """Accelerate's state of this process; the first call sets how long processes wait."""
    from accelerate import PartialState

    # Without a GPU it has to be told, or several processes would each take itself for the only one.
    return PartialState(cpu=not _has_accelerator(), timeout=timedelta(seconds=PATIENCE))


def accumulation(stage: Training, world: int) -> int:
    """Micro-steps of one optimizer step; `preflight.check_batches` says where it is no number."""
    return stage.batch_size // (stage.per_device_batch_size * world)


def common_arguments(stage: Training, world: int) -> dict[str, Any]:
    """The arguments that TRL's configurations of both stages have."""
    return {
        "output_dir": str(stage.output),
        "learning_rate": stage.learning_rate,
        "num_train_epochs": stage.epochs,
        "max_steps": stage.max_steps or -1,
        "per_device_train_batch_size": stage.per_device_batch_size,
        "per_device_eval_batch_size": stage.per_device_batch_size,
        "gradient_accumulation_steps": accumulation(stage, world),
        "warmup_steps": stage.warmup_steps,
        "lr_scheduler_type": stage.scheduler,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": stage.max_grad_norm,
        "gradient_checkpointing": stage.gradient_checkpointing,
        "seed": stage.seed,
        "bf16": computes_in_bfloat16(stage),
        "logging_steps": stage.log_every,
        "logging_first_step": True,
        "eval_strategy": "steps" if stage.eval_every else "no",
        "eval_steps": stage.eval_every,
        "eval_on_start": bool(stage.eval_every),
        "save_strategy": "steps",
        "save_steps": stage.save_every or stage.eval_every or 50,
        "save_total_limit": None,  # trainer.checkpoints deletes them, once a newer one is whole
        "report_to": list(stage.report_to) or "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": _has_accelerator(),
        "use_cpu": not _has_accelerator(),
    }


def trl_config(kind: Any, stage: Training, arguments: dict[str, Any]) -> Any:
    """TRL's configuration of class `kind`, with what the recipe's `trl` adds or replaces.

    Raises `ConfigError` for an argument that it does not have or does not take, and for one that
    the recipe's own fields decide.
    """
    known = {field.name for field in fields(kind)}
    for name in stage.trl:
        if name in arguments or name in _OURS:
            raise ConfigError(
                f"trl.{name} is the recipe's own business: use its fields (docs/training.md), and "
                "leave it out of trl"
            )
        if name not in known:
            raise ConfigError(
                f"trl.{name}: {kind.__name__} has no such argument; {did_you_mean(name, known)}"
            )
    try:
        return kind(**arguments | stage.trl)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses the configuration: {' '.join(str(error).split())}") from (
            error
        )


def computes_in_bfloat16(stage: Training) -> bool:
    """Whether the training computes in bfloat16 beside float32 weights (on a GPU that can)."""
    import torch

    return stage.dtype != "float32" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _has_accelerator() -> bool:
    import torch

    return bool(torch.accelerator.is_available())


def weights_type(stage: Training) -> str:
    """The type of the weights: what the recipe says; else bfloat16 under an adapter on a GPU."""
    if stage.dtype != "auto":
        return stage.dtype
    return "bfloat16" if stage.lora is not None and computes_in_bfloat16(stage) else "float32"


def load_policy(stage: Training) -> tuple[Any, Any]:
    """The model that is trained, and its tokenizer with a padding token."""
    local = LocalOptions(
        dtype=weights_type(stage),
        revision=stage.model_revision,
        trust_remote_code=stage.trust_remote_code,
    )
    model, tokenizer = load_trainable(stage.model, local)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.generation_config = _saveable(model.generation_config)
    model.config.use_cache = not stage.gradient_checkpointing
    return model, tokenizer


def make_texts(
    stage: Training, model: Any, tokenizer: Any, max_prompt_tokens: int | None = None
) -> Texts:
    """Prompts and replies as the recipe has them, with all of the model's own ends."""
    return Texts(
        tokenizer,
        PromptPlan(stage.data.system_prompt, content=stage.data.history_content),
        end_ids(model.generation_config, tokenizer),
        thinking=stage.thinking,
        max_prompt_tokens=max_prompt_tokens,
    )


def _saveable(generation: Any) -> Any:
    """`generation`, or only its ends where it is one that transformers refuses to save."""
    from transformers import GenerationConfig

    try:
        generation.validate(strict=True)
    except ValueError:  # some published ones are not valid
        names = ("eos_token_id", "pad_token_id", "bos_token_id")
        return GenerationConfig(**{name: getattr(generation, name) for name in names})
    return generation


def policy_identity(stage: Training, texts: Texts) -> dict[str, object]:
    """What the training begins with: the weights' content, and how prompts are made."""
    local = LocalOptions(revision=stage.model_revision)
    return {
        "model": shown_name(stage.model),
        **weights_identity(stage.model, local),
        "prompts": dict(texts.plan.identity),
        "format": dict(texts.format.identity),
    }


def without_bars(trainer: Any) -> None:
    """Take transformers' own display away."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def lora_config(lora: Lora | None, **more: Any) -> Any:
    """Peft's configuration, None for full fine-tuning."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
        **more,
    )
