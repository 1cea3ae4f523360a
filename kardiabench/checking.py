"""`judges check`: what a judge is asked about replies of known quality, and what it answers.

`Plan` says what is asked for, `Answers` has what came back, `check_report` makes sense of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kardiabench.anchors import Anchor, item_with_response, load_anchors
from kardiabench.bench import Bench
from kardiabench.contracts import Judge
from kardiabench.errors import ConfigError
from kardiabench.files import lock_folder
from kardiabench.fingerprints import fingerprint
from kardiabench.journal import Journal
from kardiabench.own_family import Candidates, own_family, spread_out
from kardiabench.records import Dimension, Item, Verdict
from kardiabench.registry import parse_spec
from kardiabench.scoring import JUDGED, item_key
from kardiabench.stats import Floats

JOURNAL = "check.jsonl"
#: Sentences that say nothing: no feeling, no advice, nothing about the person or the matter.
FILLERS = (
    "That is what there is to say at this point, and there is no more to it than that; the words "
    "stand here as they were put down above.",
    "What comes before this sentence is the answer, and this sentence is only here because an "
    "answer may have one more sentence at its end, as this one does.",
    "This is the end of the message, which began further up and has now arrived at its last line, "
    "and after this line there is nothing else to read in it.",
)
#: Base turns of which the order effect is measured, with all their replies.
ORDERED_BASES = 12
#: What the option `order` of a judge with a say in it is set to, to compare.
ORDERS = ("fixed", "reversed")


@dataclass(frozen=True)
class Task:
    """One thing to ask a judge for, by the name that the journal has it under."""

    name: str
    judge: Judge
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a check asks for. `unasked` says why something is not asked."""

    judge: Judge
    anchors: tuple[Anchor, ...]
    repeats: int
    order_judges: Mapping[str, Judge] = field(default_factory=dict)
    candidates: Candidates | None = None
    reference: Judge | None = None
    unasked: Mapping[str, str] = field(default_factory=dict)

    @property
    def items(self) -> tuple[Item, ...]:
        """The anchors' items."""
        return tuple(anchor.item for anchor in self.anchors)

    @property
    def golds(self) -> tuple[Anchor, ...]:
        """The undegraded anchors."""
        return tuple(anchor for anchor in self.anchors if anchor.kind == "gold")

    @property
    def ordered(self) -> tuple[Anchor, ...]:
        """The anchors of which the order effect is measured."""
        return choose_bases(self.anchors, ORDERED_BASES)

    def tasks(self) -> Iterator[Task]:
        """What is asked for, in order."""
        for repeat in range(self.repeats):
            yield Task(f"anchors/{repeat + 1}", self.judge, self.items)
        yield Task("padding", self.judge, tuple(padded(self.golds)))
        for order, judge in self.order_judges.items():
            yield Task(f"order/{order}", judge, tuple(anchor.item for anchor in self.ordered))
        for name, items in self.candidates.items.items() if self.candidates else ():
            yield Task(f"replies/{name}", self.judge, items)
            if self.reference is not None:
                yield Task(f"reference/{name}", self.reference, items)


@dataclass
class Answers:
    """The verdicts of every task, by its name."""

    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)

    def scores(self, task: str, dimensions: Sequence[Dimension]) -> Floats:
        """(items, dimensions), NaN where there is no score."""
        rows = [[v.scores.get(d.name) for d in dimensions] for v in self.verdicts[task]]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(dimensions))

    @property
    def coverage(self) -> float:
        """The share of judgements that were made."""
        made = [v.status in JUDGED for found in self.verdicts.values() for v in found]
        return sum(made) / len(made)


def make_plan(
    bench: Bench,
    spec: str,
    repeats: int,
    *,
    bases: int | None = None,
    candidates: Candidates | None = None,
    reference: str | None = None,
) -> Plan:
    """What a check of the judge `spec` asks for, of `bases` base turns (all of them: None).

    Raises `ConfigError` for a reference that cannot be one.
    """
    judge, anchors = bench.make(spec), load_anchors()
    plan = Plan(
        judge=judge,
        anchors=choose_bases(anchors, bases or len(anchors)),
        repeats=repeats,
        order_judges=_order_judges(bench, spec, judge),
    )
    return _add_candidates(plan, candidates, bench.make(reference) if reference else None)


