"""Replies of several model families to the same turns, for the check of self-preference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kardiabench.contracts import Identity
from kardiabench.dialogues import load
from kardiabench.errors import ConfigError
from kardiabench.families import family_of
from kardiabench.fingerprints import digest
from kardiabench.manifests import read_manifest
from kardiabench.records import Item, Reply, Turn
from kardiabench.registry import Registry
from kardiabench.settings import RunSettings
from kardiabench.stats import Codes, Floats
from kardiabench.store import iterate_replies

MOST_TURNS = 160


@dataclass(frozen=True)
class Candidates:
    """Replies to compare: for every name its family and its replies, to the same turns in order."""

    families: Mapping[str, str]
    items: Mapping[str, tuple[Item, ...]]

    @property
    def personas(self) -> Codes:
        """The persona of each turn, as a code from 0."""
        return codes([item.turn.dialogue.persona_id for item in next(iter(self.items.values()))])

    def gap(self, scores: Mapping[str, Floats], own: str) -> Floats:
        """The own family's scores less the mean of the other families', (turns, dimensions).

        Models of one family are averaged first. NaN where any of them has no score: the families
        are compared on the same turns.
        """
        by_family = defaultdict(list)
        for name, family in self.families.items():
            by_family[family].append(scores[name])
        means = {family: np.mean(tables, axis=0) for family, tables in by_family.items()}
        others = [mean for family, mean in means.items() if family != own]
        return np.asarray(means[own] - np.mean(others, axis=0), dtype=np.float64)


def own_family(identity: Identity) -> str | None:
    """The one family of all models that a judge's identity names; None when it cannot be told."""
    families = {family_of(name) for name in _models(identity)}
    return families.pop() if len(families) == 1 else None


def _models(value: object, key: str = "") -> Iterator[str]:
    """Every text that stands under a key `model`, however deep."""
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield from _models(inner, str(inner_key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _models(inner, key)
    elif key == "model" and isinstance(value, str):
        yield value


def open_candidates(
    runs: Mapping[str, Path], registry: Registry, most: int = MOST_TURNS
) -> Candidates:
    """Replies of each run to turns that all of them answered, at most `most`, over all personas.

    The keys of `runs` are families or models; one of no known family is a family of its own.
    Raises `ConfigError` for fewer than two runs, for runs that had histories of their own, and
    where there is no common turn.
    """
    if len(runs) < 2:
        raise ConfigError("--replies: give at least two runs, as qwen=RUN_A and gpt=RUN_B")
    replies = {name: _replies(path) for name, path in runs.items()}
    common = set.intersection(*(set(found) for found in replies.values()))
    turns = _turns(next(iter(runs.values())), registry, common)
    if not turns:
        raise ConfigError(
            f"--replies: the runs {', '.join(map(str, runs.values()))} have no turn that all of "
            "them answered; give runs over the same dataset"
        )
    chosen = spread_out([turn.dialogue.persona_id for turn in turns], most)
    return Candidates(
        families={name: family_of(name) or name.casefold() for name in runs},
        items={
            name: tuple(Item(turns[at], found[turns[at].id]) for at in chosen)
            for name, found in replies.items()
        },
    )


def spread_out(groups: Sequence[str], number: int) -> list[int]:
    """The places of at most `number` of `groups`, one of each group in turn, in rising order."""
    rank: dict[str, int] = defaultdict(int)
    order = []
    for place, group in enumerate(groups):
        order.append((rank[group], place))
        rank[group] += 1
    return sorted(place for _, place in sorted(order)[:number])


def codes(names: Sequence[str]) -> Codes:
    """Each name as its place among the sorted names."""
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def _replies(path: Path) -> dict[str, Reply]:
    """The finished replies of the run at `path` by turn, the last to a turn."""
    history = read_manifest(path)["protocol"].get("prompts", {}).get("history")
    if history == "free":
        raise ConfigError(
            f"--replies: {path} was made with --history free, so its replies answer histories of "
            "their own; give runs made with --history gold"
        )
    last = {stored.reply.turn_id: stored.reply for _, stored in iterate_replies(path)}
    return {turn: reply for turn, reply in last.items() if reply.status == "ok"}


def _turns(path: Path, registry: Registry, wanted: Collection[str]) -> list[Turn]:
    """The wanted turns of the run's dataset, in an order that has nothing to do with its own."""
    manifest = read_manifest(path)
    settings = RunSettings.from_json(manifest["config"], str(path))
    revision = settings.revision or manifest["dataset"].get("revision")
    source = registry.open_dataset(settings.dataset, settings.split, revision)
    dialogues = load(source, settings.selection, settings.on_bad_row)
    found = [turn for turn in dialogues.turns() if turn.id in wanted]
    return sorted(found, key=lambda turn: digest(turn.id))
