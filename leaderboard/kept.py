"""Extracts and data files of earlier builds, by the state of what they were made from.

A folder for each state. A broken one is made again: nothing here is needed, it saves time.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from kardiabench.cache import default_path
from leaderboard.extract import Extract

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_EXTRACT = "extract.json"
#: Days after which a state that no build used is deleted.
_DAYS = 30


def default_folder() -> Path:
    """Beside the cache of replies and verdicts."""
    return default_path().parent / "leaderboard"


def recall(folder: Path) -> Extract | None:
    """The extract in `folder`; None where there is none that can be read."""
    try:
        extract: Extract = _adapter().validate_json((folder / _EXTRACT).read_bytes())
    except (OSError, ValueError):
        return None
    return extract


def keep(folder: Path, extract: Extract, made: Path) -> None:
    """Put `extract` and the data files below `made` into `folder`, all at once or not at all."""
    (made / _EXTRACT).write_bytes(_adapter().dump_json(extract))
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def workshop(folder: Path) -> Path:
    """A new folder beside `folder`, to make its content in."""
    made = folder.parent / f".{folder.name}-{uuid4().hex[:8]}"
    made.mkdir(parents=True)
    return made


def publish(folder: Path, site: Path) -> None:
    """Bring the data files of `folder` to `site`; those that are there already stay."""
    for file in sorted((folder / "data").rglob("*.js")):
        target = site / file.relative_to(folder)
        if not _same(file, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def tidy(root: Path, used: Iterable[Path]) -> None:
    """Note that `used` were used, and delete what no build has used for long."""
    for folder in used:
        (folder / _EXTRACT).touch()
    oldest = time.time() - _DAYS * 86_400
    for marker in root.glob(f"*/{_EXTRACT}"):
        if marker.stat().st_mtime < oldest:
            shutil.rmtree(marker.parent, ignore_errors=True)


def _same(file: Path, target: Path) -> bool:
    try:
        there = target.stat()
    except OSError:
        return False
    here = file.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


@cache
def _adapter() -> TypeAdapter[Extract]:
    from pydantic import TypeAdapter

    return TypeAdapter(Extract)
