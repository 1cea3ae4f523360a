"""Where the text of dialogues comes from, and whether it may be shown.

The embedded sample is CC0. KardiaBench is not: CC BY-NC-ND, gated; of it, and of whatever has no
known licence, ids and figures are shown unless somebody asks for the text and answers for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from kardiabench.bundle_redaction import is_open
from kardiabench.errors import DataError
from kardiabench.plugins import load_registry
from kardiabench.records import Dialogue
from kardiabench.rows import BadRow, read_row
from kardiabench.store import Manifest

SAMPLE = "sample"
_LICENCES = {
    SAMPLE: "CC0 1.0 (the sample that comes with kardiabench)",
    "KardiaBench": "CC BY-NC-ND 4.0, gated: no redistribution",
    "Jhcircle/KardiaBench": "CC BY-NC-ND 4.0, gated: no redistribution",
}


def licence(manifest: Manifest) -> str:
    """Under what the dataset of a run stands, in words."""
    return _LICENCES.get(str(manifest["dataset"]["name"]), "not known to this program")


def shows_text(manifest: Manifest, *, include_text: bool) -> bool:
    """Whether the text of this run's dataset goes to the site."""
    return include_text or is_open(manifest)


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


def named(manifests: Sequence[Manifest], given: Sequence[str]) -> list[str]:
    """Where to look for text: what the user gave, then what the runs themselves name."""
    own = [str(manifest["dataset"]["name"]) for manifest in manifests]
    known = [name for name in own if name in _LICENCES]
    return list(dict.fromkeys([*given, *known]))
