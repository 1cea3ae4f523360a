"""Where a site is made: beside its target, whose place it takes when it is whole.

A build that breaks off leaves the site that was there. One that is killed between taking the old
site away and putting the new one there leaves none; the next build then puts the old one back.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kardiabench.errors import ConfigError

#: The file by which a site of ours is known, and what it has to say.
MARKER = "leaderboard.json"
_SAYS = {"schema_version": int, "kardiabench": str}
#: What a host of static sites wants beside them: a user's files, which each new site keeps.
_KEPT = (".nojekyll", "CNAME")
_FILES = re.compile(
    r"(index|compare|browse|method|board-[0-9a-f]{16})\.html|feed\.xml|cite\.bib|"
    r"leaderboard\.json|leaderboard\.schema\.json|\.nojekyll|CNAME"
)
_FOLDERS = frozenset({"data", "models", "judges", "exports", "static"})
#: Seconds after which a folder that a build made is what a killed one left.
_LEFT = 3_600


def check_target(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raise `ConfigError` unless `out` is free, empty, or a site that was built before.

    Nor may it hold the working folder or one of `inputs`, which would go with what it replaces.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is not a folder; give another --out")
    inside = _inside(out, (Path.cwd(), *inputs))
    if inside is not None:
        raise ConfigError(f"{out} holds {inside}, and would be replaced; give another --out")
    if out.is_dir():
        if out.is_mount():
            raise ConfigError(
                f"{out} is a mount point and cannot be replaced; give a folder in it as --out"
            )
        _check_content(out)


def _inside(out: Path, places: Sequence[Path]) -> Path | None:
    """The first of `places` that is `out` or lies in it."""
    target = out.resolve()
    for place in places:
        whole = place.resolve()
        if target == whole or target in whole.parents:
            return place
    return None


def _check_content(out: Path) -> None:
    foreign = _foreign(out)
    if foreign is None and not _is_site(out) and not _has_only_kept(out):
        foreign = MARKER
    if foreign is not None:
        raise ConfigError(
            f"{out} holds other files than a site built by kardiabench (as {foreign}), and would "
            "be replaced; give another --out"
        )


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is deleted when it does not.

    Raises `ConfigError` when something has come into `out` meanwhile that no site has.
    """
    _mend(out)
    mark = uuid4().hex[:8]
    made, old = out.parent / f".{out.name}-{mark}", out.parent / f".{out.name}-{mark}-old"
    made.mkdir(parents=True)
    try:
        yield made
        check_target(out)
        _carry(out, made)
        _exchange(made, out, old)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _carry(out: Path, made: Path) -> None:
    """Bring the user's own files to the new site."""
    for name in _KEPT:
        if (out / name).is_file():
            shutil.copy2(out / name, made / name)


def _exchange(made: Path, out: Path, old: Path) -> None:
    """Put `made` in the place of `out`, which becomes `old`, or leave `out` as it is."""
    if out.exists():
        out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def _mend(out: Path) -> None:
    """Put back the site that a killed build took away; delete what killed builds have left."""
    left = re.compile(rf"\.{re.escape(out.name)}-[0-9a-f]{{8}}(-old)?")
    found = [
        folder
        for folder in (out.parent.iterdir() if out.parent.is_dir() else ())
        if left.fullmatch(folder.name) and _is_ours(folder)
    ]
    lost = [folder for folder in found if folder.name.endswith("-old") and _is_site(folder)]
    if lost and not out.exists():
        max(lost, key=_built).rename(out)
    for folder in found:
        if folder.exists() and folder.stat().st_mtime < time.time() - _LEFT:
            shutil.rmtree(folder, ignore_errors=True)


def _built(folder: Path) -> float:
    """When the site in `folder` was made."""
    return (folder / MARKER).stat().st_mtime


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder with nothing in it but parts of a site."""
    return folder.is_dir() and not folder.is_symlink() and _foreign(folder) is None


def _foreign(folder: Path) -> str | None:
    """The name of something directly in `folder` that no site has."""
    names = (entry.name for entry in sorted(folder.iterdir()) if not _has_place(entry))
    return next(names, None)


def _has_place(entry: Path) -> bool:
    """Whether a site has such a file or folder. It has no links: what they lead to isn't ours."""
    if entry.is_symlink():
        return False
    if entry.is_dir():
        return entry.name in _FOLDERS
    return _FILES.fullmatch(entry.name) is not None


def _has_only_kept(folder: Path) -> bool:
    return all(entry.name in _KEPT for entry in folder.iterdir())


def _is_site(folder: Path) -> bool:
    """Whether its marker is one that we write."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(
        isinstance(content.get(name), kind) for name, kind in _SAYS.items()
    )
