"""`judges attack`: what a judge is asked about attacked replies and their clean twins.

`Plan` says what is asked for, `Answers` has what came back, `attack_report` makes sense of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kardiabench.anchors import Anchor
from kardiabench.attacks import Base, Case, bases_of, golds, load_suite
from kardiabench.bench import Bench
from kardiabench.contracts import Judge
from kardiabench.errors import ConfigError, PluginError
from kardiabench.files import lock_folder
from kardiabench.fingerprints import fingerprint
from kardiabench.journal import Journal
from kardiabench.records import Item, Verdict
from kardiabench.registry import parse_spec
from kardiabench.scoring import item_key

JOURNAL = "attack.jsonl"
#: How often clean replies are judged: with fewer placebos a noisy judge hides what moves it.
REPEATS = 5


@dataclass(frozen=True)
class Task:
    """One thing to ask a judge for, by the name that the journal has it under.

    With `patient` it is no reason to stop that nothing is judged: an attack may do just that.
    """

    name: str
    judge: Judge
    items: tuple[Item, ...]
    patient: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that a measurement asks for. `no_twin` says why nothing is asked of a twin.

    Clean replies are judged `repeats` times: once to compare with, then as placebos.
    """

    judge: Judge
    cases: tuple[Case, ...]
    repeats: int = REPEATS
    twin: Judge | None = None
    no_twin: str | None = None

    @property
    def bases(self) -> tuple[Base, ...]:
        """The clean twins of the cases."""
        return bases_of(self.cases)

    @property
    def golds(self) -> tuple[Anchor, ...]:
        """Good replies, for the shift on honest text."""
        return golds()

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The judge, and its undefended twin where there is one."""
        return (self.judge,) if self.twin is None else (self.judge, self.twin)

    def tasks(self, judge: Judge) -> Iterator[Task]:
        """What is asked of one judge, in order: what has to work first."""
        clean = tuple(base.item for base in self.bases)
        yield Task("clean/1", judge, clean)
        yield Task("gold", judge, tuple(gold.item for gold in self.golds))
        yield Task("attacked", judge, tuple(case.item for case in self.cases), patient=True)
        for repeat in range(1, self.repeats):
            yield Task(f"clean/{repeat + 1}", judge, clean)


@dataclass(frozen=True)
class Answers:
    """One judge's verdicts: `clean` by repeat, each in the order of the plan's items."""

    clean: tuple[list[Verdict], ...]
    gold: list[Verdict]
    attacked: list[Verdict]

    @property
    def verdicts(self) -> list[Verdict]:
        """All of them."""
        return [*(v for repeat in self.clean for v in repeat), *self.gold, *self.attacked]


def make_plan(
    bench: Bench,
    spec: str,
    *,
    limit: int | None = None,
    repeats: int = REPEATS,
    plain: str | None = None,
    twin: bool = True,
) -> Plan:
    """What measuring the judge `spec` asks for, with `limit` cases of the suite (all: None).

    `plain` is the spec of its undefended twin; without it the judge's own `undefended` option
    makes one. Raises `ConfigError` for a twin that cannot be compared.
    """
    judge = bench.make(spec)
    other, reason = (plain, None) if plain else _undefended(spec, judge)
    if not twin:
        other, reason = None, "it was left out (--no-plain)"
    made = None if other is None else bench.make(other)
    if made is not None:
        _check_twin(judge, made)
    return Plan(judge, load_suite()[:limit], repeats, made, reason)


def _undefended(spec: str, judge: Judge) -> tuple[str | None, str | None]:
    """The spec of the judge's undefended twin, or None and why there is none."""
    option: object = getattr(judge, "undefended", None)
    if option is None:
        return None, f"judge {judge.name} has no undefended twin; --plain names one"
    if not isinstance(option, str) or "=" not in option:
        raise PluginError(
            f"judge {judge.name}: its `undefended` is {option!r}; make it the text option=value "
            "that takes its defences off, or None"
        )
    key, _, value = option.partition("=")
    name, options = parse_spec(spec)
    if options.get(key) == value:
        return None, f"judge {judge.name} has its defences off already ({option})"
    options[key] = value
    return f"{name}:" + ",".join(f"{k}={text}" for k, text in options.items()), None


def _check_twin(judge: Judge, twin: Judge) -> None:
    scales = [[(d.name, d.low, d.high) for d in each.dimensions] for each in (judge, twin)]
    if sorted(scales[0]) != sorted(scales[1]):
        raise ConfigError(
            f"--plain {twin.name} does not rate the same dimensions on the same scales as "
            f"{judge.name}; give the same judge without its defences, or --no-plain"
        )
    if fingerprint(judge.identity) == fingerprint(twin.identity):
        raise ConfigError(
            "--plain is the same judge as --judge; give it without its defences, or --no-plain"
        )


def open_journal(folder: Path, *, fresh: bool) -> Journal:
    """The journal of the attacks on the judge whose card is in `folder`; `fresh` empties it."""
    path = folder / JOURNAL
    if fresh and path.exists():
        lock = lock_folder(folder)
        path.unlink()
        lock.release()
    return Journal(path)


def count(plan: Plan, bench: Bench) -> tuple[int, int]:
    """How many judgements the plan takes, and how many of them the journal has already."""
    total = known = 0
    for judge in plan.judges:
        mark = fingerprint(judge.identity)
        for task in plan.tasks(judge):
            total += len(task.items)
            if bench.journal is not None:
                found = (bench.journal.get(task.name, mark, item_key(*item)) for item in task.items)
                known += sum(verdict is not None for verdict in found)
    return total, known


async def ask(plan: Plan, bench: Bench, *, preflight: bool = True) -> list[Answers]:
    """Ask for everything; the answers of the judge, then those of its twin.

    Raises `PreflightError` before anything is asked, and `InstrumentError` for a judge that judges
    no clean reply.
    """
    for judge in plan.judges if preflight else ():
        await bench.preflight(judge)
    return [await _ask_one(plan, bench, judge) for judge in plan.judges]


async def _ask_one(plan: Plan, bench: Bench, judge: Judge) -> Answers:
    found = {
        task.name: await bench.verdicts(task.judge, task.items, task.name, patient=task.patient)
        for task in plan.tasks(judge)
    }
    clean = tuple(found[f"clean/{repeat + 1}"] for repeat in range(plan.repeats))
    return Answers(clean, found["gold"], found["attacked"])
