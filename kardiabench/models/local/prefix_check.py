"""Whether a model can be run by `shared_prefix`: tried on a real prompt before it is relied on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kardiabench.models.local.out_of_memory import is_out_of_memory
from kardiabench.models.local.prefix_attention import (
    Memory,
    Step,
    UnsupportedModelError,
    register,
    running,
)

#: How far log probabilities may be apart, by the bytes of the number type: roundings.
_TOLERANCE = {4: 1e-3, 2: 0.25}
#: Steps between neighbouring numbers that roundings may add up to.
_STEPS = 4
_PROBE = 320
_OWN = 3
#: What a model may raise that cannot be run in parts.
_REFUSALS = (
    UnsupportedModelError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
#: Kinds of layers whose memory is keys and values by position.
_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def can_share_prefixes(model: Any, ids: Sequence[int]) -> str | None:
    """None when `model` gives the same for a prompt in two parts as for the whole; else why not.

    Tried on a piece of the prompt `ids` that is longer than the model's sliding window, where that
    is short enough to be tried.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - _KNOWN_LAYERS:
        return f"it has layers of the kind {', '.join(sorted(kinds - _KNOWN_LAYERS))}"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention is its own"
    if len(ids) <= _OWN:
        return None
    window = getattr(config, "sliding_window", None) or 0
    probe = list(ids[: max(_PROBE, min(window + 64, 2 * _PROBE))])
    return _compared(model, probe)


def use_shared_prefixes(model: Any) -> None:
    """Have `model` run its attention through `prefix_attention`."""
    model.set_attn_implementation(register())


def _compared(model: Any, ids: Sequence[int]) -> str | None:
    import torch

    before = model.config._attn_implementation
    with torch.inference_mode():
        whole = model(torch.tensor([ids], device=model.device), logits_to_keep=1).logits[0, -1]
        use_shared_prefixes(model)
        try:
            parts = _in_parts(model, ids)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())
            return f"it cannot be run so ({type(error).__name__}: {said})"
        finally:
            model.set_attn_implementation(before)
    apart = (whole.float().log_softmax(-1) - parts.float().log_softmax(-1)).abs()
    best = whole.topk(min(10, len(whole))).indices
    worst = float(apart[best].max())
    limit = _TOLERANCE.get(whole.dtype.itemsize, 0.25)
    if whole.dtype.itemsize < 4:  # large logits of half-precision numbers are far apart
        spacing = torch.finfo(whole.dtype).eps * float(whole.abs().max())
        limit = max(limit, _STEPS * spacing)
    if not worst <= limit:
        return f"log probabilities differ by {worst:.2g}, more than {limit:g}"
    return None


def _in_parts(model: Any, ids: Sequence[int]) -> Any:
    """The logits (V,) after `ids`, all but the last few of them read as a trunk."""
    import torch

    device, cut = model.device, len(ids) - _OWN
    memory = Memory(trunks=1, trunk_slots=cut, rows=1, own_slots=_OWN)
    tokens = torch.tensor([ids], device=device)
    at = torch.arange(len(ids), device=device)[None]
    with running(Step(memory, trunk=0, used=cut)) as cache:
        model(tokens[:, :cut], position_ids=at[:, :cut], cache=cache, use_cache=True)
    seen = torch.tensor([cut], device=device)
    step = Step(memory, slots=at[:, :_OWN], seen=seen, used=_OWN)
    with running(step) as cache:
        out = model(tokens[:, cut:], position_ids=at[:, cut:], cache=cache, use_cache=True)
    return out.logits[0, -1]
