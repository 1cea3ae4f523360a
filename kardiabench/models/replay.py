"""`replay/FILE`: replies that were generated elsewhere, so that they can be scored here.

FILE is JSON lines (plain or gzip), or a run directory, whose `replies.jsonl` is read. A record has
`turn_id` (or `dialogue_id` and `index`), `text` (or `reply`), and may have `status`, `detail`,
`finish_reason` and `reasoning`; other keys are ignored. The last record of a turn counts.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, cast, get_args

from kardiabench.contracts import Identity, ModelOptions
from kardiabench.errors import ConfigError, PreflightError, did_you_mean
from kardiabench.models.inputs import check_arguments, parse_object
from kardiabench.records import ChatRequest, Completion, ReplyStatus, clean_text

_REPLIES = "replies.jsonl"
_GZIP_MAGIC = b"\x1f\x8b"
_STATUS_OF_FINISH: dict[str | None, ReplyStatus] = {
    "length": "truncated",
    "max_tokens": "truncated",
    "content_filter": "refused",
}


class ReplayModel:
    """Answers each turn with the reply that a file has for it.

    Only turn ids and byte offsets are held in memory. A turn that the file lacks is a completion
    with status `error` and detail `missing: …`. A line that cannot be read is an error that names
    it, or with `skip_bad_lines` is passed over (its turn is then missing). The file is opened when
    it is first needed; what is wrong with it raises `PreflightError`.
    """

    batch_size = 64
    cacheable = False  # an answer costs nothing

    def __init__(
        self, path: Path, name: str | None = None, *, skip_bad_lines: bool = False
    ) -> None:
        self.name = name or f"replay/{path}"
        self._path = path
        self._skip_bad_lines = skip_bad_lines

    @property
    def identity(self) -> Identity:
        """The file's name and the SHA-256 of its bytes, as `sha256sum` prints it."""
        return {
            "backend": "replay",
            "file": self._path.resolve().name,
            "sha256": self._opened.sha256,
            "skip_bad_lines": self._skip_bad_lines,
        }

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """The file's reply to the turn of each request."""
        return [self._complete(request.turn_id) for request in requests]

    async def preflight(self) -> None:
        """Read the file once; raise `PreflightError` unless it has a reply."""
        if not self._opened.offsets:
            raise PreflightError(
                f"{self._path} has no usable reply; write one object a line with turn_id and text"
            )

    async def aclose(self) -> None:
        """Close the file; a later request opens it again."""
        opened = self.__dict__.pop("_opened", None)
        if opened is not None:
            opened.lines.close()

    def _complete(self, turn_id: str) -> Completion:
        offset = self._opened.offsets.get(turn_id)
        if offset is None:
            return _failure(f"missing: no reply for turn {turn_id} in {self._path}")
        lines = self._opened.lines
        lines.seek(offset)
        try:
            found, completion = _read_record(lines.readline())
        except ValueError:
            found, completion = None, Completion()
        if found != turn_id:
            return _failure(f"changed: {self._path} was written to while it was replayed")
        return completion

    @cached_property
    def _opened(self) -> _Opened:
        try:
            return self._open()
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise PreflightError(
                f"cannot read the replies in {self._path} ({reason}); "
                "give a JSON lines file or a run directory after replay/"
            ) from error

    def _open(self) -> _Opened:
        path = _replies_file(self._path)
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
            raw.seek(0)
            lines = stack.enter_context(_unzipped(raw))
            offsets = dict(self._index(lines, path))
            stack.pop_all()  # all went well: the file stays open
        return _Opened(lines, offsets, sha256)

    def _index(self, lines: IO[bytes], path: Path) -> Iterator[tuple[str, int]]:
        offset = 0
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    yield _read_record(line)[0], offset
            except ValueError as error:
                # The torn last line of a run that was killed is no record at all.
                torn = path != self._path and not line.endswith(b"\n")
                if not (torn or self._skip_bad_lines):
                    raise PreflightError(_bad_line(path, number, error)) from error
            offset += len(line)


