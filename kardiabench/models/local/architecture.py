"""Whether a model is one that writes text from left to right, and whose code it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kardiabench.errors import PreflightError
from kardiabench.models.local.weights import Place

_AUTO = "AutoModelForCausalLM"


def check_architecture(place: Place, *, trust_remote_code: bool) -> None:
    """Raise `PreflightError` for a model that transformers cannot load as a causal language model.

    That is one without the head for it (an encoder, an encoder-decoder, a classifier), one that
    this transformers does not know, and one that needs its own code when that is not trusted. A
    GGUF file names its architecture inside and is not looked at here.
    """
    if place.kind == "gguf":
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(place.config.get("model_type"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and _brings_code(place.config):
        if not trust_remote_code:
            raise needs_code(place.name)
        return
    _check_known(place, kind)
    names = place.config.get("architectures")
    named = [str(name) for name in names] if isinstance(names, list) else []
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (named and not set(named) & set(causal)):
        raise PreflightError(
            f"{place.name} is a {' and '.join(named) or kind}, which has no causal language model "
            "head: give a model that generates text (…ForCausalLM)"
        )


def needs_code(name: str) -> PreflightError:
    """The sentence for a model that brings code of its own."""
    return PreflightError(
        f"{name} needs the Python code that comes with it: read that code, then allow it with "
        "--trust-remote-code"
    )


def _brings_code(config: Mapping[str, Any]) -> bool:
    own = config.get("auto_map")
    return isinstance(own, dict) and _AUTO in own


def _check_known(place: Place, kind: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        raise PreflightError(
            f"{place.name} is of the kind {kind!r}, which transformers {transformers.__version__} "
            "does not know: upgrade transformers, or check model_type in its config.json"
        )
