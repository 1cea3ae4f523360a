"""Inputs to extracts: several at a time, each only when it is not what it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kardiabench.errors import KardiaBenchError, StorageError
from leaderboard import kept
from leaderboard.aside import Aside
from leaderboard.extract import Extract
from leaderboard.signatures import signature
from leaderboard.turn_scores import there
from leaderboard.workers import pool

#: What reading files of strangers may raise where a check of ours is missing. Not a full disk.
FAULTS = (
    ArithmeticError, AttributeError, AssertionError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """An input that can be shown: its extract, and the folder of its data files."""

    path: Path
    extract: Extract
    folder: Path


@dataclass(frozen=True)
class Broken:
    """An input that cannot be shown, and why."""

    path: Path
    why: str


Processed = Ready | Broken


def process(
    paths: Sequence[Path],
    cache: Path,
    *,
    include_text: bool,
    done: Callable[[], None],
    workers: int | None = None,
    aside: Aside | None = None,
) -> list[Processed]:
    """Process `paths`, in that order, with `workers` processes (else one a core).

    A single input is read in this process, and its pictures are drawn by `aside`.
    """
    found: dict[Path, Processed] = {}
    todo = []
    for path in paths:
        known = _known(path, cache, include_text)
        if known is None:
            todo.append(path)
        else:
            found[path] = known
            done()
    for processed in _made(todo, cache, include_text, workers, aside):
        found[processed.path] = processed
        done()
    return [found[path] for path in paths]


def _known(path: Path, cache: Path, include_text: bool) -> Ready | None:
    """What an earlier build has kept of an input that is as it was then."""
    folder = _folder(path, cache, include_text)
    extract = None if folder is None else kept.recall(folder)
    if folder is None or extract is None or not there(folder):
        return None
    return Ready(path, extract, folder)


def _made(
    paths: Sequence[Path],
    cache: Path,
    include_text: bool,
    workers: int | None,
    aside: Aside | None,
) -> Iterator[Processed]:
    make = partial(_make, cache=cache, include_text=include_text)
    number = min(workers or os.cpu_count() or 1, len(paths))
    if number < 2:
        yield from (make(path, aside=aside) for path in paths)
        return
    with pool(number) as workers_of_ours:
        try:
            yield from workers_of_ours.map(make, paths)
        except BrokenProcessPool as error:
            raise StorageError(
                "a process that read runs was killed, probably for want of memory; "
                "build again with --workers 1 (what was read is kept)"
            ) from error


def _make(path: Path, cache: Path, include_text: bool, aside: Aside | None = None) -> Processed:
    folder = _folder(path, cache, include_text)
    if folder is None:
        return Broken(path, "it is gone or cannot be read")
    from leaderboard.extraction import extract_input  # a build of known runs needs no pictures

    made = kept.workshop(folder)
    try:
        extract = extract_input(path, made, include_text=include_text, aside=aside)
        kept.keep(folder, extract, made)
    except KardiaBenchError as error:
        return Broken(path, str(error))
    except FAULTS as error:  # a manifest or log that is like none of ours: one run, not the site
        what = f"{type(error).__name__}: {error}"[:200]
        return Broken(path, f"it cannot be read ({what}); restore it, or pack it again")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Ready(path, extract, folder)


def _folder(path: Path, cache: Path, include_text: bool) -> Path | None:
    try:
        return cache / signature(path, text=include_text)
    except OSError:
        return None
