"""How much memory a training takes on a device, about: to refuse what surely cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kardiabench.contracts import LocalOptions
from kardiabench.errors import PreflightError
from trainer.arguments import computes_in_bfloat16, processes, weights_type
from trainer.shards import WHOLE, Shards, shards_here

if TYPE_CHECKING:
    from trainer.config import Grpo, Lora, Sft, Training

_GIB = 2**30
#: AdamW keeps two numbers a weight, in the weight's own type; other optimizers may keep less.
_STATES, _ADAMW = 2, ("adamw_torch", "adamw_torch_fused")
#: Bytes a token, layer and unit of width that 16-bit training keeps for the backward pass, without
#: attention scores, which flash attention does not keep: Korthikanti et al. 2022, "Reducing
#: Activation Recomputation in Large Transformer Models", equation 2. With recomputation only the
#: layers' inputs stay.
_KEPT, _KEPT_INPUTS = 34, 2
#: Logits, their float32 softmax and its gradient, in numbers of 4 bytes.
_LOGITS = 3
_BYTES = {"float32": 4, "bfloat16": 2}
#: What takes less, by whether an adapter is trained: bfloat16 is for weights that stay.
_ADVICE = {
    True: "set dtype: bfloat16 (the adapter's base does not change), take a smaller model",
    False: "train an adapter (lora; dtype: bfloat16 instead would round the steps of a small "
    "learning_rate away)",
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by part. An estimate; `activations` is the roughest part.

    `vllm` is what colocated vLLM claims, its own copy of the weights in it.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    vllm: int = 0

    @property
    def total(self) -> int:
        """All parts."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in asdict(self).items())
        return f"about {self.total / _GIB:.1f} GiB a device ({parts})"


def estimate_of(stage: Sft | Grpo) -> Memory:
    """What `stage` takes on this process's device, by its model's configuration alone.

    Nothing is loaded: it can be asked before the weights are there, and the model's own name,
    revision and code count as when they are. Raises as the loading would.
    """
    from kardiabench.models.local.loading import context_of
    from trainer.config import Grpo

    config = _config_of(stage)
    longest, scored = _rows_of(stage)
    context = context_of(config)
    policy = stage if isinstance(stage, Grpo) else None
    colocated = policy is not None and policy.vllm.mode == "colocate" and not policy.vllm.sleep
    return memory_estimate(
        config,
        stage,
        tokens=longest if context is None else min(longest, context),
        scored=scored,
        reference=policy is not None and policy.beta > 0,
        shards=shards_here(processes()),
        vllm_share=policy.vllm.gpu_memory_utilization if policy and colocated else 0.0,
        device_bytes=_device_bytes(),
    )


def _rows_of(stage: Sft | Grpo) -> tuple[int, int | None]:
    """The longest row in tokens, and of how many of them logits are computed (None: of all)."""
    from trainer.config import Grpo

    if isinstance(stage, Grpo):
        return stage.max_prompt_tokens + stage.max_tokens, stage.max_tokens
    return stage.max_length, None


def _config_of(stage: Training) -> Any:
    from transformers import AutoConfig

    from kardiabench.models.local.trouble import explained, quiet
    from kardiabench.models.local.weights import locate

    local = LocalOptions(revision=stage.model_revision, trust_remote_code=stage.trust_remote_code)
    place = locate(stage.model, local)
    with quiet(all_of_it=place.kind == "gguf"), explained(place, "cpu"):
        return AutoConfig.from_pretrained(
            place.source, trust_remote_code=stage.trust_remote_code, **place.arguments
        )


def _device_bytes() -> int:
    """All bytes of this process's GPU; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def memory_estimate(
    config: Any,
    stage: Training,
    *,
    tokens: int,
    scored: int | None = None,
    reference: bool = False,
    shards: Shards = WHOLE,
    vllm_share: float = 0.0,
    device_bytes: int = 0,
) -> Memory:
    """What training the model of `config` (transformers') takes on one device.

    `tokens` is the longest row, prompt and reply together; logits are computed of `scored` of them
    (None: of all). `reference`: a frozen copy is kept, as GRPO does for `beta` above 0; an adapter
    needs none. `shards` spreads weights, and gradients and optimizer. Colocated vLLM takes
    `vllm_share` of `device_bytes`.
    """
    model = _shapes(config, trust_remote_code=stage.trust_remote_code)
    each = _BYTES[weights_type(stage)]
    computed = 2 if computes_in_bfloat16(stage) else each
    whole = sum(weights.numel() for weights in model.parameters())
    trained = whole if stage.lora is None else _adapter_size(model, stage.lora)
    held = whole if stage.lora is None else whole + trained
    text = config.get_text_config(decoder=True)
    rows = stage.per_device_batch_size * tokens
    kept = _KEPT_INPUTS if stage.gradient_checkpointing else _KEPT
    layers = rows * text.hidden_size * text.num_hidden_layers * kept * computed // 2
    logits = stage.per_device_batch_size * min(tokens, scored or tokens) * text.vocab_size
    states = _STATES if stage.trl.get("optim", _ADAMW[0]) in _ADAMW else 0
    return Memory(
        weights=_spread(held * each, shards.weights),
        gradients=_spread(trained * each, shards.weights),
        optimizer=_spread(states * trained * each, shards.optimizer),
        reference=_spread(whole * each, shards.weights) if reference and not stage.lora else 0,
        activations=layers + logits * _LOGITS * 4,
        vllm=int(vllm_share * device_bytes),
    )


def _spread(size: int, devices: int) -> int:
    return size // devices if devices else 0


def check_memory(memory: Memory, available: int, *, lora: bool = False) -> str:
    """A line for display; raises `PreflightError` when it cannot be.

    That is when weights and optimizer alone are more than the `available` bytes: everything else is
    too rough an estimate to refuse by. `lora`: an adapter is trained.
    """
    surely = memory.weights + memory.optimizer
    if surely > available:
        raise PreflightError(
            f"weights and optimizer alone take {surely / _GIB:.1f} GiB, and the device has "
            f"{available / _GIB:.1f} GiB free; {_ADVICE[lora]}, or train over "
            "more devices with a configuration of `kardiabench train recipes`"
        )
    return f"memory: {memory}, of {available / _GIB:.1f} GiB free; an estimate"


def available_memory() -> int:
    """Bytes free on the device that training uses: this process's GPU, else the machine's."""
    import torch

    from kardiabench.models.local.devices import device_of, free_memory

    if torch.cuda.is_available():
        return free_memory(f"cuda:{torch.cuda.current_device()}")
    return free_memory(device_of("auto"))


def _shapes(config: Any, *, trust_remote_code: bool) -> Any:
    """The model without memory: its weights have shapes and no content."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _adapter_size(model: Any, lora: Lora) -> int:
    """Weights of a low-rank adapter: r rows and columns for every matrix that has one."""
    import torch

    head = model.get_output_embeddings()
    matrices = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and _is_target(name, lora.target_modules)
    ]
    return sum(lora.r * (m.in_features + m.out_features) for m in matrices)


def _is_target(name: str, targets: str | Sequence[str]) -> bool:
    if targets == "all-linear":
        return True
    if isinstance(targets, str):  # peft reads it as a pattern of whole names
        import re

        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
