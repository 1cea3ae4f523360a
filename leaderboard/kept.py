"""Extracts and data files of earlier builds, by the state of what they were made from.

A folder for each state, in a subfolder of the cache that is ours alone. A broken one is made again:
nothing here is needed, it saves time. Several builds may use one cache at once, so a folder comes
and goes by one renaming.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from kardiabench.cache import default_path
from kardiabench.errors import ConfigError, RunError
from leaderboard.extract import Extract
from leaderboard.signatures import SUBFOLDER

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_EXTRACT = "extract.json"
#: The names of states, and of folders that become states or were some.
_STATE = re.compile(r"[0-9a-f]{24}")
_LEFT = re.compile(r"\.[0-9a-f]{24}-[0-9a-f]{8}")
_DAY = 86_400
#: Seconds after which a state that no build used is deleted, and what a killed build left.
_UNUSED, _UNFINISHED = 30 * _DAY, _DAY


def default_folder() -> Path:
    """Beside the cache of replies and verdicts."""
    return default_path().parent / "leaderboard"


@contextmanager
def usable(root: Path) -> Iterator[Path]:
    """`root` where it can be written, else a temporary folder: a build goes on without a cache."""
    if _writable(root):
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="kardiabench-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def recall(folder: Path) -> Extract | None:
    """The extract in `folder`, which is in use now; None where there is none that can be read."""
    try:
        extract: Extract = _adapter().validate_json((folder / _EXTRACT).read_bytes())
    except (OSError, ValueError):
        return None
    _use(folder)
    return extract


def keep(folder: Path, extract: Extract, made: Path) -> None:
    """Put `extract` and all that is in `made` into `folder`, all at once or not at all.

    Where another build has done so meanwhile, its result stays. Raises `OSError`.
    """
    (made / _EXTRACT).write_bytes(_adapter().dump_json(extract))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(folder)
    except OSError:
        if _as_good(folder, made):
            return
        _delete(folder)
        made.rename(folder)


def workshop(folder: Path) -> Path:
    """A new folder beside `folder`, to make its content in. Raises `ConfigError`."""
    made = _aside(folder)
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"the cache {folder.parent} cannot be written ({error.strerror}); give another --cache"
        ) from error
    return made


def publish(folder: Path, site: Path) -> None:
    """Bring the data files of `folder` to `site`; those that are there already stay.

    Raises `RunError` when they are gone.
    """
    if not (folder / "data").is_dir():
        raise RunError(f"{folder} was deleted while the site was built; build it again")
    for file in sorted((folder / "data").rglob("*.js")):
        target = site / file.relative_to(folder)
        if not _same(file, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)


def tidy(root: Path, used: Iterable[Path]) -> None:
    """Note that `used` were used; delete what no build has used for long or a killed one has left.

    Only folders with a name of ours, in our subfolder of `root`, are ever deleted.
    """
    for folder in used:
        _use(folder)
    ours, now = root / SUBFOLDER, time.time()
    for folder in sorted(ours.iterdir()) if ours.is_dir() else ():
        if folder.is_symlink() or not folder.is_dir():
            continue
        if _STATE.fullmatch(folder.name) and _last_used(folder) < now - _UNUSED:
            _delete(folder)
        elif _LEFT.fullmatch(folder.name) and _last_used(folder) < now - _UNFINISHED:
            shutil.rmtree(folder, ignore_errors=True)


def _writable(root: Path) -> bool:
    try:
        (root / SUBFOLDER).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root / SUBFOLDER):
            return True
    except OSError:
        return False


def _aside(folder: Path) -> Path:
    """A free place beside `folder`; `tidy` knows such a name."""
    return folder.parent / f".{folder.name}-{uuid4().hex[:8]}"


def _delete(folder: Path) -> None:
    """Delete `folder` at once as others see it: half of it would be taken for the whole."""
    gone = _aside(folder)
    with suppress(OSError):  # another build has deleted it, or it may not be: then it stays
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _use(folder: Path) -> None:
    with suppress(OSError):  # a cache that may only be read: nothing of it will be deleted either
        (folder / _EXTRACT).touch()


def _last_used(folder: Path) -> float:
    """When it was; without an extract, when something came into it; infinity where it is gone."""
    for place in (folder / _EXTRACT, folder):
        try:
            return place.stat().st_mtime
        except OSError:
            continue
    return float("inf")


def _as_good(folder: Path, made: Path) -> bool:
    """Whether `folder` has all that `made` has."""
    return recall(folder) is not None and _files(made) <= _files(folder)


def _files(folder: Path) -> set[tuple[str, int]]:
    """Each file below `folder` and its size."""
    return {
        (file.relative_to(folder).as_posix(), file.stat().st_size)
        for file in folder.rglob("*")
        if file.is_file()
    }


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
