"""The run directory: a manifest, two append-only logs and a summary.

A line is handed to the operating system whole as soon as it exists, so that a killed process loses
at most the line it was writing; that torn line is cut off when the log is opened again. The last
line about a turn (and, for verdicts, a judge) is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kardiabench.errors import RunError, StorageError
from kardiabench.records import GoldSource, Reply, Turn, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MANIFEST, REPLIES, VERDICTS, SUMMARY = (
    "manifest.json",
    "replies.jsonl",
    "verdicts.jsonl",
    "summary.json",
)
_LOCK = ".lock"
_BLOCK = 1 << 16

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A line of `replies.jsonl`: a reply, and what scoring needs to know of its turn, no text."""

    persona_id: str
    gold_emotion: str
    gold_source: GoldSource
    reply: Reply

    @staticmethod
    def of(turn: Turn, reply: Reply) -> StoredReply:
        """The line for `reply` to `turn`."""
        return StoredReply(turn.dialogue.persona_id, turn.gold_emotion, turn.gold_source, reply)


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A line of `verdicts.jsonl`: a verdict and the `reply_digest` of the reply it is about."""

    reply_digest: str
    verdict: Verdict


def reply_digest(reply: Reply) -> str:
    """Ties a verdict to the words it judged: a later reply to the same turn has another digest."""
    content = f"{reply.status}\n{reply.text}".encode()
    return hashlib.sha256(content).hexdigest()[:12]


class Log:
    """One append-only JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise _storage_error(path, error) from error

    def append(self, lines: bytes) -> int:
        """Write whole lines, all or none of them; return the offset of the first."""
        start = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, lines)
            while written < len(lines):  # a nearly full disk takes a part
                written += os.write(self._file, lines[written:])
        except OSError as error:
            with suppress(OSError):  # a torn line would be cut at the next opening anyway
                os.ftruncate(self._file, start)
            raise _storage_error(self.path, error) from error
        return start

    def close(self) -> None:
        """Bring everything to the disk itself and release the file."""
        with suppress(OSError):  # the lines are with the operating system already
            os.fsync(self._file)
        os.close(self._file)


class RunStore:
    """An open run directory, locked against other processes. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self._lock = _lock(path)
        try:
            self._replies = Log(path / REPLIES)
            self._verdicts = Log(path / VERDICTS)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._replies.close()
        self._verdicts.close()
        self._lock.release()

    def append_reply(self, turn: Turn, reply: Reply) -> int:
        """Store a reply; return its offset for `reply_at`."""
        line = _replies().dump_json(StoredReply.of(turn, reply))
        return self._replies.append(line + b"\n")

    def append_verdicts(self, reply: Reply, verdicts: Sequence[Verdict]) -> None:
        """Store the verdicts on one reply."""
        name = reply_digest(reply)
        lines = [_verdicts().dump_json(StoredVerdict(name, verdict)) for verdict in verdicts]
        self._verdicts.append(b"".join(line + b"\n" for line in lines))

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest (when judges are added)."""
        self.manifest = dict(manifest)
        write_json(self.path / MANIFEST, manifest)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary."""
        write_json(self.path / SUMMARY, summary)


def create(path: Path, manifest: Manifest) -> None:
    """Make a run directory: its manifest is there before anything is spent."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error
    write_json(path / MANIFEST, manifest)


class ReplyAt(NamedTuple):
    """A stored reply and where its line begins."""

    offset: int
    stored: StoredReply


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run at `path`; raise `RunError` where there is none to read."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path} is not a run directory (it has no {MANIFEST}); "
            "give the directory that `kardiabench run` named"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it or start a new run") from error
    if not isinstance(manifest, dict) or "kardiabench" not in manifest:
        raise RunError(f"{file} was not written by kardiabench; give another directory")
    return manifest


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of the run at `path`; raise `RunError` when it has none yet."""
    read_manifest(path)
    try:
        summary: dict[str, Any] = json.loads((path / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} has no summary yet; finish it with: kardiabench resume {path}"
        ) from error
    return summary


def iterate_replies(path: Path) -> Iterator[ReplyAt]:
    """All stored replies in the order of writing, superseded ones too."""
    adapter = _replies()
    for offset, line in _lines(path / REPLIES):
        yield ReplyAt(offset, _parsed(adapter, line, path / REPLIES, offset))


def iterate_verdicts(path: Path) -> Iterator[StoredVerdict]:
    """All stored verdicts in the order of writing, superseded ones too."""
    adapter = _verdicts()
    for offset, line in _lines(path / VERDICTS):
        yield _parsed(adapter, line, path / VERDICTS, offset)


def reply_at(path: Path, offset: int) -> Reply:
    """The reply whose line begins at `offset`."""
    with (path / REPLIES).open("rb") as file:
        file.seek(offset)
        stored: StoredReply = _parsed(_replies(), file.readline(), path / REPLIES, offset)
    return stored.reply


def write_json(path: Path, value: object) -> None:
    """Write `value` so that readers see the old file or the new one, never a half."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
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


@cache
def _replies() -> TypeAdapter[StoredReply]:
    from pydantic import TypeAdapter

    return TypeAdapter(StoredReply)


@cache
def _verdicts() -> TypeAdapter[StoredVerdict]:
    from pydantic import TypeAdapter

    return TypeAdapter(StoredVerdict)


def _parsed(adapter: TypeAdapter[Any], line: bytes, path: Path, offset: int) -> Any:
    try:
        return adapter.validate_json(line)
    except ValueError as error:
        raise RunError(
            f"{path}, byte {offset}: this line was changed or damaged; "
            "remove the line (its turn is then done again) or restore the file"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
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
            file.truncate(0)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _storage_error(path, error) from error


def _lock(path: Path) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"{path} is in use by another kardiabench process; wait for it, or use another --out"
        ) from error
    except OSError as error:
        raise _storage_error(path, error) from error
    return lock


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}); what was received so far is kept: "
        "make room or mend the rights, then use `kardiabench resume`"
    )
