"""Whether ledgers have every candidate of a training once: what is missing, doubled or misplaced.

Looked at are the rows that count, in the order of steps, one step at a time.

The evaluations have to be of as many candidates each, and so have the batches of training. A step
may have several batches (`trl.steps_per_generation`), of which the last ones could be missing
unseen; so could the last steps of a ledger.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kardiabench.errors import RunError
from trainer.ledger import Phase, Row, iterate_rows, ledger_name, ledgers_of
from trainer.manifest import MANIFEST, read_manifest

#: TRL's arguments that uncouple batches of candidates from optimizer steps.
_UNCOUPLED = ("steps_per_generation", "generation_batch_size")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, in words, and the `Row.key()` and turn of the candidate where it shows."""

    place: tuple[str, int, int, int, int, int]
    turn_id: str
    what: str


@dataclass
class _Seen:
    """How often something was seen, and where first."""

    row: Row
    times: int = 0


class Completeness:
    """Looks at rows as they pass by and tells each fault; memory is that of one step.

    `whole`: the rows are those of all processes. `every` is the number of optimizer steps from one
    batch of candidates to the next; None: the smallest that is seen, infinity: not looked at.
    """

    def __init__(
        self, tell: Callable[[Fault], None], *, whole: bool = True, every: float | None = None
    ) -> None:
        self.rows = 0
        self.evaluated: list[int] = []
        self.trained: int | None = None
        self._tell = tell
        self._whole = whole
        self._every = every
        self._step: int | None = None
        self._gaps: dict[int, _Seen] = {}
        self._sizes: dict[str, dict[int, _Seen]] = {}

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows; what shows only at the end is told after the last one."""
        for step, of_step in groupby(rows, key=lambda row: row.step):
            batches: dict[tuple[Phase, int], list[Row]] = {}
            for row in of_step:
                self.rows += 1
                batches.setdefault((row.phase, row.call), []).append(row)
                yield row
            self._look_at(step, batches)
        self._end()

    def _look_at(self, step: int, batches: Mapping[tuple[Phase, int], Sequence[Row]]) -> None:
        first = next(iter(batches.values()))[0]
        if step < 0:
            self._say(first, "its step is below 0")
        if self._step is not None and step < self._step:
            self._say(first, f"it stands behind step {self._step}, and no resumption between them")
        self._step = step
        phases: dict[Phase, dict[int, Sequence[Row]]] = {}
        for (phase, call), rows in batches.items():
            phases.setdefault(phase, {})[call] = rows
        for phase, calls in phases.items():
            row = next(iter(calls.values()))[0]
            self._numbered("call", calls, row, start=0)
            size = sum(map(self._batch, calls.values()))
            if phase == "train":
                self._trained(row)
            else:
                self.evaluated.append(step)
                self._size("evaluations", size, row)

    def _batch(self, rows: Sequence[Row]) -> int:
        """Look at the rows of a call; how many there are, doubled ones once."""
        groups: dict[int, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.group, []).append(row)
        self._numbered("group", groups, rows[0], start=0 if self._whole else min(groups))
        size = 0
        for group in groups.values():
            numbers = {row.candidate for row in group}
            size += len(numbers)
            self._doubled(group)
            start = 0 if self._whole else min(numbers)
            self._numbered("candidate", numbers, group[0], start=start)
            if self._whole:
                self._size(f"groups of phase {rows[0].phase}", len(numbers), group[0])
        if rows[0].phase == "train":
            self._size("batches of training", size, rows[0])
        return size

    def _doubled(self, group: Sequence[Row]) -> None:
        seen: set[int] = set()
        for row in group:
            if row.candidate in seen:
                self._say(row, "this candidate is there more than once")
            seen.add(row.candidate)

    def _numbered(self, name: str, numbers: Iterable[int], row: Row, *, start: int) -> None:
        for expected, number in enumerate(sorted(set(numbers)), start):
            if number != expected:
                self._say(row, f"{name} {number} stands where {name} {expected} should")
                return

    def _trained(self, row: Row) -> None:
        if self.trained is None and row.step > 0:
            self._say(row, "the candidates of step 0 are missing")
        if self.trained is not None and row.step > self.trained:
            _see(self._gaps, row.step - self.trained, row)
        self.trained = row.step

    def _size(self, kind: str, size: int, row: Row) -> None:
        _see(self._sizes.setdefault(kind, {}), size, row)

    def _end(self) -> None:
        every = self._every or min(self._gaps, default=math.inf)
        for gap, seen in self._gaps.items():
            if gap > every:
                step = seen.row.step
                more = f"; gaps like this: {seen.times}" if seen.times > 1 else ""
                between = f"between {step - gap} and {step}"
                self._say(seen.row, f"no step {between} has candidates of training{more}")
        for kind, sizes in self._sizes.items():
            usual = max(sizes, key=lambda size: (sizes[size].times, size))
            for size, seen in sizes.items():
                if size != usual:
                    what = f"{kind} with {size} candidates: {seen.times}, beginning here"
                    self._say(seen.row, f"{what}; the usual number is {usual}")

    def _say(self, row: Row, what: str) -> None:
        self._tell(Fault(row.key(), row.turn_id, what))


def _see(found: dict[int, _Seen], number: int, row: Row) -> None:
    found.setdefault(number, _Seen(row)).times += 1


def merged(ledgers: Sequence[Path]) -> Iterator[Row]:
    """The rows that count of several processes, by step."""
    return heapq.merge(*map(iterate_rows, ledgers), key=lambda row: row.step)


def look_over(
    place: Path, ledgers: Sequence[Path], tell: Callable[[Fault], None]
) -> tuple[str, ...]:
    """Tell the faults of the `ledgers` at `place`, a file or a folder.

    Returns sentences on what is not looked at.

    Raises `RunError` where there is no candidate, or where a process's ledger is missing.
    """
    folder = place if place.is_dir() else place.parent
    known = read_manifest(folder) if (folder / MANIFEST).exists() else {}
    processes = known.get("processes")
    if place.is_dir() and isinstance(processes, int):
        check_there(folder, processes, "of that training")
    whole = place.is_dir() or not _one_of_several(place, processes)
    every = _every(known.get("recipe"))
    look = Completeness(tell, whole=whole, every=every)
    for _ in look.through(merged(ledgers)):
        pass
    if not look.rows:
        raise RunError(f"{place} has no candidates; give the ledger of a training that has begun")
    notes = []
    if not whole:
        notes.append(f"{place}: only this process's candidates are looked at; give the folder")
    if every == math.inf:
        notes.append(f"{place}: under trl.{' or trl.'.join(_UNCOUPLED)} no missing step is seen")
    return tuple(notes)


def check_there(folder: Path, processes: int, why: str) -> None:
    """Raise `RunError` where one of the processes' ledgers is missing or empty."""
    for path in (folder / ledger_name(rank) for rank in range(processes)):
        if not path.is_file() or not path.stat().st_size:
            state = "empty" if path.is_file() else "missing"
            raise RunError(
                f"{path}, the ledger of a process {why}, is {state}; restore it, or give another "
                "output folder"
            )


def steps_between(iterations: int, trl: Mapping[str, Any]) -> float:
    """The optimizer steps from one batch of candidates to the next; infinity: not to be told."""
    return math.inf if any(name in trl for name in _UNCOUPLED) else iterations


def _every(recipe: object) -> float | None:
    if not isinstance(recipe, Mapping):
        return None
    iterations, trl = recipe.get("iterations"), recipe.get("trl")
    if not isinstance(iterations, int) or not isinstance(trl, Mapping):
        return None
    return steps_between(iterations, trl)


def _one_of_several(path: Path, processes: object) -> bool:
    """Whether other processes have ledgers too, by all that is known here."""
    if isinstance(processes, int) and processes > 1:
        return True
    first = next(iterate_rows(path), None)
    beside = ledgers_of(path.parent)
    return (path in beside and len(beside) > 1) or (first is not None and first.rank > 0)
