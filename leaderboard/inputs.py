"""The runs and bundles that a site is built from: found, opened, and what is broken named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kardiabench.bundle import SUFFIX, read_bundle
from kardiabench.bundle_check import differences
from kardiabench.bundle_redaction import public_manifest, public_value
from kardiabench.calibration import kept_calibration
from kardiabench.cards import kept_card
from kardiabench.drift import instruments
from kardiabench.errors import ConfigError, RunError
from kardiabench.results import Results, read_results
from kardiabench.store import MANIFEST, Manifest, read_manifest
from kardiabench.summary import check_turns, summary_of

#: How deep runs are looked for in a folder of theirs.
_DEPTH = 3


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
    return _open_run(path) if path.is_dir() else _open_bundle(path)


def _open_run(path: Path) -> Opened:
    manifest = read_manifest(path)
    results = read_results(path, manifest)
    check_turns(results, manifest, path)
    found = instruments(path, manifest, results.dimensions)
    public = public_manifest(manifest)
    summary = summary_of(results, public, found, kept_calibration(path))
    return Opened(path, False, public, results, summary, _cards(path, manifest))


def _cards(path: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    judges = manifest["protocol"]["scorer"]["judges"]
    found = {name: kept_card(path, name, judge["fingerprint"]) for name, judge in judges.items()}
    return {name: public_value(card) for name, card in found.items() if card is not None}


def _open_bundle(path: Path) -> Opened:
    bundle = read_bundle(path)
    wrong = list(differences(bundle))
    if wrong:
        raise RunError(
            f"{path} was edited: its {wrong[0].where} is not what its rows give "
            f"({len(wrong)} in all); see: kardiabench submit verify {path}"
        )
    summary = bundle.summarise()
    return Opened(path, True, bundle.manifest, bundle.results, summary, dict(bundle.cards))


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
    if (path / MANIFEST).is_file() or (path.is_file() and (named or path.name.endswith(SUFFIX))):
        yield path
    elif path.is_dir() and depth:
        for inner in sorted(path.iterdir()):
            yield from _inputs(inner, depth - 1)
