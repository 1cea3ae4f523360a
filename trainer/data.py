"""What is trained on and what progress is measured on: the same turns as `kardiabench run` has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kardiabench.dialogues import Dialogues, Entry
from kardiabench.errors import ConfigError, DataError
from kardiabench.fingerprints import digest
from kardiabench.records import Dialogue, Turn
from kardiabench.registry import Registry
from kardiabench.rows import turns_of
from kardiabench.sampling import Candidate, Selection, choose
from trainer.leakage import check_leakage
from trainer.reading import read_test, read_training

if TYPE_CHECKING:
    from trainer.config import Data, HeldOut


class Amount(NamedTuple):
    """How much there is of something in each of the two parts."""

    train: int
    held_out: int


@dataclass(frozen=True)
class TrainingData:
    """Turns to train on, and turns of other personas to measure progress on.

    Both are in the order of their dialogues' ids, those of one dialogue together and in order, so
    that the order of the file changes nothing. `identity` is JSON and stands for the content,
    wherever it was read from; `source` and `test` say where training and test data were read (None:
    leakage was not checked). `notes` are sentences for the user.
    """

    train: tuple[Turn, ...]
    held_out: tuple[Turn, ...]
    identity: dict[str, object]
    notes: tuple[str, ...] = ()
    source: Mapping[str, object] = field(default_factory=dict)
    test: Mapping[str, object] | None = None

    @cached_property
    def turns(self) -> Mapping[str, Turn]:
        """All turns by id."""
        return {turn.id: turn for turn in (*self.train, *self.held_out)}

    @cached_property
    def dialogues(self) -> Amount:
        """How many dialogues there are."""
        return Amount(*(len({t.dialogue.id for t in part}) for part in self._parts))

    @cached_property
    def personas(self) -> Amount:
        """How many personas they are of."""
        return Amount(*(len({t.dialogue.persona_id for t in part}) for part in self._parts))

    @property
    def _parts(self) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
        return self.train, self.held_out


def open_data(
    data: Data, held_out: HeldOut | None, registry: Registry, *, compare_texts: bool = True
) -> TrainingData:
    """Read the data of a recipe, divide them, and refuse test data among them.

    `held_out` None keeps nothing out. `compare_texts` looks for near-duplicates of test data, for
    which one of several processes is enough. Raises `ConfigError` or `DataError` for what cannot
    be used.
    """
    chosen = read_training(data, registry)
    subset, manifest = _subset(data, chosen)
    division = divide(chosen.entries, held_out, subset)
    used = _only(chosen, division.train | division.held_out)
    test = read_test(data, chosen, registry)
    dialogues = tuple(used)
    notes = _notes(used, test, dialogues if compare_texts else ())
    turns = {dialogue.id: turns_of(dialogue) for dialogue in dialogues}
    return TrainingData(
        train=tuple(turn for id_ in sorted(division.train) for turn in turns[id_]),
        held_out=tuple(turn for id_ in sorted(division.held_out) for turn in turns[id_]),
        identity=_identity(chosen, division, data.subset, manifest),
        notes=notes,
        source=dict(chosen.identity),
        test=dict(test.identity) if isinstance(test, Dialogues) else None,
    )


def _notes(used: Dialogues, test: Dialogues | str, texts: tuple[Dialogue, ...]) -> tuple[str, ...]:
    if isinstance(test, str):
        return (test,)
    notes = check_leakage(used, test, texts)
    if test.n_skipped:
        rows = "1 bad row" if test.n_skipped == 1 else f"{test.n_skipped} bad rows"
        left_out = f"{rows} of the test data could not be looked for; first: {test.skipped[0]}"
        return (*notes, left_out)
    return notes


@dataclass(frozen=True)
class Division:
    """Ids of dialogues to train on and to measure on, and of the personas kept out of training."""

    train: frozenset[str]
    held_out: frozenset[str]
    personas: frozenset[str]


def divide(
    entries: Sequence[Entry], held_out: HeldOut | None, subset: frozenset[str] | None = None
) -> Division:
    """Divide dialogues by persona; `subset` are those that may be trained on, None for all.

    Personas are held out in the order of a digest of their ids, whatever is trained on of them: the
    same ones for SFT on the easy and GRPO on the hard dialogues, and hardly others when data are
    added. Raises `ConfigError` when nothing is left to train on.
    """
    personas = sorted({entry.persona_id for entry in entries}, key=_draw)
    apart = frozenset(personas[: held_out.personas] if held_out else ())
    kept = [entry for entry in entries if entry.persona_id not in apart]
    train = frozenset(entry.id for entry in kept if subset is None or entry.id in subset)
    if not train:
        raise _nothing_left(len(personas), len(apart), len(kept))
    return Division(train, _measured(entries, apart, held_out), apart)


def _draw(persona_id: str) -> str:
    return digest(["held out", persona_id])


def _measured(
    entries: Sequence[Entry], personas: frozenset[str], held_out: HeldOut | None
) -> frozenset[str]:
    """Dialogues of `personas`, which take turns until there are enough."""
    if not personas or held_out is None:
        return frozenset()
    theirs = [Candidate(e.id, e.persona_id, e.emotion) for e in entries if e.persona_id in personas]
    return frozenset(choose(theirs, Selection(held_out.dialogues)))


def _nothing_left(personas: int, apart: int, kept: int) -> ConfigError:
    if kept:
        return ConfigError(
            f"data.subset leaves nothing to train on: none of the {kept} dialogues of personas that"
            " are not held out is in it; take another subset, or split with another pass_mark"
        )
    return ConfigError(
        f"held_out.personas keeps {apart} of {personas} personas out of training, which leaves "
        f"nothing to train on; set it to at most {personas - 1}, or give more data"
    )


def _subset(data: Data, chosen: Dialogues) -> tuple[frozenset[str] | None, str | None]:
    """The ids of `data.subset` and the digest of the manifest; None and None for all dialogues."""
    if data.subset == "all":
        return None, None
    if data.manifest is None:
        raise ConfigError(
            f"data.subset {data.subset} needs data.manifest: give the split.json that "
            "`python -m trainer split` wrote"
        )
    from trainer.split_manifest import read_split

    manifest = read_split(data.manifest)
    if manifest.dataset_fingerprint != chosen.fingerprint:
        raise DataError(
            f"{data.manifest} splits other dialogues (fingerprint {manifest.dataset_fingerprint}) "
            f"than data.dataset, data.split and data.limit choose ({chosen.fingerprint}); choose "
            "the same ones, or make it anew with `python -m trainer split`"
        )
    return manifest.ids(data.subset), manifest.digest


def _only(dialogues: Dialogues, ids: frozenset[str]) -> Dialogues:
    """A part of the chosen dialogues; `fingerprint` stays that of all."""
    return replace(dialogues, entries=[e for e in dialogues.entries if e.id in ids])


def _identity(
    chosen: Dialogues, division: Division, subset: str, manifest: str | None
) -> dict[str, object]:
    return {
        "fingerprint": chosen.fingerprint,
        "rows": {"read": chosen.rows_read, "skipped": chosen.n_skipped},
        "dialogues": {"train": len(division.train), "held_out": len(division.held_out)},
        "train": digest(sorted(division.train)),
        "held_out": digest(sorted(division.held_out)),
        "held_out_personas": digest(sorted(division.personas)),
        "personas": {"all": chosen.n_personas, "held_out": len(division.personas)},
        "subset": subset,
        "manifest": manifest,
    }
