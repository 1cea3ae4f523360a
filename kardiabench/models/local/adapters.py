"""Puts a LoRA adapter onto a loaded model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from kardiabench.errors import PreflightError
from kardiabench.models.local.weights import Place

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight")


def attach(model: Any, adapter: Place, name: str, *, merge: bool) -> Any:
    """The model `name` with the adapter: the transformers model, not peft's wrapping.

    `merge` adds the adapter to the weights, after which it costs nothing; that is exact only in
    float32. In bfloat16 the sum is rounded to 8 bits, which loses a part of a small update, and in
    quantized weights more of it: there the adapter stays beside the weights, as it was trained.
    An adapter that was trained with more tokens than the base has brings their embeddings: the
    base's are made larger for them. Raises `PreflightError` for another kind of adapter and for
    one that does not fit the model.
    """
    from peft import PeftModel, load_peft_weights

    if adapter.config.get("peft_type") != "LORA":
        raise PreflightError(
            f"{adapter.name} is a {adapter.config.get('peft_type')} adapter: only LoRA is taken; "
            "merge it into its base and give the result as the model"
        )
    pinned = {} if adapter.revision is None else {"revision": adapter.revision}
    weights = load_peft_weights(adapter.source, device="cpu", **pinned)
    _grow_embeddings(model, weights, adapter.config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, adapter.source, **pinned)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise _other_base(adapter, name) from error
    _check_all_used(adapted, weights, adapter, name)
    return adapted.merge_and_unload(safe_merge=True) if merge else adapted.get_base_model()


def _grow_embeddings(model: Any, weights: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    saved = [value.shape[0] for key, value in weights.items() if key.endswith(_EMBEDDINGS)]
    rows = max([*saved, *(number + 1 for number in _trained_rows(config))], default=0)
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _trained_rows(config: Mapping[str, Any]) -> list[int]:
    """The rows of embeddings that the adapter has by themselves: a list, or one a layer."""
    rows = config.get("trainable_token_indices") or []
    lists = rows.values() if isinstance(rows, Mapping) else [rows]
    return [int(number) for numbers in lists for number in numbers]


def _check_all_used(adapted: Any, weights: Mapping[str, Any], adapter: Place, name: str) -> None:
    """Every part of the adapter has found its layer, and every layer that waits for one has it.

    Not checked where transformers renames weights as it loads them.
    """
    from peft import get_peft_model_state_dict

    if getattr(adapted.get_base_model(), "_checkpoint_conversion_mapping", None):
        return
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    here = {key for key in expected if "lora_" in key}
    given = {key for key in weights if "lora_" in key}
    if here != given and not any(".experts." in key for key in given):
        raise _other_base(adapter, name)


def _other_base(adapter: Place, name: str) -> PreflightError:
    base = adapter.config.get("base_model_name_or_path") or "another model"
    return PreflightError(
        f"{adapter.name} does not fit {name}: it was trained on {base} (adapter_config.json), so "
        "give that, or a model of the same shape, as the model"
    )
