"""Parts of a run (`--shard 2/8`), by their manifests: their names, and how they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kardiabench.errors import RunError
from kardiabench.manifests import Manifest


def part_name(shard: Mapping[str, Any]) -> str:
    """`part 2 of 8`."""
    return f"part {shard['index']} of {shard['of']}"


def is_part(manifest: Manifest) -> bool:
    """Whether the manifest is of a part of a run."""
    return "shard" in manifest


def without_shard(manifest: Manifest) -> dict[str, Any]:
    """The manifest of the whole run that the manifest is of a part of."""
    whole = {key: value for key, value in manifest.items() if key != "shard"}
    return whole | {"config": {**manifest["config"], "shard": None}}


def refuse_part(path: Path, manifest: Manifest) -> None:
    """Raise `RunError` for a part of a run, where only a whole one has a meaning."""
    if is_part(manifest):
        raise RunError(
            f"{path} is {part_name(manifest['shard'])} of a run; merge the parts first: "
            "kardiabench merge PART... --out RUN"
        )
