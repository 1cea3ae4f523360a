"""Tiny models whose replies have span tags and chat marks in them and end by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models

#: How much wider the scores of tags and marks, end marks among them, are spread than the others'.
_LOUDER = 2.0


def build(folder: Path, family: str = "qwen2", **options: Any) -> Path:
    """`tiny_models.build`, for replies of about a dozen tokens, some of them tags and marks."""
    tiny_models.build(folder, family, **options)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = [token["id"] for token in tokenizer["added_tokens"]]

    def louder(weights: dict[str, Any]) -> None:
        weights["lm_head.weight"][special] *= _LOUDER

    change_weights(folder, louder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Have `change` alter the weights in `folder`."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
