"""Which checkpoints are whole, which are kept, and which one training goes on from.

A checkpoint counts only with a marker that is written when everything else is there: a process
that is killed while it saves leaves a folder that must not be resumed from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

MARKER = "complete"
_NAME = re.compile(r"checkpoint-([0-9]+)")


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} is no checkpoint")
    return int(found[1])


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if (path / MARKER).is_file()), key=step_of)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, None where there is none."""
    found = complete(folder)
    return found[-1] if found else None


def is_over(checkpoint: Path) -> bool:
    """Whether the training had come to its end; going on would make one more step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return int(state["global_step"]) >= int(state["max_steps"])


def discard_broken(folder: Path) -> int:
    """Delete checkpoints that were not finished; return how many there were."""
    broken = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if _NAME.fullmatch(path.name) and not (path / MARKER).is_file()
    ]
    for path in broken:
        shutil.rmtree(path)
    return len(broken)


def Complete(  # noqa: N802  # a class, made late: transformers is heavy
    keep: int, favourite: Callable[[], int | None] = lambda: None
) -> TrainerCallback:
    """A callback that marks checkpoints as whole, and deletes all but the newest `keep`.

    The checkpoint of the step that `favourite` gives is kept too.
    """
    from transformers import TrainerCallback

    class CompleteCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            from accelerate import PartialState

            PartialState().wait_for_everyone()  # every process has saved its part
            if not state.is_world_process_zero:
                return
            folder = Path(args.output_dir)
            mark(folder / f"checkpoint-{state.global_step}")
            _thin_out(folder, keep, favourite())

    return CompleteCallback()


def mark(checkpoint: Path) -> None:
    """Say that a checkpoint is whole, when its files are on the disk."""
    for file in checkpoint.iterdir():
        if file.is_file():
            _sync(file)
    (checkpoint / MARKER).touch()
    _sync(checkpoint / MARKER)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _thin_out(folder: Path, keep: int, favourite: int | None) -> None:
    for checkpoint in complete(folder)[:-keep]:
        if step_of(checkpoint) != favourite:
            (checkpoint / MARKER).unlink()  # first, so that half a folder is never resumed from
            shutil.rmtree(checkpoint)
