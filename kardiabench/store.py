"""The run directory: a manifest, two append-only logs and a summary.

The last line about a turn (and, for verdicts, a judge) is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError, RunError
from kardiabench.files import LOCK, Log, in_use, lines_of, lock_folder, write_json
from kardiabench.manifests import MANIFEST, Manifest, read_manifest
from kardiabench.records import GoldSource, Reply, Turn, Verdict

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

SUMMARY = "summary.json"
REPLIES, VERDICTS = "replies.jsonl", "verdicts.jsonl"
#: Verdicts on the frozen anchors, like those of `VERDICTS`, and a folder of judge cards.
ANCHORS, CARDS = "anchors.jsonl", "cards"
CALIBRATION = "calibration.json"

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
            raise in_use(path)
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