@dataclass(frozen=True)
class _Opened:
    """The open file of plain lines, and where the last record of each turn starts in it."""

    lines: IO[bytes]
    offsets: dict[str, int]
    sha256: str


def build(name: str, options: ModelOptions) -> ReplayModel:
    """The model for `replay/FILE`; the model argument `on_bad_line` is `fail` or `skip`."""
    check_arguments(name, options.extra, ["on_bad_line"])
    policy = str(options.extra.get("on_bad_line", "fail"))
    if policy not in ("fail", "skip"):
        raise ConfigError(f"{name}: on_bad_line cannot be {policy!r}; give fail or skip")
    file = name.removeprefix("replay/")
    if not file:
        raise ConfigError("replay/ needs a file; write replay/FILE.jsonl or replay/RUN_DIRECTORY")
    return ReplayModel(Path(file).expanduser(), name, skip_bad_lines=policy == "skip")


def _replies_file(path: Path) -> Path:
    file = path / _REPLIES if path.is_dir() else path
    if file.exists() and not file.is_file():
        raise PreflightError(f"{file} is no ordinary file; give a .jsonl file or a run directory")
    return file


def _unzipped(raw: IO[bytes]) -> IO[bytes]:
    """`raw` itself, or its content spooled to a temporary file where it is a gzip.

    Gzip cannot be read from an offset without reading all that stands before it.
    """
    magic = raw.read(len(_GZIP_MAGIC))
    raw.seek(0)
    if magic != _GZIP_MAGIC:
        return raw
    with ExitStack() as stack:
        plain = stack.enter_context(tempfile.TemporaryFile())
        with raw, gzip.open(raw) as unzipped:
            shutil.copyfileobj(unzipped, plain)
        plain.seek(0)
        stack.pop_all()
    return plain


def _read_record(line: bytes) -> tuple[str, Completion]:
    """The turn and the reply of one line; `ValueError` with the reason where it has none."""
    record = parse_object(line)
    if isinstance(record.get("reply"), dict):  # a line of a run directory
        record = cast("dict[str, object]", record["reply"])
    turn_id = _turn_id(record)
    finish_reason = _text(record, "finish_reason")
    status = _status(record, finish_reason)
    text = _text(record, "text")
    if text is None:
        text = _text(record, "reply")
    if text is None and status in ("ok", "truncated"):
        raise ValueError("it has neither text nor reply")
    completion = Completion(
        text=text or "",
        reasoning=_text(record, "reasoning") or "",
        finish_reason=finish_reason,
        status=status,
        detail=_text(record, "detail") or "",
        text_source="file",
    )
    return turn_id, completion


def _turn_id(record: dict[str, object]) -> str:
    turn_id = _text(record, "turn_id")
    if turn_id:
        return turn_id
    dialogue_id, index = _text(record, "dialogue_id"), record.get("index")
    if dialogue_id and isinstance(index, int) and not isinstance(index, bool):
        return f"{dialogue_id}/{index}"
    raise ValueError("it has neither turn_id nor dialogue_id with an integer index")


def _status(record: dict[str, object], finish_reason: str | None) -> ReplyStatus:
    status = _text(record, "status")
    if status is None:
        return _STATUS_OF_FINISH.get(finish_reason, "ok")
    known = get_args(ReplyStatus)
    if status not in known:
        raise ValueError(f"unknown status {status!r}, {did_you_mean(status, known)}")
    return cast("ReplyStatus", status)


def _text(record: dict[str, object], key: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")  # noqa: TRY004 (the content is wrong)
    return clean_text(value)


def _failure(detail: str) -> Completion:
    return Completion(status="error", detail=detail, text_source="file")


def _bad_line(path: Path, number: int, reason: Exception) -> str:
    return (
        f"{path}, line {number}: {reason}; correct the line, "
        "or pass it over with --model-arg on_bad_line=skip"
    )
