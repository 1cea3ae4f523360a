"""What evaluations are made of: held-out scores, the alarm, and the best checkpoint so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kardiabench.errors import RunError
from trainer.alarm import RewardAlarm, unwatched
from trainer.arguments import processes
from trainer.best import Choice, choose
from trainer.completeness import Completeness, Fault, check_there, merged, steps_between
from trainer.config import Grpo
from trainer.evaluation import Evaluation, evaluate_rows
from trainer.evaluations import EVALUATIONS, append, go_back, read
from trainer.ledger import Row, ledgers_of
from trainer.scorers import Scorers
from trainer.spread import check_spread
from trainer.watch import new_concerns, watch, watched_steps

#: So many of the first and of the last batches are looked back on.
_REMEMBERED = 50
_RESTORE = "restore the files, or give another output folder"
#: What is watched and not in TRL's log already.
_LOGGED = ("length_correlation", "zero_spread_share", "repetition", "distinct_2", "truncated_share")


class Watching:
    """Follows a training by its evaluations; every process has one and comes to the same end.

    Only the one that `writes` keeps them in the output folder. `after` is called when an evaluation
    is there. `resume_at` is the step of the checkpoint
    that the training goes on from: what was evaluated after it is done again.
    """

    def __init__(
        self,
        stage: Grpo,
        scorers: Scorers,
        say: Callable[[str], None],
        *,
        writes: bool = True,
        resume_at: int | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self._file = stage.output / EVALUATIONS
        self._scorers = scorers
        self._best = stage.best
        self._alarm = RewardAlarm(stage.alarm)
        # Under `gdpo` equal composites may be made of different parts, which teach.
        self._composites_teach = stage.normalize == "composite"
        self._after = after
        self._say = say
        self._writes = writes
        self.evaluations: list[Evaluation] = []
        self._first = resume_at is None
        self._history = [] if resume_at is None else self._earlier(stage, resume_at)
        if writes and self._file.exists():
            go_back(self._file, resume_at)
        if resume_at is not None:
            for old in read(self._file):
                if old.step <= resume_at:
                    self._take(old)

    def trained(self, rows: Sequence[Row], divergence: float | None) -> Mapping[str, float]:
        """Take the candidates of a batch, of all processes; numbers for the log.

        Raises `PreflightError` for a first batch that nothing can be learned from. `divergence` is
        the last KL divergence from the first policy, where it is measured.
        """
        if self._first and self._composites_teach:
            check_spread(rows)
        self._first = False
        numbers = watch(rows, self._scorers.rewarded.dimensions)
        self._history.append(numbers | ({} if divergence is None else {"kl": divergence}))
        self._history = _shortened(self._history)
        for sentence in new_concerns(self._history):
            self._say(sentence)
        return {f"watch/{name}": numbers[name] for name in _LOGGED if name in numbers}

    def evaluated(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """Take the rows of an evaluation, of all processes; numbers for the log."""
        dimensions = self._scorers.watched.dimensions
        evaluation = evaluate_rows(rows, dimensions, self._scorers.held_out)
        if self._writes:
            append(self._file, evaluation)
        alarm = self._take(evaluation)
        blind = unwatched(evaluation) if len(self.evaluations) == 1 else None
        for sentence in filter(None, (blind, alarm)):
            self._say(sentence)
        if self._after is not None:
            self._after()
        return _numbers(evaluation)

    def stop(self) -> bool:
        """Whether the training is to end: the alarm of a held-out judge went off, and is to."""
        return self._alarm.stop

    def choice(self) -> Choice:
        """The best checkpoint so far, and why."""
        return choose(self.evaluations, self._best)

    def best_step(self) -> int | None:
        """Its step; None while none is above the floors."""
        return self.choice().step if self.evaluations else None

    def _earlier(self, stage: Grpo, step: int) -> list[dict[str, float]]:
        """What was watched before the checkpoint of `step`, as the ledgers have it.

        Raises `RunError` where they, or the evaluations, lack something that was there then.
        """
        check_there(stage.output, processes(), f"that has a checkpoint of step {step}")
        every = steps_between(stage.iterations, stage.trl)
        look = Completeness(_refuse(stage.output), every=every)
        rows = (row for row in merged(ledgers_of(stage.output)) if _is_before(row, step))
        steps = watched_steps(look.through(rows), self._scorers.rewarded.dimensions)
        history = _shortened([numbers for _, numbers in steps])
        _check_reached(stage.output, look.trained, step, every)
        _check_evaluations(self._file, look.evaluated, step)
        return history

    def _take(self, evaluation: Evaluation) -> str | None:
        self.evaluations.append(evaluation)
        return self._alarm.add(evaluation)


def _is_before(row: Row, step: int) -> bool:
    """Whether the row was there at the checkpoint of `step`: evaluations come before it."""
    return row.step < step or (row.phase == "eval" and row.step == step)


def _refuse(folder: Path) -> Callable[[Fault], None]:
    def refuse(fault: Fault) -> None:
        phase, step, rank, call, group, candidate = fault.place
        raise RunError(
            f"the ledgers in {folder} are not whole ({phase} step {step}, rank {rank}, "
            f"call {call}, group {group}, candidate {candidate}: {fault.what}); {_RESTORE}"
        )

    return refuse


def _check_reached(folder: Path, last: int | None, step: int, every: float) -> None:
    """Raise `RunError` where the ledgers end before the checkpoint of `step`."""
    if last is None or last + every < step:
        end = "have no candidates of training" if last is None else f"end at step {last}"
        raise RunError(
            f"the ledgers in {folder} {end}, before the checkpoint of {step}; {_RESTORE}"
        )


def _check_evaluations(file: Path, judged: Sequence[int], step: int) -> None:
    """Raise `RunError` where ledgers and evaluations up to `step` are not of the same steps."""
    kept = {old.step for old in read(file) if old.step <= step}
    for at in sorted(kept ^ set(judged)):
        gone = "candidates of evaluation" if at in kept else "the evaluation"
        where = f"the ledgers in {file.parent}" if at in kept else str(file)
        state = (
            "are without"
            if at in kept
            else "is without"
            if file.exists()
            else "is missing, and with it"
        )
        raise RunError(
            f"{where} {state} {gone} of step {at}, which was there at the checkpoint of step "
            f"{step}; {_RESTORE}"
        )


def _shortened(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The first steps, which later ones are compared with, and the last."""
    if len(history) <= 2 * _REMEMBERED:
        return history
    return history[:_REMEMBERED] + history[-_REMEMBERED:]


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    """Means for the log; what stands in for a held-out judge has a name of its own."""
    watched = "held_out/score" if evaluation.independent else "held_out/stand_in"
    found = {watched: evaluation.watched, "held_out/rewarded": evaluation.rewarded}
    means = {name: estimate.mean for name, estimate in found.items() if estimate is not None}
    return {name: mean for name, mean in means.items() if mean is not None}
