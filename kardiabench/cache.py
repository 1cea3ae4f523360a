"""Replies and verdicts by content, in one SQLite file that processes share safely."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kardiabench.contracts import ChatModel
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import digest
from kardiabench.records import ChatRequest, Completion, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Seconds to wait for another process that is writing.
_PATIENCE = 10.0
_Record = TypeVar("_Record")
_SCHEMA = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"


def default_path() -> Path:
    """`$KARDIABENCH_CACHE`, else `kardiabench/cache-v1.sqlite` in the user's cache folder."""
    own = os.environ.get("KARDIABENCH_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kardiabench" / "cache-v1.sqlite"


def request_key(model: ChatModel, request: ChatRequest) -> str:
    """A digest of everything that decides the completion: model, endpoint, decoding, request."""
    return "r:" + digest(
        [
            dict(model.identity),
            getattr(model, "endpoint", None),
            # A backend may answer by turn (replies from a file) or by persona (a baseline).
            [request.turn_id, request.persona_id],
            [[message.role, message.content] for message in request.messages],
            request.sample,
            request.json_schema,
            *(["guided_spans"] if request.guided_spans else []),
        ],
        length=32,
    )


class Cache:
    """A key-value store of completions and verdicts that succeeded.

    Failures and truncated replies are refused by `put_completion`. A cache that stops working (a
    full disk, another process that holds it for long) says so once and is left out from then on:
    it only ever saves money.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the cache {path} cannot be used ({error}); delete it, name another in "
                "KARDIABENCH_CACHE, or run with --no-cache"
            ) from error
        self._works = True

    def get_completion(self, key: str) -> Completion | None:
        """The stored completion, or None."""
        return _read(self._completions, self._get(key))

    def put_completion(self, key: str, completion: Completion) -> None:
        """Store `completion` if it is whole and went well."""
        if completion.status == "ok":
            self._put(key, self._completions.dump_json(completion))

    def get_verdict(self, key: str) -> Verdict | None:
        """The stored verdict, or None."""
        return _read(self._verdicts, self._get(f"v:{key}"))

    def put_verdict(self, key: str, verdict: Verdict) -> None:
        """Store `verdict` if it is a judgement."""
        if verdict.status == "ok":
            self._put(f"v:{key}", self._verdicts.dump_json(verdict))

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    @cached_property
    def _completions(self) -> TypeAdapter[Completion]:
        from pydantic import TypeAdapter

        return TypeAdapter(Completion)

    @cached_property
    def _verdicts(self) -> TypeAdapter[Verdict]:
        from pydantic import TypeAdapter

        return TypeAdapter(Verdict)

    def _get(self, key: str) -> bytes | None:
        if not self._works:
            return None
        try:
            row = self._database.execute("SELECT value FROM entries WHERE key=?", [key]).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return None if row is None else row[0]

    def _put(self, key: str, value: bytes) -> None:
        if not self._works:
            return
        try:
            self._database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", [key, value])
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        self._works = False
        sys.stderr.write(
            f"warning: the cache {self.path} stopped working ({error}); going on without it\n"
        )


def _opened(path: Path) -> sqlite3.Connection:
    # Judges may be asked in a thread of their own (the trainer's); SQLite itself is thread-safe.
    database = sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(database)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _set_up(database: sqlite3.Connection) -> None:
    """Make a new file ours. SQLite does not wait by itself when two processes do so at once."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(_SCHEMA)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _read(adapter: TypeAdapter[_Record], value: bytes | None) -> _Record | None:
    """The record that `value` is; None for one that is damaged, which is then made again."""
    try:
        return None if value is None else adapter.validate_json(value)
    except ValueError:
        return None
