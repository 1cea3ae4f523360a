"""The first and the last thing that touches a training's output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kardiabench.files import lock_folder
from trainer.arguments import state
from trainer.checkpoints import discard_broken, newest
from trainer.manifest import settle


def begin(output: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Settle the folder on the first process; on all of them, the checkpoint to go on from.

    None: from the beginning. Raises `RunError` when the folder has another training.
    """
    here = state()
    if here.is_main_process:
        settle(output, manifest)
        discard_broken(output)
    here.wait_for_everyone()
    return newest(output)


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keep other trainings out of the folder; raises `RunError` when one is in it."""
    if not state().is_main_process:
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(output)
    try:
        yield
    finally:
        lock.release()
