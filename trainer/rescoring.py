"""`kardiabench rescore`: every number of a ledger made again, and each that differs named.

A row is the same when its line is, to the byte. What cannot be repeated without asking a live
judge is kept and counted, never called the same. Candidates that are missing, doubled or out of
place (`trainer.completeness`) are named among the differences.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kardiabench.errors import ConfigError, RunError
from kardiabench.files import lines_of
from kardiabench.records import Dimension, Verdict
from kardiabench.registry import Registry
from kardiabench.scoring import composite
from trainer.completeness import Fault, look_over
from trainer.judge_drift import Drift, Drifts
from trainer.ledger import Header, Row, ledgers_of, read_header, row_line
from trainer.rejudging import JudgeCount, Rejudger, open_rejudger

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Rows that are judged together.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Difference:
    """One number or text of a candidate that comes out otherwise.

    `place` is the candidate's `Row.key()`. `judge` is empty for the composite, the reward and the
    line itself; `what` is a dimension or a field.
    """

    ledger: str
    place: tuple[str, int, int, int, int, int]
    turn_id: str
    judge: str
    what: str
    stored: object
    new: object

    def __str__(self) -> str:
        phase, step, rank, call, group, candidate = self.place
        who = f"judge {self.judge}, " if self.judge else ""
        return (
            f"{self.ledger}: {phase} step {step}, rank {rank}, call {call}, group {group}, "
            f"candidate {candidate} (turn {self.turn_id}): {who}{self.what} is "
            f"{_brief(self.stored)}, made again {_brief(self.new)}"
        )


@dataclass(frozen=True, slots=True)
class Misplaced(Difference):
    """Candidates that are missing, doubled or out of place: `what` says it, at `place`."""

    def __str__(self) -> str:
        phase, step, rank, call, group, candidate = self.place
        return (
            f"{self.ledger}: {phase} step {step}, rank {rank}, call {call}, group {group}, "
            f"candidate {candidate} (turn {self.turn_id}): {self.what}"
        )


@dataclass
class Report:
    """What came of rescoring.

    `differ` counts candidates that differ and what is `misplaced`; `drift` is never counted.
    """

    ledgers: list[str] = field(default_factory=list)
    rows: int = 0
    masked: int = 0
    differ: int = 0
    misplaced: int = 0
    judges: dict[str, JudgeCount] = field(default_factory=dict)
    drift: list[Drift] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rescore(
    place: Path,
    out: Path | None = None,
    *,
    composites_only: bool = False,
    live: bool = False,
    tell: Callable[[Difference], None] = lambda _: None,
    registry: Registry | None = None,
) -> Report:
    """Make every number of the ledger at `place` (a file, or a training's folder) again.

    `out` gets the ledger with what was made again: a file for a file, a folder for a folder; byte
    by byte the original when nothing differs. `tell` is told each difference as it is found.
    `composites_only` takes the verdicts as they are. `live` also asks judges that are not
    deterministic anew, which costs, and reports their drift. Memory does not grow with the rows.
    Raises a `KardiaBenchError`, one sentence.
    """
    if live and composites_only:
        raise ConfigError("--live asks judges and --composites-only does not; leave one out")
    ledgers = _ledgers(place)
    targets = _targets(place, ledgers, out)
    header = _one_header(ledgers)
    report = _looked_over(place, ledgers, tell)
    again = Composites(header.scorer, ledgers[0])
    rejudger = None if composites_only else open_rejudger(header, str(ledgers[0]), registry)
    work = Rescoring(again, rejudger, tell, Drifts() if live else None, report)
    return asyncio.run(work.all(ledgers, targets))


def _looked_over(
    place: Path, ledgers: Sequence[Path], tell: Callable[[Difference], None]
) -> Report:
    """A report that begins with what is missing, doubled or out of place."""
    report = Report()

    def note(fault: Fault) -> None:
        report.differ += 1
        report.misplaced += 1
        tell(Misplaced(place.name, fault.place, fault.turn_id, "", fault.what, None, None))

    report.notes += look_over(place, ledgers, note)
    return report


class Composites:
    """The composite of stored verdicts, by what the header says of the rewarded judges."""

    def __init__(self, scorer: Mapping[str, Any], path: Path) -> None:
        try:
            self._weights = {str(k): float(v) for k, v in scorer["weights"].items()}
            self._missing = scorer["missing"]
            self._dimensions = {
                name: [_dimension(d) for d in scorer["judges"][name]["dimensions"]]
                for name in self._weights
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{path}: its first line does not say what the composites are made of; restore "
                "the file"
            ) from error

    def __call__(self, verdicts: Sequence[Verdict]) -> float | None:
        """The composite, in [0, 1]; None when a required part is missing."""
        scores = {verdict.judge: verdict.scores for verdict in verdicts}
        return composite(scores, self._dimensions, self._weights, self._missing)


@dataclass
class Rescoring:
    """One pass over ledgers."""

    composites: Composites
    rejudger: Rejudger | None
    tell: Callable[[Difference], None]
    drifts: Drifts | None = None
    report: Report = field(default_factory=Report)

    async def all(self, ledgers: Sequence[Path], targets: Sequence[Path | None]) -> Report:
        """Every ledger in turn; then close what was opened."""
        try:
            for path, target in zip(ledgers, targets, strict=True):
                with _writing(target) as sink:
                    await self._ledger(path, sink)
        finally:
            if self.rejudger is not None:
                await self.rejudger.aclose()
        if self.rejudger is not None:
            self.report.judges = dict(sorted(self.rejudger.counts.items()))
        if self.drifts is not None:
            self.report.drift = [self.drifts.found[key] for key in sorted(self.drifts.found)]
        return self.report

    async def _ledger(self, path: Path, sink: IO[bytes] | None) -> None:
        self.report.ledgers.append(str(path))
        end = 0
        lines = lines_of(path)
        while chunk := list(islice(lines, _CHUNK)):
            read = [_read(path, offset, line) for offset, line in chunk]
            fresh = iter(await self._again([row for row in read if row is not None]))
            for (offset, line), row in zip(chunk, read, strict=True):
                new = line if row is None else self._row(path, row, line, next(fresh))
                if sink is not None:
                    sink.write(new)
                end = offset + len(line)
        self._note_torn(path, end)

    def _note_torn(self, path: Path, end: int) -> None:
        torn = path.stat().st_size - end
        if torn > 0:
            self.report.notes.append(
                f"{path}: its last line ({torn} bytes) is not finished and was left out"
            )

    async def _again(self, rows: Sequence[Row]) -> list[tuple[Verdict, ...]]:
        if self.rejudger is None:
            return [row.verdicts for row in rows]
        if self.drifts is not None:
            for judge in self.rejudger.live.judges:
                there = [row for row in rows if any(v.judge == judge.name for v in row.verdicts)]
                items = self.rejudger.items(there)
                self.drifts.add(there, await self.rejudger.live.verdicts(judge, items))
        return await self.rejudger.again(rows)

    def _row(self, path: Path, row: Row, line: bytes, verdicts: tuple[Verdict, ...]) -> bytes:
        """The row's line made again; what differs is told."""
        value = self.composites(verdicts)
        persona = self.rejudger.persona_id(row) if self.rejudger else row.persona_id
        again = replace(row, verdicts=verdicts, composite=value, reward=value, persona_id=persona)
        new = row_line(again)
        self.report.rows += 1
        self.report.masked += value is None
        if new != line:
            self.report.differ += 1
            for judge, what, stored, made in _what_differs(row, again):
                self.tell(Difference(path.name, row.key(), row.turn_id, judge, what, stored, made))
        return new


def _what_differs(row: Row, again: Row) -> Iterator[tuple[str, str, object, object]]:
    """Judge, dimension or field, stored and new value; the line itself where no value differs."""
    found = [
        ("", name, getattr(row, name), getattr(again, name))
        for name in ("composite", "reward", "persona_id")
        if getattr(row, name) != getattr(again, name)
    ]
    for stored, made in zip(row.verdicts, again.verdicts, strict=True):
        found += _verdict_differs(stored, made)
    yield from found or [("", "its line", "written otherwise", "as a training writes it")]


def _verdict_differs(stored: Verdict, made: Verdict) -> Iterator[tuple[str, str, object, object]]:
    for name in sorted(stored.scores.keys() | made.scores.keys()):
        if stored.scores.get(name) != made.scores.get(name):
            yield stored.judge, name, stored.scores.get(name), made.scores.get(name)
    for name in (item.name for item in fields(Verdict) if item.name != "scores"):
        if getattr(stored, name) != getattr(made, name):
            yield stored.judge, name, getattr(stored, name), getattr(made, name)


def _ledgers(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = ledgers_of(place)
    if not found:
        raise RunError(
            f"{place} has no ledger; give the output folder of a GRPO training, or its ledger.jsonl"
        )
    return found


def _one_header(ledgers: Sequence[Path]) -> Header:
    header, *others = [read_header(path) for path in ledgers]
    for path, other in zip(ledgers[1:], others, strict=True):
        if other != header:
            raise RunError(
                f"{path} is of another training than {ledgers[0].name}; give one of the files"
            )
    return header


def _targets(place: Path, ledgers: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where each ledger goes: `out` for a file, a file of the same name in `out` for a folder."""
    if out is None:
        return [None] * len(ledgers)
    targets = [out / path.name for path in ledgers] if place.is_dir() else [out]
    if any(target.resolve() == path.resolve() for target in targets for path in ledgers):
        raise ConfigError(f"--out {out} is the ledger itself; give another place")
    if not place.is_dir() and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file, as {place} is one")
    return list(targets)


@contextmanager
def _writing(target: Path | None) -> Iterator[IO[bytes] | None]:
    """A file that becomes `target` when all went well."""
    if target is None:
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(path: Path, offset: int, line: bytes) -> Row | None:
    """The row of a line, None for the header and for events; raises `RunError`."""
    if line.startswith(b'{"event"') or offset == 0:
        return None
    try:
        row = _rows().validate_json(line)
    except ValueError as error:
        raise _damaged(path, offset) from error
    if not all(map(math.isfinite, _numbers(row))):
        raise _damaged(path, offset)
    return row


def _numbers(row: Row) -> Iterable[float]:
    """All of a row's numbers that could be no number."""
    known = [row.composite, row.reward, row.advantage]
    for verdict in row.verdicts:
        known += verdict.scores.values()
    return [number for number in known if number is not None]


def _damaged(path: Path, offset: int) -> RunError:
    return RunError(f"{path}, byte {offset}: this line was changed or damaged; restore the file")


@cache
def _rows() -> TypeAdapter[Row]:
    from pydantic import TypeAdapter

    return TypeAdapter(Row)


def _dimension(stored: Mapping[str, Any]) -> Dimension:
    return Dimension(
        stored["name"], float(stored["low"]), float(stored["high"]), stored["description"]
    )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
