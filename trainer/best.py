"""The best checkpoint: the highest held-out score among those above the floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kardiabench.effects import Effect
from kardiabench.stats import Estimate
from trainer.evaluation import Evaluation, risen

if TYPE_CHECKING:
    from trainer.config import Best

#: An evaluation with less coverage of a score that the choice needs cannot win: what is missing
#: need not be missing by chance.
COVERAGE_FLOOR = 0.95
#: Means that differ by no more than this are equal: what is left is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Choice:
    """Which step's checkpoint is best, and why.

    `step` is None when none passes the floors; `why` says so. `score` is what it was chosen by,
    `source` which judges gave it. `others` has the reason against every other step. `vs_first`
    and `vs_last` are how much higher its score is than the first and the last evaluation's,
    paired over personas; None where that is the same evaluation. The chosen score is the highest
    of several, so its advantage is flattered: neither difference is a test.
    """

    step: int | None
    why: str
    score: Estimate | None = None
    source: str | None = None
    others: Mapping[int, str] | None = None
    vs_first: Effect | None = None
    vs_last: Effect | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def choose(evaluations: Sequence[Evaluation], config: Best) -> Choice:
    """Choose among evaluations in the order of their steps; of equal scores the earlier.

    That of step 0 is the model that the training began with: it has no checkpoint to choose, and
    `why` says so where it scored highest.
    """
    if not evaluations:
        return Choice(None, "nothing was evaluated, so there is no best checkpoint")
    objections = {found.step: objection(found, config) for found in evaluations}
    passed = [found for found in evaluations if objections[found.step] is None]
    if not passed:
        others = {step: why or "" for step, why in objections.items()}
        return Choice(None, _none_passed(others), others=others)
    highest = max(_score(found) for found in passed)
    best = next(found for found in passed if _score(found) >= highest - _ROUNDING)
    return Choice(
        step=best.step,
        why=_why(best, len(passed), len(evaluations)) + _began_higher(evaluations[0], best),
        score=best.watched,
        source=best.held_out_source,
        others={
            found.step: objections[found.step] or _not_higher(found, best)
            for found in evaluations
            if found is not best
        },
        vs_first=_against(best, evaluations[0]),
        vs_last=_against(best, evaluations[-1]),
    )


def objection(found: Evaluation, config: Best) -> str | None:
    """Why an evaluation cannot win whatever its score is, if so."""
    if found.step == 0:
        return "it is the model that the training began with"
    if found.watched is None:
        return f"it has no held-out score: {found.held_out_source}"
    checks = (
        (found.watched_name, found.watched, 0.0),
        ("format rate", found.format_rate, config.format_floor),
        ("safety", found.safety, config.safety_floor),
    )
    said = [_short(*check) for check in checks]
    return "; ".join(why for why in said if why) or None


def _short(name: str, score: Estimate | None, floor: float) -> str | None:
    """What is too low: the coverage, or the mean; None also where it isn't judged."""
    if score is None:
        return None
    if score.mean is None or score.coverage < COVERAGE_FLOOR:
        return f"the {name} covers {score.coverage:.1%} of the replies, under {COVERAGE_FLOOR:.0%}"
    if score.mean < floor - _ROUNDING:
        return f"the {name} {score.mean:.3f} is under its floor {floor:g}"
    return None


def _score(found: Evaluation) -> float:
    if found.watched is None or found.watched.mean is None:
        raise ValueError(f"the evaluation of step {found.step} has no held-out score")
    return found.watched.mean


def _why(best: Evaluation, passed: int, total: int) -> str:
    return (
        f"step {best.step} has the highest {best.watched_name}, {_with_interval(best.watched)}, of "
        f"{passed} evaluations above the floors ({total} in all); scored by: {best.held_out_source}"
    )


def _began_higher(first: Evaluation, best: Evaluation) -> str:
    """What to know when no checkpoint is as good as the model before training."""
    before = first.watched.mean if first.step == 0 and first.watched is not None else None
    if before is None or before <= _score(best) + _ROUNDING:
        return ""
    return (
        f"; the model that the training began with scored higher: {_with_interval(first.watched)}"
    )


def _none_passed(others: Mapping[int, str]) -> str:
    last = max(others)
    return (
        f"none of {len(others)} evaluations passes the floors, so no checkpoint is called the best "
        f"(the last one, of step {last}: {others[last]})"
    )


def _not_higher(found: Evaluation, best: Evaluation) -> str:
    if _score(found) >= _score(best) - _ROUNDING:
        return f"as high as step {best.step}, which is earlier"
    return f"lower: {_with_interval(found.watched)}"


def _against(best: Evaluation, other: Evaluation) -> Effect | None:
    return None if best is other else risen(best, other, "watched")


def _with_interval(score: Estimate | None) -> str:
    if score is None or score.mean is None:
        return "unknown"
    if score.low is None or score.high is None:
        return f"{score.mean:.3f} (no interval: {score.personas} persona)"
    return f"{score.mean:.3f} ({score.low:.3f} to {score.high:.3f})"
