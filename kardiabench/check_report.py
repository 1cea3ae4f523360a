"""The sections `check` and `anchors` of a judge card, from what the judge answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kardiabench import checks
from kardiabench.anchors import TARGETS, Anchor, anchors_fingerprint, load_anchors
from kardiabench.bench import Bench, run
from kardiabench.cards import update_card
from kardiabench.checking import ORDERS, Answers, Plan, ask, count
from kardiabench.checks import Check, Sample
from kardiabench.own_family import codes, own_family
from kardiabench.records import Dimension, Usage, Verdict
from kardiabench.report import plain
from kardiabench.stats import Floats

if TYPE_CHECKING:
    from rich.console import Console

_TARGETS: dict[str, str] = dict(TARGETS.items())


def measure(plan: Plan, bench: Bench, journal: Path, cards: Path) -> tuple[dict[str, Any], Path]:
    """Ask what the journal lacks, write the judge's card; its section `check` and its path.

    Raises `PreflightError` before anything is asked and `InstrumentError` for a judge that judges
    nothing; then no card is written.
    """
    total, known = count(plan, bench)
    with bench.measuring(total, f"checking {plan.judge.name}"):
        answers = run(bench, lambda: _ask(plan, bench, is_complete=known == total))
    ended = datetime.fromtimestamp(journal.stat().st_mtime, UTC)
    section = report(plan, answers) | {"last_asked": ended.isoformat(timespec="seconds")}
    if len(plan.anchors) == len(load_anchors()):  # a part of them is nothing to compare runs with
        update_card(cards, plan.judge, "anchors", baseline(plan, answers))
    return section, update_card(cards, plan.judge, "check", section)


async def _ask(plan: Plan, bench: Bench, *, is_complete: bool) -> Answers:
    if not is_complete:
        await bench.preflight(plan.judge)
    return await ask(plan, bench)


def report(plan: Plan, answers: Answers) -> dict[str, Any]:
    """The section `check` of the judge card."""
    found = _checks(plan, answers)
    return {
        "anchors": anchors_fingerprint(),
        "bases": len(plan.golds),
        "items": len(plan.anchors),
        "personas": len({anchor.persona_id for anchor in plan.anchors}),
        "repeats": plan.repeats,
        "judgements": sum(map(len, answers.verdicts.values())),
        "coverage": answers.coverage,
        "usage": asdict(Usage.total(v.usage for task in answers.verdicts.values() for v in task)),
        "checks": found,
        "findings": [sentence for one in found.values() for sentence in one["sentences"]],
        "unknown": [
            f"{name.replace('_', ' ')}: {one['reason']}"
            for name, one in found.items()
            if one["result"] == "unknown"
        ],
    }


def baseline(plan: Plan, answers: Answers) -> dict[str, Any]:
    """The section `anchors` of the judge card: what later scores of the anchors compare with."""
    names = [dimension.name for dimension in plan.judge.dimensions]
    table = _repeated(plan, answers)
    return {
        "fingerprint": anchors_fingerprint(),
        "repeats": plan.repeats,
        "scores": {
            anchor.id: {name: _summed_up(table[:, at, i]) for i, name in enumerate(names)}
            for at, anchor in enumerate(plan.anchors)
        },
    }


def _summed_up(scores: Floats) -> dict[str, Any]:
    there = scores[~np.isnan(scores)]
    return {"mean": float(there.mean()) if len(there) else None, "n": len(there)}


def _repeated(plan: Plan, answers: Answers) -> Floats:
    """(repeats, anchors, dimensions)."""
    names = [f"anchors/{repeat + 1}" for repeat in range(plan.repeats)]
    return np.stack([answers.scores(name, plan.judge.dimensions) for name in names])


def _checks(plan: Plan, answers: Answers) -> dict[str, Check]:
    dimensions = plan.judge.dimensions
    table = _repeated(plan, answers)
    means = checks.over_repeats(table)
    kinds = [anchor.kind for anchor in plan.anchors]
    sample = _sample(plan.anchors)
    is_gold = np.array([kind == "gold" for kind in kinds])
    filled = answers.scores("padding", dimensions)
    return {
        "retest": checks.retest(table, dimensions),
        "spread": checks.spread(means, dimensions),
        "sensitivity": checks.sensitivity(means, kinds, sample, dimensions, _TARGETS),
        "padding": checks.padding(means[is_gold], filled, sample.personas[is_gold], dimensions),
        "order": _order(plan, answers),
        "self_preference": _self_preference(plan, answers),
    }


def _sample(anchors: Sequence[Anchor]) -> Sample:
    bases = codes([anchor.item.turn.id for anchor in anchors])
    return Sample(bases, codes([anchor.persona_id for anchor in anchors]))


def _order(plan: Plan, answers: Answers) -> Check:
    """Of the dimensions in the prompt, or of the replies for a judge of pairs."""
    dimensions = plan.judge.dimensions
    pairs = _by_place(answers.verdicts["anchors/1"], dimensions)
    if pairs is not None:
        return checks.position(*pairs, _sample(plan.anchors).personas, dimensions)
    if not plan.order_judges:
        return checks.unknown("the judge offers no order of its dimensions to choose from")
    fixed, turned = (answers.scores(f"order/{order}", dimensions) for order in ORDERS)
    return checks.order(fixed, turned, _sample(plan.ordered).personas, dimensions)


def _by_place(
    verdicts: Sequence[Verdict], dimensions: Sequence[Dimension]
) -> tuple[Floats, Floats] | None:
    """What a judge of pairs says of each reply in the first and in the second place.

    Such a judge keeps both among the `parts` of its verdicts, as `first` and `second`, or as
    `first 1`, `second 1`, … for several samples. None for any other judge.
    """
    first, second = (
        np.array([[_in_place(v, place, d.name) for d in dimensions] for v in verdicts])
        for place in ("first", "second")
    )
    seen = ~(np.isnan(first) | np.isnan(second))
    return (first, second) if seen.any() else None


def _in_place(verdict: Verdict, place: str, dimension: str) -> float:
    """The mean of the samples; NaN where there is none."""
    parts = (part for name, part in verdict.parts.items() if name.split(" ")[0] == place)
    scores = [score for part in parts if (score := part.get(dimension)) is not None]
    return sum(scores) / len(scores) if scores else float("nan")


def _self_preference(plan: Plan, answers: Answers) -> Check:
    candidates, own = plan.candidates, own_family(plan.judge.identity)
    if candidates is None or own is None:
        return checks.unknown(plan.unasked["self_preference"])
    dimensions = plan.judge.dimensions
    gaps = [
        candidates.gap(
            {n: answers.scores(f"{task}/{n}", dimensions) for n in candidates.items}, own
        )
        for task in (("replies", "reference") if plan.reference else ("replies",))
    ]
    reference = gaps[1] if plan.reference else None
    found = checks.self_preference(gaps[0], reference, candidates.personas, dimensions)
    families = sorted(set(candidates.families.values()))
    return found | {"own_family": own, "families": families, "turns": len(gaps[0])}


def show_check(section: Mapping[str, Any], console: Console) -> None:
    """Print how each check ended."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Instrument checks", title_justify="left")
    for column in ("check", "result", "what was found, or why nothing can be said"):
        table.add_column(column, overflow="fold")
    for name, one in section["checks"].items():
        said = [*one["sentences"], *([one["reason"]] if one["reason"] else [])]
        cells = (name.replace("_", " "), one["result"], "\n".join(said))
        table.add_row(*(Text(plain(cell)) for cell in cells))
    console.print(table)
