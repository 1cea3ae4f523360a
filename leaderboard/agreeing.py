"""Whether the runs of one protocol speak of the same data: a run that does not is left out.

A protocol's id stands for the dialogues. Which persona a turn is of, and which emotion is gold, is
what each run says; who submits a run could say something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard.processing import Ready
from leaderboard.turn_scores import TurnScores, load
from leaderboard.views import Problem

_Facts = Mapping[bytes, tuple[bytes, int]]


def agreeing(
    chosen: Sequence[Ready],
) -> tuple[list[Ready], dict[str, TurnScores], list[Problem]]:
    """The runs that agree with the others of their protocol, their scores by id, and the rest."""
    turns = {one.extract.id: load(one.folder) for one in chosen}
    problems: dict[int, Problem] = {}
    for protocol in dict.fromkeys(one.extract.protocol for one in chosen):
        places = [at for at, one in enumerate(chosen) if one.extract.protocol == protocol]
        wrong = contradictions([turns[chosen[at].extract.id] for at in places])
        for place, other in wrong.items():
            problems[places[place]] = _problem(chosen[places[place]], chosen[places[other]])
    kept = [one for at, one in enumerate(chosen) if at not in problems]
    return kept, {one.extract.id: turns[one.extract.id] for one in kept}, [*problems.values()]


def _problem(one: Ready, other: Ready) -> Problem:
    why = (
        f"it has the protocol of {other.path.name} and says otherwise which persona a turn is of, "
        "or which emotion is gold: one of the two was edited"
    )
    return Problem(one.path.name, why)


def contradictions(runs: Sequence[TurnScores]) -> dict[int, int]:
    """Of runs of one protocol those that contradict the others, each with one that it contradicts.

    By their places. What most of the runs with most turns say is taken for true; of two equally
    many the one that was given first.
    """
    if len(runs) < 2:
        return {}
    judge = _reference(runs)
    known = _facts(runs[judge])
    return {
        place: judge
        for place, run in enumerate(runs)
        if not _same(run, runs[judge]) and _contradicts(run, known)
    }


def _reference(runs: Sequence[TurnScores]) -> int:
    """The place of the first run that says what most of those with most turns say."""
    most = max(len(run.turns) for run in runs)
    marks = {place: _mark(run) for place, run in enumerate(runs) if len(run.turns) == most}
    counts = Counter(marks.values())
    return max(marks, key=lambda place: (counts[marks[place]], -place))


def _mark(run: TurnScores) -> tuple[bytes, ...]:
    return run.turns.tobytes(), run.personas.tobytes(), run.gold.tobytes()


def _same(one: TurnScores, other: TurnScores) -> bool:
    return (
        np.array_equal(one.turns, other.turns)
        and np.array_equal(one.personas, other.personas)
        and np.array_equal(one.gold, other.gold)
    )


def _facts(run: TurnScores) -> _Facts:
    said = zip(run.personas.tolist(), run.gold.tolist(), strict=True)
    return dict(zip(run.turns.tolist(), said, strict=True))


def _contradicts(run: TurnScores, known: _Facts) -> bool:
    """Whether it says otherwise of a turn; turns that nobody else has contradict nothing."""
    return any(known.get(turn, said) != said for turn, said in _facts(run).items())
