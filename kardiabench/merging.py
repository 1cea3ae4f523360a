"""Joins the parts of a run (`--shard 1/8` to `--shard 8/8`) into the run that they are parts of.

The run directory is made beside its place and put there as a whole. Logs are copied line by line,
so that memory holds ids and never text.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kardiabench.errors import ConfigError, RunError
from kardiabench.files import LOCK, lines_of, lock_folder, write_json
from kardiabench.manifests import MANIFEST, Manifest, read_manifest
from kardiabench.results import collector_at_rest
from kardiabench.session import changes, default_directory
from kardiabench.shards import is_part, part_name, without_shard
from kardiabench.store import (
    CALIBRATION,
    CARDS,
    REPLIES,
    SUMMARY,
    VERDICTS,
    StoredVerdict,
    iterate_replies,
    iterate_verdicts,
    reply_digest,
)
from kardiabench.summary import summarise

#: Missing parts that are named.
_MOST_NAMED = 10


@dataclass(frozen=True)
class Merged:
    """A run that was put together; `notes` say what of its parts did not agree."""

    path: Path
    summary: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    path: Path
    manifest: dict[str, Any]

    @property
    def index(self) -> int:
        return int(self.manifest["shard"]["index"])

    @property
    def of(self) -> int:
        return int(self.manifest["shard"]["of"])

    @property
    def name(self) -> str:
        return part_name(self.manifest["shard"])


def merge(paths: Sequence[Path], out: Path | None = None) -> Merged:
    """Join the parts at `paths`, in any order, into `out` (by default where the run would be).

    Raises `RunError` unless they are all the parts of one run, each once and used by nobody, that
    share no turn. The parts stay as they are.
    """
    parts = _read_parts(paths)
    manifest = _whole_manifest(parts)
    place = out or default_directory(manifest)
    _check_place(place)
    with _held(parts), _made_beside(place) as folder:
        write_json(folder / MANIFEST, manifest)
        with collector_at_rest():
            _copy_logs(parts, folder)
        notes = _copy_instruments(parts, folder)
        summary = summarise(folder, manifest)
        write_json(folder / SUMMARY, summary)
    return Merged(place, summary, (*notes, *_version_notes(parts)))


def _read_parts(paths: Sequence[Path]) -> list[_Part]:
    """The parts in their order."""
    parts = [_read_part(path) for path in paths]
    _check_one_run(parts)
    _check_all_there(parts)
    return sorted(parts, key=lambda part: part.index)


def _read_part(path: Path) -> _Part:
    manifest = read_manifest(path)
    if not is_part(manifest):
        raise RunError(f"{path} is a whole run; give runs that were made with --shard")
    part = _Part(path, manifest)
    if not 1 <= part.index <= part.of:
        raise RunError(f"{path / MANIFEST}: there is no {part.name}; restore the file")
    return part


def _check_one_run(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        changed = changes(without_shard(first.manifest), without_shard(part.manifest))
        if not changed and part.of != first.of:
            changed = f"it is {part.name}, the other {first.name}"
        if changed:
            raise RunError(
                f"{part.path} is of another run than {first.path} ({changed}); "
                "give the parts of one run"
            )


def _check_all_there(parts: Sequence[_Part]) -> None:
    twice = [index for index, number in Counter(part.index for part in parts).items() if number > 1]
    if twice:
        found = [part for part in parts if part.index == min(twice)]
        where = " and ".join(str(part.path) for part in found[:2])
        raise RunError(f"{found[0].name} is there twice: {where}; give each part once")
    of = parts[0].of
    missing = sorted(set(range(1, of + 1)) - {part.index for part in parts})
    if missing:
        named = ", ".join(map(str, missing[:_MOST_NAMED])) + (", …" * (len(missing) > _MOST_NAMED))
        what = f"part {named} of {of} is" if len(missing) == 1 else f"parts {named} of {of} are"
        raise RunError(f"{what} missing; give all parts, made with --shard {missing[0]}/{of}")


def _whole_manifest(parts: Sequence[_Part]) -> dict[str, Any]:
    """That of the whole run, begun when the first part was; its environment is the first one's."""
    created = min(str(part.manifest.get("created", "")) for part in parts)
    return without_shard(parts[0].manifest) | {"created": created}


def _check_place(place: Path) -> None:
    try:
        taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    except OSError as error:
        raise ConfigError(f"--out {place} cannot be read ({error.strerror})") from error
    if taken:
        raise RunError(f"{place} is there already; give a new --out")


@contextmanager
def _held(parts: Sequence[_Part]) -> Iterator[None]:
    """Hold all parts against other processes; `RunError` where one has a part."""
    with ExitStack() as locks:
        for part in parts:
            if os.access(part.path, os.W_OK):  # else nobody writes there
                locks.callback(_lock(part.path).release)
        yield


