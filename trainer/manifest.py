"""`training.json`: what a training is, and whether a command goes on with the same one."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kardiabench
from kardiabench.errors import RunError
from kardiabench.files import write_json
from kardiabench.manifests import differences, flat
from kardiabench.redaction import refuse_secrets
from trainer.checkpoints import newest

MANIFEST = "training.json"
MANIFEST_VERSION = 1

_PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "litellm", "vllm",
    "deepspeed",
)  # fmt: skip
#: What a training writes before its first checkpoint.
_BEGUN = ("ledger*.jsonl", "log.jsonl", "evaluations.jsonl")
_DECIDING = ("recipe", "data", "model", "scorers", "processes")
#: Fields of a recipe that decide nothing about the weights: they may change on the way.
_FREE = (
    "about", "output", "report_to", "keep_checkpoints", "log_every", "final",
    "judging.concurrency", "judging.judge_timeout", "judging.judge_retries", "judging.cache",
    "judging.breaker_failures", "judging.breaker_rest", "judging.masked_budget",
    "judging.masked_window", "alarm.stop",
)  # fmt: skip


def make_manifest(
    recipe: Mapping[str, Any],
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    scorers: Mapping[str, Any],
    processes: int,
) -> dict[str, Any]:
    """All that decides a training. `scorers` are identities by name; no keys are in it.

    The number of processes decides too: it says which candidates are drawn with which numbers.

    Raises `ConfigError` for a recipe with something in it that looks like a key.
    """
    refuse_secrets(flat(recipe), "recipe")
    return {
        "kardiabench": kardiabench.__version__,
        "training_version": MANIFEST_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": dict(recipe),
        "data": dict(data),
        "model": dict(model),
        "scorers": dict(scorers),
        "processes": processes,
        "environment": {
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    }


def settle(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Begin the training in `folder`, or go on with it; returns whether it was there.

    Raises `RunError`, naming what differs, when the folder has another training. One that was
    ended before its first checkpoint has nothing to go on from, and gives way.
    """
    file = folder / MANIFEST
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, manifest)
        return False
    old = read_manifest(folder)
    changed = changes(old, manifest)
    if changed and newest(folder) is None:
        for stale in (path for pattern in _BEGUN for path in folder.glob(pattern)):
            stale.unlink()
        write_json(file, manifest)
        return False
    if changed:
        raise _another(folder, changed)
    return True


def check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `RunError` where `settle` would; nothing is written."""
    if (folder / MANIFEST).exists() and newest(folder) is not None:
        changed = changes(read_manifest(folder), manifest)
        if changed:
            raise _another(folder, changed)


def _another(folder: Path, changed: str) -> RunError:
    return RunError(
        f"{folder} has a training of another configuration ({changed}); restore what changed to "
        "go on with it, or give another output=FOLDER"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`; raises `RunError` where there is none that can be read."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder} has no {MANIFEST}; give the output folder of a training") from (
            error
        )
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it") from error
    if not isinstance(manifest, dict) or manifest.get("training_version") != MANIFEST_VERSION:
        raise RunError(f"{file} is of another version of kardiabench; use that one")
    return manifest


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What decides the weights and differs, and how; empty for nothing."""
    return differences(_deciding(old), _deciding(new), "recipe.stage")


def _deciding(manifest: Mapping[str, Any]) -> dict[str, object]:
    # As it comes back from the file, so that a tuple is no change.
    plain = json.loads(json.dumps({key: manifest.get(key) for key in _DECIDING}))
    free = tuple(f"recipe.{name}" for name in _FREE)
    return {
        key: value
        for key, value in flat(plain).items()
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
