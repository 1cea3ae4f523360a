"""The manifest of a run: read, and checked against what is read off it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from kardiabench.errors import RunError
from kardiabench.fingerprints import digest

MANIFEST = "manifest.json"
#: The version of the manifest's schema, docs/summary.md.
MANIFEST_VERSION = 1

Manifest = Mapping[str, Any]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run at `path`; raise `RunError` where there is none to read."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory (it has no {MANIFEST}); "
            "give the directory that `kardiabench run` named"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it or start a new run") from error
    if not isinstance(manifest, dict) or "kardiabench" not in manifest:
        raise RunError(f"{file} was not written by kardiabench; give another directory")
    _check_manifest(manifest, file)
    return manifest


class _ModelPart(TypedDict):
    name: str
    identity: dict[str, Any]


class _DimensionPart(TypedDict):
    name: str
    low: float
    high: float
    description: str


class _JudgePart(TypedDict):
    fingerprint: str
    dimensions: list[_DimensionPart]


class _ScorerPart(TypedDict):
    judges: dict[str, _JudgePart]
    weights: dict[str, float]
    missing: Literal["mask", "fail_fast", "zero"]


class _SourcePart(TypedDict):
    name: str


class _DatasetPart(TypedDict):
    turns: int


class _ProtocolPart(TypedDict):
    dataset: _DatasetPart
    scorer: _ScorerPart


class _RowsPart(TypedDict):
    skipped: int


class _ShardPart(TypedDict):
    index: int
    of: int
    dialogues: int
    turns: int


class _ManifestParts(TypedDict):
    """What is read off a manifest; it holds more."""

    config: dict[str, Any]
    model: _ModelPart
    dataset: _SourcePart
    protocol: _ProtocolPart
    protocol_id: str
    shard: NotRequired[_ShardPart]
    rows: _RowsPart


def _check_manifest(manifest: Manifest, file: Path) -> None:
    from pydantic import TypeAdapter, ValidationError

    made_by, version = manifest["kardiabench"], manifest.get("manifest_version")
    if version != MANIFEST_VERSION:
        raise RunError(
            f"{file} has schema version {version!r}, this kardiabench reads {MANIFEST_VERSION}; "
            f"use the version that made it ({made_by})"
        )
    try:
        TypeAdapter(_ManifestParts).validate_python(manifest, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{file}, {where}: {first['msg']}; restore the file or start a new run"
        ) from error
    if digest(manifest["protocol"]) != manifest["protocol_id"]:
        raise RunError(
            f"{file} was edited: its protocol is not what protocol_id "
            f"{manifest['protocol_id']} stands for; restore the file or start a new run"
        )


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *first: str) -> str:
    """Which keys differ and how, for a sentence; empty for none.

    Nested keys are joined by dots, in the order of their names; those named `first` come first.
    """
    old, new = flat(before), flat(after)
    changed = sorted(
        (key for key in old.keys() | new.keys() if old.get(key) != new.get(key)),
        key=lambda key: (key not in first, key),
    )
    shown = "; ".join(f"{key}: {_brief(old, key)} -> {_brief(new, key)}" for key in changed[:5])
    return shown + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """The leaves of nested mappings by their joined keys; an empty mapping is a leaf too."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _brief(values: Mapping[str, object], key: str) -> str:
    text = repr(values[key]) if key in values else "(absent)"
    return text if len(text) <= 60 else text[:57] + "…"
