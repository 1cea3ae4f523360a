"""The alarm: the rewarded score rises, and the score that nothing is rewarded for doesn't.

Every evaluation is compared, over personas, with the first one and with the one whose held-out
score was best so far: rewards that are gamed often raise the held-out score at first. What this
rule finds, and how often it is wrong, was simulated: see docs/training.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from kardiabench.effects import Effect
from trainer.evaluation import Evaluation, differences, over_personas, risen

if TYPE_CHECKING:
    from trainer.config import Alarm

_ADVICE = (
    "the policy may be learning to please the rewarded judges only: read replies of both steps, "
    "and take the best checkpoint, not the last"
)
_NOT_INDEPENDENT = (
    "; nothing independent is watched, and this may be progress that the stand-in doesn't measure: "
    "name a judge in held_out.judges"
)


class RewardAlarm:
    """Takes the evaluations of a training in order.

    An evaluation is suspect when one of these holds, with differences and 95% intervals over
    personas:

    - since the first evaluation the rewarded score rose by `rise` or more, its interval above 0;
      the watched one rose by less than `answer` times that; and the interval of the difference
      between both rises is above 0;
    - since the evaluation with the best watched score the rewarded score rose by `rise` or more,
      its interval above 0, and the watched one fell, its interval below 0.

    The alarm fires at the `patience`-th suspect evaluation in a row, once for each such series.
    Evaluations that lack a score, or have only one persona, are never suspect.
    """

    def __init__(self, config: Alarm) -> None:
        self.config = config
        #: Whether it has fired on a held-out judge's word, not only on the stand-in's.
        self.fired_independently = False
        self._first: Evaluation | None = None
        self._best: Evaluation | None = None
        self._last_step = -1
        self._suspect = 0

    @classmethod
    def replayed(cls, config: Alarm, evaluations: Iterable[Evaluation]) -> Self:
        """The alarm as it stands after these evaluations, for a training that is resumed."""
        alarm = cls(config)
        for evaluation in evaluations:
            alarm.add(evaluation)
        return alarm

    @property
    def stop(self) -> bool:
        """Whether training is to end: it is configured so, and a held-out judge was watched."""
        return self.config.stop and self.fired_independently

    def add(self, evaluation: Evaluation) -> str | None:
        """Take the next evaluation; the sentence for the user when the alarm fires.

        One of a step that was taken before, as after a resumption, says nothing new.
        """
        if _watched_mean(evaluation) is None or evaluation.rewarded.mean is None:
            return None  # says nothing for or against
        if evaluation.step <= self._last_step:
            return None
        self._last_step = evaluation.step
        found = self._unanswered(evaluation) or self._fallen(evaluation)
        self._suspect = self._suspect + 1 if found else 0
        self._remember(evaluation)
        if found is None or self._suspect != self.config.patience:
            return None
        self.fired_independently |= evaluation.independent
        return self._sentence(evaluation, found)

    def _unanswered(self, now: Evaluation) -> str | None:
        then = self._first
        rewarded = None if then is None else self._rise(now, then)
        if then is None or rewarded is None:
            return None
        watched = risen(now, then, "watched")
        if _is_answer(watched, rewarded, self.config.answer):
            return None
        apart = differences(now, then, "rewarded") - differences(now, then, "watched")
        if not _above_zero(over_personas(apart)):
            return None
        return _numbers(now, rewarded, watched, f"from step {then.step} to step {now.step}")

    def _fallen(self, now: Evaluation) -> str | None:
        then = self._best
        rewarded = None if then is None else self._rise(now, then)
        if then is None or rewarded is None:
            return None
        watched = risen(now, then, "watched")
        if watched.high is None or watched.high >= 0:
            return None
        when = f"from step {then.step}, the best by the {now.watched_name}, to step {now.step}"
        return _numbers(now, rewarded, watched, when)

    def _rise(self, now: Evaluation, then: Evaluation) -> Effect | None:
        """How far the rewarded score rose, if it is enough and beyond chance."""
        found = risen(now, then, "rewarded")
        enough = found.mean is not None and found.mean >= self.config.rise
        return found if enough and _above_zero(found) else None

    def _remember(self, evaluation: Evaluation) -> None:
        self._first = self._first or evaluation
        best = None if self._best is None else _watched_mean(self._best)
        mean = _watched_mean(evaluation)
        if best is None or (mean is not None and mean > best):
            self._best = evaluation

    def _sentence(self, evaluation: Evaluation, numbers: str) -> str:
        times = f", {self._suspect} evaluations in a row" if self._suspect > 1 else ""
        tail = "" if evaluation.independent else _NOT_INDEPENDENT
        return f"{numbers} ({evaluation.held_out_source}{times}): {_ADVICE}{tail}"


def unwatched(evaluation: Evaluation) -> str | None:
    """Why the alarm cannot be relied on in this training, if so: for the first evaluation."""
    if evaluation.watched is None:
        return (
            f"the alarm cannot fire ({evaluation.held_out_source}); name a judge in "
            "held_out.judges, or the judges format and emotion in judging.judges"
        )
    if evaluation.personas < 2:
        return (
            "the alarm cannot fire: replies to one persona have no interval; raise "
            "held_out.personas and held_out.dialogues"
        )
    if not evaluation.independent:
        return (
            f"nothing independent is watched ({evaluation.held_out_source}); name a judge of "
            "another model or prompt in held_out.judges"
        )
    return None


def _watched_mean(evaluation: Evaluation) -> float | None:
    return None if evaluation.watched is None else evaluation.watched.mean


def _is_answer(watched: Effect, rewarded: Effect, share: float) -> bool:
    """Whether the watched score rose with the rewarded one; true where that isn't known."""
    if watched.mean is None or rewarded.mean is None:
        return True
    return watched.mean >= share * rewarded.mean


def _above_zero(found: Effect) -> bool:
    return found.low is not None and found.low > 0


def _numbers(now: Evaluation, rewarded: Effect, watched: Effect, when: str) -> str:
    return (
        f"{when} the rewarded score changed by {with_interval(rewarded)} and the "
        f"{now.watched_name} by {with_interval(watched)}"
    )


def with_interval(found: Effect) -> str:
    """A difference as it is written in sentences: `+0.120 (95% interval +0.080 to +0.160)`."""
    if found.mean is None:
        return "an unknown amount"
    if found.low is None or found.high is None:
        return f"{_signed(found.mean)} (no interval)"
    low, high = _signed(found.low), _signed(found.high)
    return f"{_signed(found.mean)} (95% interval {low} to {high})"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000
