"""What a `training.json` says, for people: names, revisions, fingerprints. Any part may be missing.

Names are as `trainer.public` shows them: where things lie on a machine is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.public import public_base, public_dataset

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
    """A training's stage, base model, data and judges; None for what is not said.

    `lora` is what the recipe says of the adapter that was trained; `weights_of_judges` are those
    of the reward, by the judge's name.
    """

    stage: str | None
    model: str | None
    revision: str | None
    weights: str | None
    lora: Mapping[str, Any] | None
    dataset: str | None
    split: str | None
    data_fingerprint: str | None
    dialogues: Mapping[str, Any]
    personas: Mapping[str, Any]
    judges: tuple[JudgeFact, ...]
    weights_of_judges: Mapping[str, float]
    packages: tuple[tuple[str, str], ...]
    version: str | None

    @property
    def hub_model(self) -> str | None:
        """The base model's name on the Hub; None for a folder."""
        return hub_name(self.model) if self.revision is not None else None

    @property
    def hub_dataset(self) -> str | None:
        """The dataset's name on the Hub; None for the sample, a file, a folder or a plugin's."""
        return _KARDIABENCH if self.dataset in ("KardiaBench", _KARDIABENCH) else None

    @property
    def is_kardiabench(self) -> bool:
        """Whether the data are KardiaBench, under its licence."""
        return self.hub_dataset == _KARDIABENCH


def facts_of(manifest: Mapping[str, Any]) -> Facts:
    """Read a manifest; an empty one gives facts that are all missing."""
    recipe, model, data = (_object(manifest, name) for name in ("recipe", "model", "data"))
    chosen, environment = _object(recipe, "data"), _object(manifest, "environment")
    dataset = _text(chosen.get("dataset"))
    return Facts(
        stage=_text(recipe.get("stage")),
        model=_base(_text(model.get("model")), _text(recipe.get("model"))),
        revision=_text(model.get("revision")),
        weights=_text(model.get("weights")),
        lora=_object(recipe, "lora") or None,
        dataset=dataset and public_dataset(dataset),
        split=_text(chosen.get("split")),
        data_fingerprint=_text(data.get("fingerprint")),
        dialogues=_object(data, "dialogues"),
        personas=_object(data, "personas"),
        judges=tuple(_judges(_object(manifest, "scorers"))),
        weights_of_judges=_weights(_object(_object(manifest, "scorers"), "rewarded")),
        packages=tuple(
            (package, str(version))
            for package, version in sorted(_object(environment, "packages").items())
            if version is not None
        ),
        version=_text(manifest.get("kardiabench")),
    )


def _base(name: str | None, given: str | None) -> str | None:
    """The base model's name; that of a folder is the last part only, the recipe has all of it."""
    if name == "final" and given is not None:
        name = given
    name = name or given
    return name and public_base(name)


def hub_name(name: str | None) -> str | None:
    """`name` if it can be a repository's on the Hub."""
    return name if name is not None and _HUB_NAME.fullmatch(name) else None


def _judges(scorers: Mapping[str, Any]) -> Iterator[JudgeFact]:
    """The rewarded judges, then those that only watch."""
    rewarded = _object(scorers, "rewarded")
    weights = _weights(rewarded)
    inside = _object(rewarded, "judges")
    outside = _object(_object(scorers, "watched"), "judges")
    for name, described in sorted(inside.items()):
        yield JudgeFact(name, _fingerprint(described), weights.get(name, 0.0))
    for name, described in sorted(outside.items()):
        if name not in inside:
            yield JudgeFact(name, _fingerprint(described), None)


def _weights(rewarded: Mapping[str, Any]) -> dict[str, float]:
    given = _object(rewarded, "weights")
    return {name: float(one) for name, one in given.items() if isinstance(one, int | float)}


def _fingerprint(described: object) -> str:
    return str(described.get("fingerprint", "")) if isinstance(described, Mapping) else ""


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
