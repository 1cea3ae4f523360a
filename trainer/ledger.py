"""The ledger: every candidate, its verdicts, its reward and its advantage, as append-only JSONL.

The first line is the header, which has what is needed to compute every composite again. A line
`{"event": "resume", "step": N}` says that training went back to the checkpoint of step N (-1: to
its beginning): what came after it was done again below, and `iterate_rows` leaves it out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from kardiabench.errors import RunError
from kardiabench.files import Log, lines_of
from kardiabench.records import Reply, ReplyStatus, Usage, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LEDGER = "ledger.jsonl"
LEDGER_VERSION = 1

Phase = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate.

    `step` counts finished optimizer steps when it was written; `call` counts batches of candidates
    within the phase and step, `group` the prompts of a batch and `candidate` the samples of a
    prompt. `composite` is the Scorer's number and `reward` what TRL was given (None: masked), both
    float64; under `normalize: gdpo` TRL is given the judges' parts in its stead. `advantage` is
    TRL's float32, None at evaluations.
    """

    step: int
    phase: Phase
    call: int
    group: int
    candidate: int
    turn_id: str
    persona_id: str
    text: str
    reasoning: str
    status: ReplyStatus
    detail: str
    finish_reason: str | None
    tokens: int
    verdicts: tuple[Verdict, ...]
    composite: float | None
    reward: float | None
    advantage: float | None = None
    rank: int = 0

    def reply(self) -> Reply:
        """The reply as the judges were shown it."""
        return Reply(
            turn_id=self.turn_id,
            text=self.text,
            status=self.status,
            detail=self.detail,
            finish_reason=self.finish_reason,
            reasoning=self.reasoning,
            usage=Usage(calls=1, completion_tokens=self.tokens),
            text_source="token_ids",
        )

    def key(self) -> tuple[str, int, int, int, int, int]:
        """Its place: phase, step, rank, call, group, candidate."""
        return self.phase, self.step, self.rank, self.call, self.group, self.candidate

    def score(self, judge: str, dimension: str) -> float | None:
        """A judge's score, in the dimension's own unit; None where there is none."""
        for verdict in self.verdicts:
            if verdict.judge == judge:
                return verdict.scores.get(dimension)
        return None


@dataclass(frozen=True)
class Header:
    """What makes a ledger readable by itself.

    `scorer` is `Scorer.identity` (dimensions, weights, policy) of the rewarded judges, `held_out`
    the same of all judges of evaluations, None without a held-out one. `settings` are those of
    `kardiabench run` from which data and judges can be opened again.
    """

    scorer: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    held_out: Mapping[str, Any] | None = None
    model: str = ""
    version: int = LEDGER_VERSION
    event: str = "begin"


class Ledger:
    """An open ledger. A context manager; one process writes it."""

    def __init__(self, path: Path, header: Header, *, resume_at: int | None = None) -> None:
        """Open or begin the ledger at `path`.

        `resume_at` is the step of the checkpoint that training goes on from, None for its
        beginning. Raises `RunError` when there is a ledger with another header.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._log = Log(path)
        old = read_header(path) if path.stat().st_size else None
        if old is None:
            self._log.append(_dump(asdict(header)))
            return
        if _deciding(old) != _deciding(header):
            self._log.close()
            raise RunError(
                f"{path} is the ledger of another training (its judges, data or model differ); "
                "give a new output folder"
            )
        self._log.append(_dump({"event": "resume", "step": -1 if resume_at is None else resume_at}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows, all or none; raises `StorageError` where they cannot be written."""
        self._log.append(b"".join(map(row_line, rows)))

    def close(self) -> None:
        """Bring everything to the disk."""
        self._log.close()


def _deciding(header: Header) -> Any:
    """What two ledgers of one training have in common: not how patiently judges were asked."""
    content = json.loads(_dump(asdict(header)))
    del content["settings"]
    return content


def row_line(row: Row) -> bytes:
    """The line of a row. Floats are written so that reading gives the same bits."""
    for name in ("composite", "reward", "advantage"):
        value = getattr(row, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} of a candidate for {row.turn_id} is {value}")
    return _row().dump_json(row) + b"\n"


def read_header(path: Path) -> Header:
    """The first line; raises `RunError` for a file that is no ledger of this version."""
    for _, line in lines_of(path):
        try:
            content = json.loads(line)
            header = Header(**content)
        except (ValueError, TypeError, RecursionError) as error:
            raise _no_ledger(path) from error
        if header.version != LEDGER_VERSION or header.event != "begin":
            break
        return header
    raise _no_ledger(path)


def iterate_rows(path: Path) -> Iterator[Row]:
    """The rows that count, in the file's order; raises `RunError` for a damaged line.

    Rows of steps that were done again after a resumption are left out.
    """
    done_again = _done_again(path)
    for number, (offset, line) in enumerate(lines_of(path)):
        if number == 0 or line.startswith(b'{"event"'):
            continue
        row = _parsed(path, offset, line)
        if not any(offset < at and _is_after(row, step) for at, step in done_again):
            yield row


def _is_after(row: Row, step: int) -> bool:
    """Whether the row was written after the checkpoint of `step`: evaluations come before it."""
    return row.step > step or (row.phase == "train" and row.step == step)


def _done_again(path: Path) -> list[tuple[int, int]]:
    """Where training went back, and to which step."""
    found = []
    for offset, line in lines_of(path):
        if offset and line.startswith(b'{"event"'):
            try:
                found.append((offset, int(json.loads(line)["step"])))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                raise _damaged(path, offset) from error
    return found


def ledgers_of(folder: Path) -> list[Path]:
    """The ledgers of a training's folder, one a process."""
    return sorted(folder.glob("ledger*.jsonl"))


def ledger_name(rank: int) -> str:
    """The file of a process: `ledger.jsonl`, then `ledger.rank1.jsonl` and so on."""
    return LEDGER if rank == 0 else f"ledger.rank{rank}.jsonl"


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of several processes by step, phase and place."""
    return sorted(rows, key=lambda row: (row.step, row.phase, row.call, row.rank, row.group))


def _dump(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, default=str).encode() + b"\n"


def _parsed(path: Path, offset: int, line: bytes) -> Row:
    try:
        return _row().validate_json(line)
    except ValueError as error:
        raise _damaged(path, offset) from error


def _damaged(path: Path, offset: int) -> RunError:
    return RunError(f"{path}, byte {offset}: this line was changed or damaged; restore the file")


def _no_ledger(path: Path) -> RunError:
    return RunError(
        f"{path} is no ledger of version {LEDGER_VERSION}; give the ledger.jsonl that a GRPO "
        "training wrote into its output folder"
    )


@cache
def _row() -> TypeAdapter[Row]:
    from pydantic import TypeAdapter

    return TypeAdapter(Row)
