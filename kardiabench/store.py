"""The run directory: a manifest, two append-only logs and a summary.

A line is handed to the operating system whole as soon as it exists, so that a killed process loses
at most the line it was writing; that torn line is cut off when the log is opened again. The last
line about a turn (and, for verdicts, a judge) is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NotRequired, Self

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError, RunError, StorageError
from kardiabench.fingerprints import digest
from kardiabench.records import GoldSource, Reply, Turn, Verdict, clean_text

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

MANIFEST, SUMMARY = "manifest.json", "summary.json"
REPLIES, VERDICTS = "replies.jsonl", "verdicts.jsonl"
#: Verdicts on the frozen anchors, like those of `VERDICTS`, and a folder of judge cards.
ANCHORS, CARDS = "anchors.jsonl", "cards"
CALIBRATION = "calibration.json"
LOCK = ".lock"
_BLOCK = 1 << 16

#: The version of the manifest's schema, docs/summary.md.
MANIFEST_VERSION = 1

Manifest = Mapping[str, Any]

_TURN_ID = re.compile(r"[^/]+/[0-9]+")
#: A log holds no NaN: a number that is not there is null.
_FINITE: ConfigDict = {"allow_inf_nan": False}


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A line of `replies.jsonl`: a reply, and what scoring needs to know of its turn, no text."""

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

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

    __pydantic_config__: ClassVar[ConfigDict] = _FINITE

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


class RunStore:
    """An open run directory, locked against other processes. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self._lock = lock_folder(path)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            self._replies = Log(path / REPLIES)
            undo.callback(self._replies.close)
            self._verdicts = Log(path / VERDICTS)
            undo.pop_all()

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
        self._verdicts.append(verdict_lines(reply, verdicts))

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest (when judges are added)."""
        self.manifest = dict(manifest)
        write_json(self.path / MANIFEST, manifest)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary."""
        write_json(self.path / SUMMARY, summary)


def verdict_lines(reply: Reply, verdicts: Sequence[Verdict]) -> bytes:
    """The lines of a log of verdicts for those on one reply."""
    name = reply_digest(reply)
    lines = [_verdicts().dump_json(StoredVerdict(name, verdict)) for verdict in verdicts]
    return b"".join(line + b"\n" for line in lines)


def create(path: Path, manifest: Manifest) -> None:
    """Make a run directory: its manifest is there before anything is spent.

    Raises `RunError` where another process has just made it: the parts of a run start together.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run directory {path} cannot be created ({error.strerror}); give another --out"
        ) from error
    lock = lock_folder(path)
    try:
        if (path / MANIFEST).exists():
            raise _in_use(path)
        write_json(path / MANIFEST, manifest)
    finally:
        lock.release()


def discard(path: Path) -> None:
    """Remove the files of a run directory, and the directory if nothing else is in it."""
    cards = [f"{CARDS}/{file.name}" for file in (path / CARDS).glob("*.json")]
    for name in (MANIFEST, REPLIES, VERDICTS, ANCHORS, SUMMARY, CALIBRATION, LOCK, *cards):
        (path / name).unlink(missing_ok=True)
    for folder in (path / CARDS, path):
        with suppress(OSError):  # something of the user's is in it
            folder.rmdir()


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
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it or start a new run") from error
    if not isinstance(manifest, dict) or "kardiabench" not in manifest:
        raise RunError(f"{file} was not written by kardiabench; give another directory")
    _check_manifest(manifest, file)
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
    adapter, file = _replies(), path / REPLIES
    for offset, line in lines_of(file):
        stored: StoredReply = _parsed(adapter, line, file, offset)
        if stored.gold_emotion not in EMOTIONS or not _TURN_ID.fullmatch(stored.reply.turn_id):
            raise _damaged(file, offset)
        yield ReplyAt(offset, stored)


def iterate_verdicts(path: Path, name: str = VERDICTS) -> Iterator[StoredVerdict]:
    """All stored verdicts in the order of writing, superseded ones too."""
    adapter, file = _verdicts(), path / name
    for offset, line in lines_of(file):
        yield _parsed(adapter, line, file, offset)


def reply_at(path: Path, offset: int) -> Reply:
    """The reply whose line begins at `offset`."""
    with (path / REPLIES).open("rb") as file:
        file.seek(offset)
        stored: StoredReply = _parsed(_replies(), file.readline(), path / REPLIES, offset)
    return stored.reply


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


class _ModelPart(TypedDict):
    name: str
    identity: dict[str, Any]


class _DimensionPart(TypedDict):
    name: str
    low: float
    high: float
    description: str


class _JudgePart(TypedDict):
    fingerprint: str
    dimensions: list[_DimensionPart]


class _ScorerPart(TypedDict):
    judges: dict[str, _JudgePart]
    weights: dict[str, float]
    missing: Literal["mask", "fail_fast", "zero"]


class _SourcePart(TypedDict):
    name: str


class _DatasetPart(TypedDict):
    turns: int


class _ProtocolPart(TypedDict):
    dataset: _DatasetPart
    scorer: _ScorerPart


class _RowsPart(TypedDict):
    skipped: int


class _ShardPart(TypedDict):
    index: int
    of: int
    dialogues: int
    turns: int


class _ManifestParts(TypedDict):
    """What is read off a manifest; it holds more."""

    config: dict[str, Any]
    model: _ModelPart
    dataset: _SourcePart
    protocol: _ProtocolPart
    protocol_id: str
    shard: NotRequired[_ShardPart]
    rows: _RowsPart


def _check_manifest(manifest: Manifest, file: Path) -> None:
    from pydantic import TypeAdapter, ValidationError

    made_by, version = manifest["kardiabench"], manifest.get("manifest_version")
    if version != MANIFEST_VERSION:
        raise RunError(
            f"{file} has schema version {version!r}, this kardiabench reads {MANIFEST_VERSION}; "
            f"use the version that made it ({made_by})"
        )
    try:
        TypeAdapter(_ManifestParts).validate_python(manifest, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{file}, {where}: {first['msg']}; restore the file or start a new run"
        ) from error
    if digest(manifest["protocol"]) != manifest["protocol_id"]:
        raise RunError(
            f"{file} was edited: its protocol is not what protocol_id "
            f"{manifest['protocol_id']} stands for; restore the file or start a new run"
        )


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
        raise _damaged(path, offset) from error


def _damaged(path: Path, offset: int) -> RunError:
    return RunError(
        f"{path}, byte {offset}: this line was changed or damaged; "
        "remove the line (its turn is then done again) or restore the file"
    )


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
        raise _in_use(path) from error
    except OSError as error:
        raise _storage_error(path, error) from error
    return lock


def _in_use(path: Path) -> RunError:
    return RunError(
        f"{path} is in use by another kardiabench process; wait for it, or use another --out"
    )


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}); what was received so far is kept: "
        "make room or mend the rights, then use `kardiabench resume`"
    )
