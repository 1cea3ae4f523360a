"""What evaluations are made of: held-out scores, the alarm, and the best checkpoint so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer.alarm import RewardAlarm
from trainer.best import Choice, choose
from trainer.config import Alarm, Best
from trainer.evaluation import Evaluation, evaluate_rows
from trainer.evaluations import EVALUATIONS, append, read
from trainer.ledger import Row
from trainer.scorers import Scorers


class Watching:
    """Follows a training by its evaluations; every process has one and comes to the same end.

    Only the one that `writes` keeps them in `folder`. `resume_at` is the step of the checkpoint
    that the training goes on from: what was evaluated after it is done again.
    """

    def __init__(
        self,
        folder: Path,
        scorers: Scorers,
        alarm: Alarm,
        best: Best,
        say: Callable[[str], None],
        *,
        writes: bool = True,
        resume_at: int | None = None,
    ) -> None:
        self.alarms: list[str] = []
        self._file = folder / EVALUATIONS
        self._scorers = scorers
        self._best = best
        self._alarm = RewardAlarm(alarm)
        self._stops = alarm.stop
        self._say = say
        self._writes = writes
        self.evaluations: list[Evaluation] = []
        for old in read(self._file) if resume_at is not None else []:
            if old.step <= resume_at:
                self._take(old)

    def evaluated(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """Take the rows of an evaluation, of all processes; numbers for the log."""
        dimensions = self._scorers.watched.dimensions
        evaluation = evaluate_rows(rows, dimensions, self._scorers.held_out)
        if self._writes:
            append(self._file, evaluation)
        sentence = self._take(evaluation)
        if sentence:
            self._say(sentence)
        return _numbers(evaluation)

    def stop(self) -> bool:
        """Whether the training is to end: the alarm went off, and is to stop it."""
        return self._stops and bool(self.alarms)

    def choice(self) -> Choice:
        """The best checkpoint so far, and why."""
        return choose(self.evaluations, self._best)

    def best_step(self) -> int | None:
        """Its step; None while none is above the floors."""
        return self.choice().step if self.evaluations else None

    def _take(self, evaluation: Evaluation) -> str | None:
        self.evaluations.append(evaluation)
        sentence = self._alarm.add(evaluation)
        if sentence:
            self.alarms.append(sentence)
        return sentence


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    found = {
        "held_out/score": evaluation.held_out,
        "held_out/rewarded": evaluation.rewarded,
    }
    return {name: estimate.mean for name, estimate in found.items() if estimate is not None}
