"""Which checkpoints are whole, which are kept, and which one training goes on from.

A checkpoint counts only with a marker that is written when everything else is there: a process
that is killed while it saves leaves a folder that must not be resumed from. The marker lists the
files with their sizes, so that one that is damaged later is told from a whole one.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.errors import RunError, StorageError

if TYPE_CHECKING:
    from transformers import TrainerCallback

MARKER = "complete"
_NAME = re.compile(r"checkpoint-([0-9]+)")
#: What `torch.save` says of a file that it could not write: no errno, and no class of its own.
_TORCH_WRITES = ("inline_container", "PytorchStreamWriter", "iostream error", "Parent directory")


#: Written line by line while training goes on, and on the disk before a checkpoint counts.
_BOOKS = ("ledger*.jsonl", "evaluations.jsonl")


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise ValueError(f"{checkpoint} is no checkpoint")
    return int(found[1])


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first; raises `RunError` for a damaged one."""
    found = _marked(folder)
    for checkpoint in found:
        check_whole(checkpoint)
    return found


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, None where there is none.

    Raises `RunError` where it is damaged: to go on from an older one is the user's decision.
    """
    found = _marked(folder)
    if not found:
        return None
    check_whole(found[-1])
    return found[-1]


def check_whole(checkpoint: Path) -> None:
    """Raise `RunError` where a checkpoint's files are not those that its marker lists."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text("utf-8"))
        step, files = marker["step"], dict(marker["files"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise _damaged(checkpoint, f"{MARKER} lists no files") from error
    if step != step_of(checkpoint):
        raise _damaged(checkpoint, f"{MARKER} is of step {step}")
    there = _sizes(checkpoint)
    for name, size in files.items():
        if name not in there:
            raise _damaged(checkpoint, f"{name} is missing")
        if there[name] != size:
            raise _damaged(checkpoint, f"{name} has {there[name]} bytes, and had {size}")


def is_over(checkpoint: Path) -> bool:
    """Whether the training had come to its end; going on would make one more step.

    Raises `RunError` where the checkpoint does not say how far it is.
    """
    name = "trainer_state.json"
    try:
        state = json.loads((checkpoint / name).read_text("utf-8"))
        return int(state["global_step"]) >= int(state["max_steps"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise _damaged(checkpoint, f"{name} does not say how far the training is") from error


def discard_broken(folder: Path) -> int:
    """Delete checkpoints that were not finished; return how many there were."""
    broken = [path for path in _folders(folder) if not (path / MARKER).is_file()]
    for path in broken:
        shutil.rmtree(path)
    return len(broken)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Say in one sentence that `folder` cannot be written; other errors pass as they are.

    Raises `StorageError` for a full disk and the like, and `RunError` where a file or a link has
    the folder's name.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RunError(f"{folder} is no folder; move it away, then give the same command again")
    try:
        yield
    except Exception as error:
        reason = _of_the_disk(error)
        if reason is None:
            raise
        raise StorageError(
            f"{folder} cannot be written ({reason}); make room or mend the rights there, then "
            "give the same command again"
        ) from error


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Raise `RunError`, one sentence, where a file in `checkpoint` cannot be read."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (
        *(OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        brief = " ".join(str(error).split())[:200]
        raise _damaged(checkpoint, f"it cannot be read ({type(error).__name__}: {brief})") from (
            error
        )


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
            for pattern in _BOOKS:  # what a resumption compares the checkpoint with
                for book in folder.glob(pattern):
                    _sync(book)
            mark(folder / f"checkpoint-{state.global_step}")
            _thin_out(folder, keep, favourite())

    return CompleteCallback()


def mark(checkpoint: Path) -> None:
    """Say that a checkpoint is whole, when its files are on the disk.

    Raises `StorageError` where they do not get there.
    """
    with storing(checkpoint):
        files = _sizes(checkpoint)
        for path in checkpoint.rglob("*"):
            _sync(path)
        temporary = checkpoint / f".{MARKER}"
        marker = {"step": step_of(checkpoint), "files": files}
        temporary.write_text(json.dumps(marker, indent=2, sort_keys=True), "utf-8")
        _sync(temporary)
        temporary.replace(checkpoint / MARKER)
        _sync(checkpoint)
        _sync(checkpoint.parent)


def _folders(folder: Path) -> list[Path]:
    """What is a checkpoint by its name, oldest first; a link could lead anywhere and is none."""
    found = folder.iterdir() if folder.is_dir() else ()
    named = (path for path in found if _NAME.fullmatch(path.name))
    return sorted((path for path in named if path.is_dir() and not path.is_symlink()), key=step_of)


def _marked(folder: Path) -> list[Path]:
    return [path for path in _folders(folder) if (path / MARKER).is_file()]


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes by the path of each file below a checkpoint, less its marker's."""
    return {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path != checkpoint / MARKER
    }


def _damaged(checkpoint: Path, what: str) -> RunError:
    return RunError(
        f"{checkpoint} is damaged or of an older version: {what}; restore it, or delete the folder "
        "to go on from the checkpoint before it"
    )


def _of_the_disk(error: Exception) -> str | None:
    """Why a file could not be written; None for an error of another kind."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        foreign = error.errno is None or isinstance(error, ConnectionError | TimeoutError)
        return None if foreign else error.strerror
    if "(os error " in text:  # libraries in Rust: safetensors, tokenizers
        return text.rpartition("I/O error: ")[2][:200]
    if isinstance(error, RuntimeError) and any(word in text for word in _TORCH_WRITES):
        return f"torch could not write a whole file: {text[:200]}"
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _thin_out(folder: Path, keep: int, favourite: int | None) -> None:
    for checkpoint in _marked(folder)[:-keep]:
        if step_of(checkpoint) != favourite:
            (checkpoint / MARKER).unlink()  # first, so that half a folder is never resumed from
            shutil.rmtree(checkpoint)
