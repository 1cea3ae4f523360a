"""The runs and bundles that a site is built from: found, opened, and what is broken named."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kardiabench.bundle import SUFFIX, read_bundle
from kardiabench.bundle_cards import public_card
from kardiabench.bundle_check import Difference, differences
from kardiabench.bundle_data import data_mismatches
from kardiabench.bundle_redaction import checked_manifest, refuse_private_protocol
from kardiabench.bundle_rows import is_turn_id, out_of_bounds, token
from kardiabench.bundle_schema import is_word
from kardiabench.calibration import kept_calibration
from kardiabench.cards import kept_card
from kardiabench.drift import instruments
from kardiabench.errors import ConfigError, RunError
from kardiabench.manifests import MANIFEST, read_manifest
from kardiabench.redaction import known_secrets
from kardiabench.results import Results, read_results
from kardiabench.shards import refuse_part
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, REPLIES, VERDICTS
from kardiabench.summary import check_turns, summary_of

#: How deep runs are looked for in a folder of theirs.
_DEPTH = 3
#: No fault of an input: the machine has no room for any.
_OF_THE_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


@dataclass(frozen=True)
class Opened:
    """A run or a bundle, read. `manifest` is as it may be shown; `cards` are files by judge."""

    path: Path
    packed: bool
    manifest: dict[str, Any]
    results: Results
    summary: dict[str, Any]
    cards: dict[str, dict[str, Any]]


def open_input(path: Path) -> Opened:
    """Read the run or bundle at `path`; raises a `KardiaBenchError` that says what is wrong.

    Whatever a summary says, its figures are computed again; a bundle whose own differ is refused.
    """
    try:
        return _open_run(path) if path.is_dir() else _open_bundle(path)
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise RunError(f"{path} cannot be read ({error}); restore it, or pack it again") from error


# --- run directories ------------------------------------------------------------------------------


def _open_run(path: Path) -> Opened:
    """The run at `path`, held to what a bundle of it would be held to."""
    _check_files(path)
    secrets = known_secrets()
    private = read_manifest(path)
    refuse_part(path, private)
    refuse_private_protocol(private, secrets, allow_paths=False)
    manifest = checked_manifest(path, private, secrets)
    results = _plain(read_results(path, manifest))
    check_turns(results, manifest, path)
    _check_rows(path, results)
    _refuse(path, [Difference(*one) for one in data_mismatches(results, manifest)])
    found = instruments(path, manifest, results.dimensions)
    cards = _cards(path, manifest, secrets)
    summary = summary_of(results, manifest, _noted(found, cards), kept_calibration(path))
    return Opened(path, False, manifest, results, summary, cards)


def _check_files(path: Path) -> None:
    """Raise `RunError` for a folder or a pipe in the place of a file: it would be waited for."""
    names = (MANIFEST, REPLIES, VERDICTS, ANCHORS, CALIBRATION)
    for file in (*(path / name for name in names), *sorted((path / CARDS).glob("*.json"))):
        if file.exists() and not file.is_file():
            raise RunError(f"{file} is no file; restore it or start a new run")


def _plain(results: Results) -> Results:
    """The results without an error's own words: they may quote the prompt."""
    for turn in results.turns.values():
        if turn.error_kind:
            turn.error_kind = token(turn.error_kind) or ""
    return results


def _check_rows(path: Path, results: Results) -> None:
    """Raise `RunError` for ids that are no words, for scores and figures out of their range."""
    for turn_id, turn in results.turns.items():
        if not is_turn_id(turn_id) or not is_word(turn.persona_id):
            raise _edited(path, "an id of a turn or a persona is no id")
        beyond = out_of_bounds(turn)
        if beyond is not None:
            raise _edited(path, f"turns.{turn_id}.{beyond} is out of its range")
    for judge, dimensions in results.dimensions.items():
        for place, dimension in enumerate(dimensions):
            scores = results.column(judge, place)
            if ((scores < dimension.low) | (scores > dimension.high)).any():
                raise _edited(path, f"a score of {judge}.{dimension.name} is out of its range")


def _edited(path: Path, why: str) -> RunError:
    return RunError(f"{path} was edited: {why}; restore its logs or start a new run")


def _cards(
    path: Path, manifest: Mapping[str, Any], secrets: Sequence[str]
) -> dict[str, dict[str, Any]]:
    judges = manifest["protocol"]["scorer"]["judges"]
    found = {name: kept_card(path, name, judge["fingerprint"]) for name, judge in judges.items()}
    return {
        name: public_card(card, name, judges[name], secrets)
        for name, card in found.items()
        if card is not None
    }


def _noted(
    found: Mapping[str, Mapping[str, Any]], cards: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """`found` with the findings that are published, where it quotes a card."""
    return {judge: _note(dict(parts), cards.get(judge)) for judge, parts in found.items()}


def _note(parts: dict[str, Any], card: Mapping[str, Any] | None) -> dict[str, Any]:
    note = parts["card"]
    if note is None or note["findings"] is None or card is None:
        return parts
    return parts | {"card": note | {"findings": card.get("check", {}).get("findings")}}


# --- bundles --------------------------------------------------------------------------------------


def _open_bundle(path: Path) -> Opened:
    bundle, secrets = read_bundle(path), known_secrets()
    refuse_private_protocol(bundle.manifest, secrets, allow_paths=True)
    _refuse(path, list(differences(bundle)))
    judges = bundle.manifest["protocol"]["scorer"]["judges"]
    cards = {
        name: public_card(card, name, judges[name], secrets) for name, card in bundle.cards.items()
    }
    summary = summary_of(
        bundle.results, bundle.manifest, _noted(bundle.found, cards), bundle.calibration
    )
    return Opened(path, True, bundle.manifest, bundle.results, summary, cards)


def _refuse(path: Path, wrong: Sequence[Difference]) -> None:
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        what = f"kardiabench submit verify {path}" if path.is_file() else "its manifest and logs"
        raise RunError(f"{path} was edited: {wrong[0]}{more}; see: {what}")


# --- where they are -------------------------------------------------------------------------------


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs and bundles at or below `paths`, each once, in the order given and then by name.

    Raises `ConfigError` for a path with nothing there.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inputs = list(_inputs(path))
        if not inputs:
            raise ConfigError(
                f"{path} holds no run and no bundle; give directories that `kardiabench run` made, "
                "bundles of `kardiabench submit pack`, or folders of them"
            )
        found |= {one.resolve(): one for one in inputs if one.resolve() not in found}
    return list(found.values())


def _inputs(path: Path, depth: int = _DEPTH) -> Iterator[Path]:
    named = depth == _DEPTH  # a file that the user gave: what is wrong with it is told later
    try:
        is_run, is_file = (path / MANIFEST).is_file(), path.is_file()
        inside = sorted(path.iterdir()) if path.is_dir() and depth and not is_run else []
    except OSError:  # a folder that may not be looked into: named when it is to be read
        yield path
        return
    if is_run or (is_file and (named or path.name.endswith(SUFFIX))):
        yield path
    for inner in inside:
        yield from _inputs(inner, depth - 1)
