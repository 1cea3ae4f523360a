"""Where a site is made: beside its target, whose place it takes when it is whole.

A build that breaks off leaves the site that was there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kardiabench.errors import ConfigError

#: The file by which a site of ours is known: nothing else is ever replaced.
MARKER = "leaderboard.json"


def check_target(out: Path) -> None:
    """Raise `ConfigError` unless `out` is free, empty, or a site that was built before."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is not a folder; give another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise ConfigError(
            f"{out} holds other files than a site built by kardiabench, and would be replaced; "
            "give another --out"
        )


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is deleted when it does not."""
    mark = uuid4().hex[:8]
    made, old = out.parent / f".{out.name}-{mark}", out.parent / f".{out.name}-{mark}-old"
    made.mkdir(parents=True)
    try:
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
