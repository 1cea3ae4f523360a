"""What tells whether an input and this program are still what they were when it was last read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import kardiabench
from kardiabench.fingerprints import digest
from kardiabench.manifests import MANIFEST
from kardiabench.store import ANCHORS, CALIBRATION, CARDS, REPLIES, VERDICTS

SUBFOLDER = "leaderboard-v1"
#: The packages whose release decides figures or pictures, beside our own sources.
_LIBRARIES = ("numpy", "altair", "vl-convert-python")


def signature(path: Path, *, text: bool) -> str:
    """Where below a cache the state of the run or bundle at `path` is kept: `leaderboard-v1/NAME`.

    NAME is 24 hex digits of its files' sizes and times, as make has it, and of this program.
    `text` tells whether its texts go to the site. Raises `OSError` where it cannot be looked at.
    """
    states = [(file.name, *_state(file)) for file in _files(path)]
    name = digest([program(), str(path.resolve()), states, text], length=24)
    return f"{SUBFOLDER}/{name}"


@cache
def program() -> str:
    """A digest of what makes extracts and data files: sources, embedded data, libraries."""
    sources = sources_digest((Path(kardiabench.__file__).parent, Path(__file__).parent))
    return digest([sources, {name: _version(name) for name in _LIBRARIES}], length=24)


def sources_digest(packages: tuple[Path, ...]) -> str:
    """A digest of every module in `packages` and of the data that lies there (`*.jsonl`)."""
    found = hashlib.sha256()
    for package in packages:
        files = sorted(file for kind in ("*.py", "*.jsonl") for file in package.rglob(kind))
        for file in files:
            content = file.read_bytes()
            name = f"{package.name}/{file.relative_to(package).as_posix()}"
            found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


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
