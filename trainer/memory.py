"""How much memory a training takes on a device, about: to refuse what surely cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kardiabench.errors import PreflightError
from trainer.arguments import computes_in_bfloat16, weights_type

if TYPE_CHECKING:
    from trainer.config import Lora, Training

_GIB = 2**30
#: AdamW keeps two numbers a weight, in the weight's own type.
_STATES = 2
#: Bytes a token, layer and unit of width that 16-bit training keeps for the backward pass, without
#: attention scores, which flash attention does not keep: Korthikanti et al. 2022, "Reducing
#: Activation Recomputation in Large Transformer Models", equation 2. With recomputation only the
#: layers' inputs stay.
_KEPT, _KEPT_INPUTS = 34, 2
#: Logits, their float32 softmax and its gradient, in numbers of 4 bytes.
_LOGITS = 3
_BYTES = {"float32": 4, "bfloat16": 2}


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


def memory_estimate(
    config: Any,
    stage: Training,
    *,
    tokens: int,
    reference: bool = False,
    shards: int = 1,
    vllm_share: float = 0.0,
    device_bytes: int = 0,
) -> Memory:
    """What training the model of `config` (transformers') takes on one device.

    `tokens` is the longest row, prompt and reply together. `reference`: a frozen copy is kept, as
    GRPO does for `beta` above 0; an adapter needs none. `shards`: over so many devices weights,
    gradients and optimizer are spread (FSDP, DeepSpeed stage 3). Colocated vLLM takes `vllm_share`
    of `device_bytes`.
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
    return Memory(
        weights=held * each // shards,
        gradients=trained * each // shards,
        optimizer=_STATES * trained * each // shards,
        reference=whole * each // shards if reference and stage.lora is None else 0,
        activations=layers + rows * text.vocab_size * _LOGITS * 4,
        vllm=int(vllm_share * device_bytes),
    )


def check_memory(memory: Memory, available: int) -> str:
    """A line for display; raises `PreflightError` when it cannot be.

    That is when weights and optimizer alone are more than the `available` bytes: everything else is
    too rough an estimate to refuse by.
    """
    surely = memory.weights + memory.optimizer
    if surely > available:
        raise PreflightError(
            f"weights and optimizer alone take {surely / _GIB:.1f} GiB, and the device has "
            f"{available / _GIB:.1f} GiB free; train an adapter (lora), in dtype: bfloat16, or "
            "over more devices with a configuration of trainer/recipes/accelerate"
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
