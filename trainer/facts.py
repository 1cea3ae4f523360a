"""What a `training.json` says, for people: names, revisions, fingerprints. Any part may be missing.

Of a path only the last part is shown: where things lie on a machine is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

#: What the Hub takes as the name of a model or a dataset.
_HUB_NAME = re.compile(r"(?:[\w-][\w.-]{0,95}/)?[\w-][\w.-]{0,95}", re.ASCII)
_KARDIABENCH = "Jhcircle/KardiaBench"


@dataclass(frozen=True, slots=True)
class JudgeFact:
    """A judge: its fingerprint, and its weight in the reward; None for one that only watches."""

    name: str
    fingerprint: str
    weight: float | None


@dataclass(frozen=True)
class Facts:
    """A training's stage, base model, data and judges; None for what is not said."""

    stage: str | None
    model: str | None
    revision: str | None
    weights: str | None
    adapter: bool
    dataset: str | None
    split: str | None
    data_fingerprint: str | None
    dialogues: Mapping[str, Any]
    personas: Mapping[str, Any]
    judges: tuple[JudgeFact, ...]
    packages: tuple[tuple[str, str], ...]
    version: str | None

    @property
    def hub_model(self) -> str | None:
        """The base model's name on the Hub; None for a folder."""
        return hub_name(self.model) if self.revision is not None else None

    @property
    def hub_dataset(self) -> str | None:
        """The dataset's name on the Hub; None for the sample, a file or a folder."""
        if self.dataset == "KardiaBench":
            return _KARDIABENCH
        name = hub_name(self.dataset)
        return name if name is not None and "/" in name else None

    @property
    def is_kardiabench(self) -> bool:
        """Whether the data are KardiaBench, under its licence."""
        return self.hub_dataset == _KARDIABENCH


def facts_of(manifest: Mapping[str, Any]) -> Facts:
    """Read a manifest; an empty one gives facts that are all missing."""
    recipe, model, data = (_object(manifest, name) for name in ("recipe", "model", "data"))
    chosen, environment = _object(recipe, "data"), _object(manifest, "environment")
    name = _text(model.get("model")) or _text(recipe.get("model"))
    dataset = _text(chosen.get("dataset"))
    return Facts(
        stage=_text(recipe.get("stage")),
        model=name and last_part(name),
        revision=_text(model.get("revision")),
        weights=_text(model.get("weights")),
        adapter=recipe.get("lora") is not None,
        dataset=dataset and last_part(dataset),
        split=_text(chosen.get("split")),
        data_fingerprint=_text(data.get("fingerprint")),
        dialogues=_object(data, "dialogues"),
        personas=_object(data, "personas"),
        judges=tuple(_judges(_object(manifest, "scorers"))),
        packages=tuple(
            (package, str(version))
            for package, version in sorted(_object(environment, "packages").items())
            if version is not None
        ),
        version=_text(manifest.get("kardiabench")),
    )


def hub_name(name: str | None) -> str | None:
    """`name` if it can be a repository's on the Hub."""
    return name if name is not None and _HUB_NAME.fullmatch(name) else None


def last_part(name: str) -> str:
    """The last part of a path; what is no path as it is: `owner/name` and `name`."""
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    return PurePosixPath(name.replace("\\", "/")).name or name if is_path else name


def _judges(scorers: Mapping[str, Any]) -> Iterator[JudgeFact]:
    """The rewarded judges, then those that only watch."""
    rewarded = _object(scorers, "rewarded")
    weights = _object(rewarded, "weights")
    inside = _object(rewarded, "judges")
    outside = _object(_object(scorers, "watched"), "judges")
    for name, described in sorted(inside.items()):
        weight = weights.get(name)
        number = float(weight) if isinstance(weight, int | float) else 0.0
        yield JudgeFact(name, _fingerprint(described), number)
    for name, described in sorted(outside.items()):
        if name not in inside:
            yield JudgeFact(name, _fingerprint(described), None)


def _fingerprint(described: object) -> str:
    return str(described.get("fingerprint", "")) if isinstance(described, Mapping) else ""


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