def open_journal(folder: Path, *, fresh: bool) -> Journal:
    """The journal of the checks of the judge whose card is in `folder`; `fresh` empties it."""
    path = folder / JOURNAL
    if fresh and path.exists():
        lock = lock_folder(folder)
        path.unlink()
        lock.release()
    return Journal(path)


def choose_bases(anchors: Sequence[Anchor], number: int) -> tuple[Anchor, ...]:
    """The anchors of at most `number` base turns, spread over the personas."""
    persona_of = {anchor.item.turn.id: anchor.persona_id for anchor in anchors}
    bases = list(persona_of)
    chosen = {bases[at] for at in spread_out(list(persona_of.values()), number)}
    return tuple(anchor for anchor in anchors if anchor.item.turn.id in chosen)


def padded(golds: Sequence[Anchor]) -> Iterator[Item]:
    """The gold replies with a filler behind the response, the fillers in turn."""
    for number, anchor in enumerate(golds):
        response = anchor.item.reply.spans.response or ""
        filler = FILLERS[number % len(FILLERS)]
        yield item_with_response(anchor.item.turn, f"{response} {filler}")


def _order_judges(bench: Bench, spec: str, judge: Judge) -> dict[str, Judge]:
    """The judge with its dimensions in each order to compare; empty where it has no say in it."""
    if not set(ORDERS) <= set(getattr(judge, "orders", ())):
        return {}
    return {order: bench.make(_with_option(spec, "order", order)) for order in ORDERS}


def _add_candidates(plan: Plan, candidates: Candidates | None, reference: Judge | None) -> Plan:
    """The plan with the check of self-preference in it, or the reason why it is left out."""
    reason = _unanswerable(plan.judge, candidates)
    if reason is not None:
        return replace(plan, unasked={**plan.unasked, "self_preference": reason})
    family = own_family(reference.identity) if reference is not None else None
    if candidates is not None and family in candidates.families.values():
        raise ConfigError(
            f"--reference is of the family {family}, whose replies are given: it would judge its "
            "own; use a judge of another family"
        )
    if reference is not None:
        _check_scales(plan.judge, reference)
    return replace(plan, candidates=candidates, reference=reference)


def _check_scales(judge: Judge, reference: Judge) -> None:
    ranges = {d.name: (d.low, d.high) for d in reference.dimensions}
    for d in judge.dimensions:
        if ranges.get(d.name) != (d.low, d.high):
            raise ConfigError(
                f"--reference {reference.name} does not rate {d.name} from {d.low:g} to {d.high:g} "
                f"as {judge.name} does; use a judge with the same dimensions"
            )


def _unanswerable(judge: Judge, candidates: Candidates | None) -> str | None:
    if candidates is None:
        return "no replies were given (--replies FAMILY=RUN, two or more)"
    own, given = own_family(judge.identity), sorted(set(candidates.families.values()))
    if own is None:
        return "the judge's identity names no model of one known family"
    if own not in given:
        return f"none of the replies is of the judge's own family, {own}: {', '.join(given)}"
    if len(given) < 2:
        return f"all replies are of the judge's own family, {own}"
    return None


def count(plan: Plan, bench: Bench) -> tuple[int, int]:
    """How many judgements the plan takes, and how many of them the journal has already."""
    total = known = 0
    for task in plan.tasks():
        mark = fingerprint(task.judge.identity)
        total += len(task.items)
        if bench.journal is not None:
            found = (bench.journal.get(task.name, mark, item_key(*item)) for item in task.items)
            known += sum(verdict is not None for verdict in found)
    return total, known


async def ask(plan: Plan, bench: Bench) -> Answers:
    """Ask for everything, one task after another, so that repeats are apart in time.

    Raises `InstrumentError` for a judge that judges nothing.
    """
    answers = Answers()
    for task in plan.tasks():
        answers.verdicts[task.name] = await bench.verdicts(task.judge, task.items, task.name)
    return answers


def _with_option(spec: str, option: str, value: str) -> str:
    name, options = parse_spec(spec)
    options[option] = value
    return f"{name}:" + ",".join(f"{key}={text}" for key, text in options.items())
