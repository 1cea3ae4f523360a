"""Verdicts as they come in, so that a measurement that was broken off goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kardiabench.errors import RunError
from kardiabench.files import Log, lines_of, lock_folder
from kardiabench.records import Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Entry:
    """A line: what the verdict was asked for, about which item (`scoring.item_key`)."""

    task: str
    item: str
    verdict: Verdict


class Journal:
    """An append-only file of verdicts by task, judge's fingerprint and item. A context manager.

    Only whole judgements are kept: what failed is asked for again. While it is open no other
    process can use its folder.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(path.parent)
        try:
            self._log = Log(path)
            self._known = {_key(entry): entry.verdict for entry in iterate_journal(path)}
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()
        self._lock.release()

    def get(self, task: str, fingerprint: str, item: str) -> Verdict | None:
        """The verdict that is there already, or None."""
        return self._known.get((task, fingerprint, item))

    def put(self, task: str, item: str, verdict: Verdict) -> None:
        """Keep a whole judgement; anything else is passed over, and asked for again."""
        if verdict.status != "ok":
            return
        entry = Entry(task, item, verdict)
        self._log.append(_adapter().dump_json(entry) + b"\n")
        self._known[_key(entry)] = verdict


def iterate_journal(path: Path) -> list[Entry]:
    """The entries of a journal; none where there is no file."""
    found = []
    for offset, line in lines_of(path):
        try:
            found.append(_adapter().validate_json(line))
        except ValueError as error:
            raise RunError(
                f"{path}, byte {offset}: this line was changed or damaged; remove it, and its item "
                "is judged again"
            ) from error
    return found


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.task, entry.verdict.fingerprint, entry.item


@cache
def _adapter() -> TypeAdapter[Entry]:
    from pydantic import TypeAdapter

    return TypeAdapter(Entry)
