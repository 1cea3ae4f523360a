"""Where the text of dialogues comes from, and whether it may be shown.

The embedded sample is CC0. KardiaBench is not: CC BY-NC-ND, gated; of it, and of whatever has no
known licence, ids and figures are shown unless somebody asks for the text and answers for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from kardiabench.bundle_data import sample_dialogues
from kardiabench.bundle_redaction import SAMPLE, is_open
from kardiabench.errors import DataError
from kardiabench.manifests import Manifest
from kardiabench.plugins import load_registry
from kardiabench.records import Dialogue
from kardiabench.rows import BadRow, read_row
from leaderboard.extract import Extract

_OPEN = "CC0 1.0 (the sample that comes with kardiabench)"
_LICENCES = {
    "KardiaBench": "CC BY-NC-ND 4.0, gated: no redistribution",
    "Jhcircle/KardiaBench": "CC BY-NC-ND 4.0, gated: no redistribution",
}


def licence(manifests: Iterable[Manifest]) -> str:
    """Under what the dataset of a protocol's runs stands, in words: whatever one of them says."""
    return "; ".join(sorted({_licence(manifest) for manifest in manifests}))


def _licence(manifest: Manifest) -> str:
    if is_open(manifest):
        return _OPEN
    return _LICENCES.get(str(manifest["dataset"]["name"]), "not known to this program")


def shows_text(manifest: Manifest, *, include_text: bool) -> bool:
    """Whether the text of this run's dataset goes to the site."""
    return include_text or is_open(manifest)


def board_shows_text(extracts: Sequence[Extract], *, include_text: bool) -> bool:
    """Whether the text of a protocol's dialogues goes to the site.

    Unasked only that of the sample: each of its runs is on it, by the file's digest, and has no
    other dialogue. What a run says of its dataset is in no digest of the protocol.
    """
    if include_text:
        return True
    known = sample_dialogues()
    return all(
        is_open(extract.manifest) and all(note.id in known for note in extract.dialogues)
        for extract in extracts
    )


def dialogues_of(datasets: Iterable[str], wanted: Collection[str]) -> dict[str, Dialogue]:
    """The dialogues called `wanted` in `datasets` (names or paths), by id.

    Raises `DataError` when some are in none of them.
    """
    names = list(datasets)
    missing = set(wanted)
    found: dict[str, Dialogue] = {}
    for name in names:
        found |= _read(name, missing - found.keys())
    missing -= found.keys()
    if missing:
        raise DataError(
            f"the text of {len(missing)} dialogues (as {min(missing)}) is not in "
            f"{', '.join(names) or 'any dataset'}; name the dataset with --text-from"
        )
    return found


def _read(name: str, wanted: Collection[str]) -> dict[str, Dialogue]:
    found: dict[str, Dialogue] = {}
    if not wanted:
        return found
    for raw in load_registry().open_dataset(name).rows():
        try:
            dialogue = read_row(raw)
        except BadRow:  # no run can have used it
            continue
        if dialogue.id in wanted:
            found[dialogue.id] = dialogue
    return found


def named(manifests: Sequence[Manifest], given: Sequence[str] | None) -> list[str]:
    """Where to look for text: what the user gave, then what the runs themselves name.

    With None for `given`, that is unasked, in the sample alone.
    """
    if given is None:
        return [SAMPLE]
    own = [str(manifest["dataset"]["name"]) for manifest in manifests]
    known = [name for name in own if name == SAMPLE or name in _LICENCES]
    return list(dict.fromkeys([*given, *known]))
