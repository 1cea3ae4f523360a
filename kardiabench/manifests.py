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
