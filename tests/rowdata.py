"""Rows in the shape of KardiaBench, invented for tests, and files of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kardiabench.contracts import Identity, RawRow, RowSource
from kardiabench.spans import render_spans

Row = dict[str, Any]


def gold(emotion: str = "anxious", response: str = "Take the time you need.") -> str:
    return render_spans("They are worried.", "The message says so.", emotion, response)


def message(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def exchange(user: str = "I have an exam.", assistant: str | None = None) -> list[Row]:
    return [message("user", user), message("assistant", assistant or gold())]


def make_row(number: int = 0, **changes: Any) -> Row:
    """A good row; rows of different numbers are different dialogues of four personas."""
    row = {
        "person": f"MBTI: INFJ\nAbout: I am persona {number % 4}.",
        "mbti": "INFJ",
        "emotion": "anxious",
        "situation": f"Exam number {number} is tomorrow.",
        "anon_username": "someone",
        "messages": [message("system", "You are kind."), *exchange(), *exchange("Still here.")],
    }
    return row | changes


def to_lines(rows: Iterable[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_rows(path: Path, rows: Iterable[object]) -> Path:
    data = to_lines(rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def in_memory(rows: list[object], identity: Identity | None = None) -> RowSource:
    """A source of `rows`; a change of the list shows in the next pass."""
    return RowSource(
        rows=lambda: (RawRow("mem.jsonl", line, row) for line, row in enumerate(rows, 1)),
        identity=identity or {"name": "mem", "split": "all"},
    )
