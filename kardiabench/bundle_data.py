"""Whether a run's rows are of the data that its protocol names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from kardiabench.bundle_redaction import SAMPLE, is_open
from kardiabench.fingerprints import digest
from kardiabench.manifests import Manifest
from kardiabench.results import Results, count


class Mismatch(NamedTuple):
    """Where the rows are not of the protocol's data: what it says, and what they give."""

    where: str
    said: object
    given: object


class _Facts(NamedTuple):
    """What is known of a turn of the sample."""

    persona_id: str
    gold_emotion: str
    gold_source: str


def data_mismatches(results: Results, manifest: Manifest) -> Iterator[Mismatch]:
    """Where `results` contradict what the manifest says of the dataset; nothing where they agree.

    A run that tried every turn has exactly the protocol's dialogues, whose fingerprint is the
    digest of their ids; one that did not has no more of anything. Of the embedded sample every
    turn is known.
    """
    yield from _counted(results, manifest["protocol"])
    yield from _of_one_persona(results)
    if is_open(manifest):
        yield from _of_the_sample(results)


def _counted(results: Results, protocol: Mapping[str, Any]) -> Iterator[Mismatch]:
    data, gold = protocol["dataset"], protocol["gold_emotion"]
    dialogues = sorted({_dialogue(turn) for turn in results.turns})
    sources = count([turn.gold_source for turn in results.turns.values()])
    found = {
        "dataset.dialogues": (data["dialogues"], len(dialogues)),
        "dataset.personas": (data["personas"], len(results.persona_names)),
        **{f"gold_emotion.{kind}": (gold[kind], sources.get(kind, 0)) for kind in gold},
    }
    is_whole = len(results.turns) == data["turns"]
    for name, (said, given) in found.items():
        if given > said or (is_whole and given != said):
            yield Mismatch(f"manifest.protocol.{name}", said, given)
    if is_whole and digest(dialogues) != data["fingerprint"]:
        mark = digest(dialogues)
        yield Mismatch("manifest.protocol.dataset.fingerprint", data["fingerprint"], mark)


def _of_one_persona(results: Results) -> Iterator[Mismatch]:
    known: dict[str, str] = {}
    for turn_id, turn in results.turns.items():
        persona = known.setdefault(_dialogue(turn_id), turn.persona_id)
        if turn.persona_id != persona:
            yield Mismatch(f"turns.{turn_id}.persona_id", turn.persona_id, persona)


def _of_the_sample(results: Results) -> Iterator[Mismatch]:
    known = _sample()
    for turn_id, turn in results.turns.items():
        facts = known.get(turn_id)
        if facts is None:
            yield Mismatch(f"turns.{turn_id}", "a turn of the sample", "none that the sample has")
            continue
        for name, fact in facts._asdict().items():
            if getattr(turn, name) != fact:
                yield Mismatch(f"turns.{turn_id}.{name}", getattr(turn, name), fact)


def sample_dialogues() -> frozenset[str]:
    """The ids of the embedded sample's dialogues."""
    return frozenset(map(_dialogue, _sample()))


def _dialogue(turn_id: str) -> str:
    return turn_id.rpartition("/")[0]


@cache
def _sample() -> Mapping[str, _Facts]:
    from kardiabench.rows import read_row, turns_of
    from kardiabench.sources import open_sample

    rows = open_sample(SAMPLE, None, None).rows()
    return {
        turn.id: _Facts(turn.dialogue.persona_id, turn.gold_emotion, turn.gold_source)
        for raw in rows
        for turn in turns_of(read_row(raw))
    }
