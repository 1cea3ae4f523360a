"""What tells whether an input is still what it was when it was last read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kardiabench
from kardiabench.fingerprints import digest
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, MANIFEST, REPLIES, VERDICTS

#: Raise it when an extract or a data file changes its content or form.
VERSION = 1


def signature(path: Path, *, text: bool) -> str:
    """A name for the state of the run or bundle at `path`: its files' sizes and times, as make has.

    `text` tells whether its texts go to the site. Raises `OSError` where it cannot be looked at.
    """
    states = [(file.name, *_state(file)) for file in _files(path)]
    return digest([VERSION, kardiabench.__version__, str(path.resolve()), states, text], length=24)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for name in (MANIFEST, REPLIES, VERDICTS, ANCHORS, CALIBRATION):
        if (path / name).exists():
            yield path / name
    yield from sorted((path / CARDS).glob("*.json"))
