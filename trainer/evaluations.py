"""`evaluations.jsonl`: one evaluation a line, append-only, beside the ledger.

A line `{"event": "resume", "step": N}` says that training went back to the checkpoint of step N
(-1: to its beginning), as in the ledger: evaluations of later steps that stand above it don't
count. Of two evaluations of one step the later line counts.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kardiabench.errors import RunError
from kardiabench.files import Log, lines_of
from trainer.evaluation import Evaluation

if TYPE_CHECKING:
    from pydantic import TypeAdapter

EVALUATIONS = "evaluations.jsonl"
_EVENT = b'{"event"'


def append(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation; raises `StorageError` where it cannot be written.

    `path` is here and below the file, or the training's folder.
    """
    _append(path, _line(evaluation))


def go_back(path: Path, step: int | None) -> None:
    """Note that training goes on from the checkpoint of `step`, None: from its beginning."""
    _append(path, json.dumps({"event": "resume", "step": -1 if step is None else step}))


def read(path: Path) -> list[Evaluation]:
    """The evaluations that count, by step; none where there is no file.

    Raises `RunError` for a line that is damaged. A last line without its end is left out: it is
    being written, or its writer was killed.
    """
    path, found = _file(path), dict[int, Evaluation]()
    for offset, line in lines_of(path):
        if line.startswith(_EVENT):
            step = _step(path, offset, line)
            found = {at: evaluation for at, evaluation in found.items() if at <= step}
        else:
            evaluation = _parsed(path, offset, line)
            found[evaluation.step] = evaluation
    return [found[step] for step in sorted(found)]


def _line(evaluation: Evaluation) -> str:
    return json.dumps(evaluation.to_json(), allow_nan=False)


def _append(path: Path, line: str) -> None:
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    log = Log(file)
    try:
        log.append(line.encode() + b"\n")
    finally:
        log.close()


def _file(path: Path) -> Path:
    return path / EVALUATIONS if path.is_dir() else path


def _step(path: Path, offset: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _damaged(path, offset) from error


def _parsed(path: Path, offset: int, line: bytes) -> Evaluation:
    try:
        evaluation = _evaluation().validate_json(line)
        _line(evaluation)  # a number that is none could not have been written
    except ValueError as error:
        raise _damaged(path, offset) from error
    return evaluation


def _damaged(path: Path, offset: int) -> RunError:
    return RunError(f"{path}, byte {offset}: this line was changed or damaged; restore the file")


@cache
def _evaluation() -> TypeAdapter[Evaluation]:
    from pydantic import TypeAdapter

    return TypeAdapter(Evaluation)
