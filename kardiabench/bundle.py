"""Bundles: a run as one file to hand in, without any text of its dataset. See docs/submit.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kardiabench.bundle_archive import SUFFIX, TEXTS, TURNS, Archive, brief, opened
from kardiabench.bundle_redaction import public_manifest, run_id
from kardiabench.bundle_rows import BadRow, TurnNote, TurnText, read_text, read_turn
from kardiabench.bundle_schema import BadMember, check_manifest, strict_json
from kardiabench.calibration import kept_calibration
from kardiabench.drift import instruments
from kardiabench.errors import ConfigError, RunError
from kardiabench.manifests import MANIFEST, Manifest
from kardiabench.results import (
    Results,
    TurnResult,
    collector_at_rest,
    judges_of,
    results_of,
    turn_order,
)
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, SUMMARY
from kardiabench.summary import check_turns, summary_of

__all__ = ["SUFFIX", "Bundle", "read_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read.

    `manifest` is the public one; `summary` is as it was packed, to be compared and not to be
    trusted: `summarise` recomputes it. `notes` are by turn. `found` has `card` and `drift` of every
    judge as in a summary, `cards` the whole judge cards. `kardiabench` is the version that packed
    it; `left_out` says in words what it lacks; `has_texts` whether replies and evidence are there.
    """

    path: Path
    run_id: str
    kardiabench: str
    manifest: dict[str, Any]
    summary: dict[str, Any]
    results: Results = field(repr=False)
    notes: Mapping[str, TurnNote] = field(repr=False)
    found: Mapping[str, Mapping[str, Any]] = field(repr=False)
    cards: Mapping[str, dict[str, Any]] = field(repr=False)
    calibration: dict[str, Any] | None = field(repr=False)
    left_out: tuple[str, ...]
    has_texts: bool

    def summarise(self) -> dict[str, Any]:
        """The summary of its rows, by the code that makes a run's own."""
        return summary_of(self.results, self.manifest, self.found, self.calibration)

    def texts(self) -> Iterator[TurnText]:
        """The texts of its turns in the canonical order; none in a bundle without replies.

        Raises `RunError` for a line that is none.
        """
        if self.has_texts:
            with opened(self.path) as archive:
                yield from _texts(archive, self.results.turns)


def read_bundle(path: str | Path) -> Bundle:
    """The bundle at `path`; raise `RunError` for whatever is wrong with it."""
    path = Path(path)
    with opened(path) as archive, collector_at_rest():
        index = archive.index()
        manifest = _manifest(archive)
        if run_id(manifest) != index["run_id"]:
            raise archive.bad(MANIFEST, "its model and time are not what run_id stands for")
        results, notes = _turns(archive, manifest)
        check_turns(results, manifest, path)
        cards = _cards(archive, manifest)
        with _unpacked(archive, cards) as folder:
            found = instruments(folder, manifest, results.dimensions)
            calibration = kept_calibration(folder)
        return Bundle(
            path=path,
            run_id=index["run_id"],
            kardiabench=index["kardiabench"],
            manifest=manifest,
            summary=archive.json(SUMMARY),
            results=results,
            notes=notes,
            found=found,
            cards=cards,
            calibration=calibration,
            left_out=tuple(index["left_out"]),
            has_texts=TEXTS in archive.members,
        )


def _manifest(archive: Archive) -> dict[str, Any]:
    manifest = archive.json(MANIFEST)
    try:
        check_manifest(manifest)
    except BadMember as error:
        raise archive.bad(MANIFEST, str(error)) from error
    return public_manifest(manifest)


def _turns(archive: Archive, manifest: Manifest) -> tuple[Results, dict[str, TurnNote]]:
    dimensions = judges_of(manifest)
    turns: dict[str, TurnResult] = {}
    notes: dict[str, TurnNote] = {}
    last = ("", -1)
    for where, line in archive.lines(TURNS):
        try:
            name, turn, notes[name] = read_turn(line, dimensions)
        except BadRow as error:
            raise archive.bad(where, str(error)) from error
        if turn_order(name) <= last:
            raise archive.bad(where, f"{name} is there twice or out of order")
        last, turns[name] = turn_order(name), turn
    return results_of(turns, manifest), notes


def _texts(archive: Archive, turns: Mapping[str, TurnResult]) -> Iterator[TurnText]:
    last = ("", -1)
    for where, line in archive.lines(TEXTS):
        try:
            text = read_text(line)
        except BadRow as error:
            raise archive.bad(where, str(error)) from error
        order = turn_order(text.turn_id)
        if text.turn_id not in turns or order <= last:
            why = f"{text.turn_id} is there twice, out of order or not in {TURNS}"
            raise archive.bad(where, why)
        last = order
        yield text


def _cards(archive: Archive, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The judge cards by judge, each of a judge of the run."""
    judges = manifest["protocol"]["scorer"]["judges"]
    cards = {}
    for member in sorted(name for name in archive.members if name.startswith(f"{CARDS}/")):
        judge, card = member.removeprefix(f"{CARDS}/").removesuffix(".json"), archive.json(member)
        if judge not in judges or card.get("fingerprint") != judges[judge]["fingerprint"]:
            raise archive.bad(member, "it is the card of no judge of the run")
        cards[judge] = card
    return cards


@contextmanager
def _unpacked(archive: Archive, cards: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with the anchors, cards and calibration, for those who read run directories."""
    with TemporaryDirectory(prefix="kardiabench-") as name:
        folder = Path(name)
        (folder / CARDS).mkdir()
        for member in (*(f"{CARDS}/{judge}.json" for judge in cards), CALIBRATION, ANCHORS):
            if member in archive.members:
                _check_numbers(archive, member)
                (folder / member).write_bytes(archive.read(member))
        try:
            yield folder
        except (RunError, ConfigError) as error:
            raise archive.bad("", str(error).replace(f"{folder}/", "")) from error
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            why = f"a judge card or the calibration holds what it may not ({brief(error)})"
            raise archive.bad("", why) from error


def _check_numbers(archive: Archive, member: str) -> None:
    if member != ANCHORS:
        archive.json(member)
        return
    for where, line in archive.lines(member):
        try:
            strict_json(line)
        except BadMember as error:
            raise archive.bad(where, str(error)) from error
