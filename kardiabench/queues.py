"""What waits in a queue that several workers empty, and whose end is a None."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

_Work = TypeVar("_Work")


def waiting(queue: asyncio.Queue[_Work | None], most: int) -> Iterator[_Work]:
    """Up to `most` pieces of work that wait already; the end is left for the next worker."""
    for _ in range(most):
        if queue.empty():
            return
        work = queue.get_nowait()
        if work is None:  # the end belongs to every worker
            queue.put_nowait(None)
            return
        yield work
