"""Files that survive a kill: append-only logs, JSON that is whole or old, a lock on a folder.

A line is handed to the operating system whole as soon as it exists, so that a killed process loses
at most the line it was writing; that torn line is cut off when the log is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from kardiabench.errors import RunError, StorageError
from kardiabench.records import clean_text

LOCK = ".lock"
_BLOCK = 1 << 16


class Log:
    """One append-only JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Why a torn line is at the end, if so: nothing may be written behind it.
        self._torn: OSError | None = None
        _cut_torn_line(path)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise _storage_error(path, error) from error

    def append(self, lines: bytes) -> int:
        """Write whole lines, all or none of them; return the offset of the first."""
        if self._torn is not None:
            raise _storage_error(self.path, self._torn)
        start = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, lines)
            while written < len(lines):  # a nearly full disk takes a part
                written += os.write(self._file, lines[written:])
        except OSError as error:
            self._undo(start, error)
            raise _storage_error(self.path, error) from error
        return start

    def _undo(self, start: int, why: OSError) -> None:
        try:
            os.ftruncate(self._file, start)
        except OSError:  # the next opening cuts the torn line
            self._torn = why

    def close(self) -> None:
        """Bring everything to the disk itself and release the file."""
        with suppress(OSError):  # the lines are with the operating system already
            os.fsync(self._file)
        os.close(self._file)


def write_json(path: Path, value: object) -> None:
    """Write `value` so that readers see the old file or the new one, never a half.

    Raises `RunError` for what JSON cannot hold: a number that is not finite, a date, a set.
    """
    text = _json_text(path, value)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _storage_error(path, error) from error


def _json_text(path: Path, value: object) -> str:
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{path} cannot be written: {error}; give options that JSON can hold "
            "(text, finite numbers, true, false, lists)"
        ) from error
    return clean_text(text) + "\n"


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a log with their offsets; none where there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # a run that was stopped before its first reply
        return
    with file:
        offset = 0
        for line in file:
            if line.endswith(b"\n"):  # else another process is writing it just now
                yield offset, line
            offset += len(line)


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last line break: the line that a killed process was writing."""
    try:
        with path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            position = end
            while position > 0:
                start = max(0, position - _BLOCK)
                file.seek(start)
                found = file.read(position - start).rfind(b"\n")
                if found >= 0:
                    if start + found + 1 < end:
                        file.truncate(start + found + 1)
                    return
                position = start
            if end:
                file.truncate(0)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _storage_error(path, error) from error


def lock_folder(path: Path) -> Any:
    """Hold the folder for this process; raise `RunError` when another has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise in_use(path) from error
    except OSError as error:
        raise _storage_error(path, error) from error
    return lock


def in_use(path: Path) -> RunError:
    """The sentence for a folder that another process has."""
    return RunError(
        f"{path} is in use by another kardiabench process; wait for it, or give another folder"
    )


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}); what was received so far is kept: "
        "make room or mend the rights, then give the same command again"
    )
