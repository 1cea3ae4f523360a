"""Processes that work for this one, each a fresh interpreter.

A forked one would share the parent's threads' locks.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess


def pool(number: int) -> ProcessPoolExecutor:
    """`number` processes; they end with this one, even when it is killed."""
    context = get_context("spawn")
    return ProcessPoolExecutor(number, mp_context=context, initializer=end_with_parent)


def end_with_parent() -> None:
    """Let this process end when its parent is gone.

    A killed parent cannot tell; the pipe that a worker reads stays open as long as another worker
    holds it, so all would wait for ever.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=[parent], daemon=True).start()


def _outlive(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