def _lock(path: Path) -> Any:
    try:
        return lock_folder(path)
    except RunError as error:
        raise RunError(
            f"{path} is in use by another kardiabench process; merge when it is done"
        ) from error


@contextmanager
def _made_beside(place: Path) -> Iterator[Path]:
    """A folder that takes its place when all went well, and is removed when not."""
    target = place.resolve()
    folder = target.with_name(f".{target.name}.merging")
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        _clear(folder)  # what a killed process left
        yield folder
        folder.replace(target)  # the lock goes with it: an empty file that every run has
    except BaseException:
        _clear(folder)
        (folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise
    finally:
        lock.release()


def _clear(folder: Path) -> None:
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        elif inner.name != LOCK:
            inner.unlink()


def _copy_logs(parts: Sequence[_Part], folder: Path) -> None:
    """The lines that count, those of the parts one after another."""
    places: dict[str, int] = {}
    with (folder / REPLIES).open("wb") as replies, (folder / VERDICTS).open("wb") as verdicts:
        for part in parts:
            digests = _copy_replies(part, replies)
            _check_no_clash(parts, part, digests, places)
            _copy_verdicts(part, digests, verdicts)
        for file in (replies, verdicts):
            file.flush()
            os.fsync(file.fileno())


def _copy_replies(part: _Part, to: BinaryIO) -> dict[str, str]:
    """Copy the last reply to each turn; their digests by turn."""
    last, digests = {}, {}
    for offset, stored in iterate_replies(part.path):
        last[stored.reply.turn_id] = offset
        digests[stored.reply.turn_id] = reply_digest(stored.reply)
    planned = part.manifest["shard"]["turns"]
    if len(last) > planned:
        raise RunError(
            f"{part.path} holds replies to {len(last)} turns, and its part of the dataset has "
            f"{planned}: its logs were edited; restore them, or make this part again"
        )
    _copy_lines(part.path / REPLIES, set(last.values()), to)
    return digests


def _check_no_clash(
    parts: Sequence[_Part], part: _Part, turns: Mapping[str, Any], places: dict[str, int]
) -> None:
    """Raise `RunError` for a turn of `part` that is in an earlier one; note its turns if not."""
    for turn in turns:
        other = places.setdefault(turn, part.index)
        if other != part.index:
            raise RunError(
                f"turn {turn} is both in {parts[other - 1].path} and in {part.path}: the rows of "
                "the dataset were not in the same order for both; make one of these parts again"
            )


def _copy_verdicts(part: _Part, digests: Mapping[str, str], to: BinaryIO) -> None:
    """Copy the last verdict of each of the run's judges on each reply that was kept."""
    judges = part.manifest["protocol"]["scorer"]["judges"]
    marks = {name: judge["fingerprint"] for name, judge in judges.items()}
    log, last = part.path / VERDICTS, {}
    for (offset, _), line in zip(lines_of(log), iterate_verdicts(part.path), strict=True):
        if _counts(line, digests, marks):
            last[line.verdict.turn_id, line.verdict.judge] = offset
    _copy_lines(log, set(last.values()), to)


def _counts(line: StoredVerdict, digests: Mapping[str, str], marks: Mapping[str, str]) -> bool:
    verdict = line.verdict
    is_of_reply = digests.get(verdict.turn_id) == line.reply_digest
    return is_of_reply and marks.get(verdict.judge) == verdict.fingerprint


def _copy_lines(log: Path, offsets: set[int], to: BinaryIO) -> None:
    for offset, line in lines_of(log):
        if offset in offsets:
            to.write(line)


def _copy_instruments(parts: Sequence[_Part], folder: Path) -> list[str]:
    """Copy judge cards and calibration; a note for each that is not the same in all parts."""
    cards = {f"{CARDS}/{card.name}" for part in parts for card in _cards(part)}
    notes = []
    for name in (*sorted(cards), CALIBRATION):
        found = {_content(part.path / name) for part in parts} - {None}
        if len(found) > 1:
            notes.append(f"{name} is not the same in all parts: left out")
        for content in found if len(found) == 1 else ():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content or b"")
    return notes


def _cards(part: _Part) -> list[Path]:
    return sorted((part.path / CARDS).glob("*.json"))


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _version_notes(parts: Sequence[_Part]) -> Iterator[str]:
    """A note for each package of which the parts were made with different versions."""
    versions = [_versions(part.manifest) for part in parts]
    for package in sorted(set().union(*versions)):
        found = dict.fromkeys(str(one.get(package)) for one in versions)
        if len(found) > 1:
            yield f"the parts were made with different versions of {package}: {', '.join(found)}"


def _versions(manifest: Manifest) -> dict[str, Any]:
    packages = manifest.get("environment", {}).get("packages", {})
    return {"kardiabench": manifest["kardiabench"], **packages}
