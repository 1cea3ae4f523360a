"""Where the uncertainty of a mean comes from: personas, dialogues, turns, or the judge.

The model is nested, turn in dialogue in persona: value = mean + persona + dialogue + turn + judge,
independent parts each with a variance of its own. The mean is the mean of persona means.
Of the differences of two models' turns it splits the uncertainty of their comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kardiabench.stats import Codes, Floats


@dataclass(frozen=True, slots=True)
class Repeats:
    """What judging the same replies repeatedly showed.

    `variance` is that between repeats of one turn, n - 1 in the denominator, pooled over the
    `turns` that have several; `repeats` is the mean number that a turn's value is the mean of.
    """

    variance: float
    repeats: float
    turns: int


@dataclass(frozen=True, slots=True)
class Level:
    """A part of the variance.

    `variance` is `raw` or 0: an unbiased estimate may be negative, where the part is small.
    `number` counts the personas, the dialogues, the turns, or the turns judged repeatedly.
    """

    variance: float
    raw: float
    number: int


@dataclass(frozen=True, slots=True)
class Components:
    """The parts of the variance of turns, from the top.

    A part is None where nothing tells it apart from the one above, which then holds it: `dialogue`
    with one dialogue for each persona, `turn` with one turn for each dialogue. `persona` is None
    for fewer than two personas. `judge` is the variance of one judgement of one reply, None
    without repeats: then `turn` holds it. `repeats` is how many a turn's value is the mean of.
    `standard_error` is that of the mean of persona means which follows from the parts.
    `dialogue_share` and `turn_share` are the means over personas of the sum of squares of its
    dialogues' shares of the turns, and of 1 / turns: 1 / dialogues, 1 / turns in a balanced design.
    """

    persona: Level | None
    dialogue: Level | None
    turn: Level | None
    judge: Level | None
    repeats: float
    standard_error: float | None
    dialogue_share: float
    turn_share: float


@dataclass(frozen=True, slots=True)
class Step:
    """Twice as many of `what` (`personas`, `dialogues`, `judgements`) and what it would bring.

    `narrower` is the share by which the 95% t interval narrows, fewer degrees of freedom counted.
    """

    what: str
    standard_error: float
    narrower: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What doubling would bring, the best first, and that in a sentence."""

    steps: tuple[Step, ...]
    sentence: str


def components(
    values: Floats, personas: Codes, dialogues: Codes, repeats: Repeats | None = None
) -> Components | None:
    """Split the variance of `values` (shape (n,), NaN where missing); None for no value.

    Method of moments, unbiased whatever the sizes (Searle, Casella and McCulloch 1992): within
    dialogues and within personas by the nested analysis of variance, between personas by the
    variance of their means, whose weights are those of the mean itself ("unweighted means"). With
    a balanced design it is the classical analysis, and REML where no part is negative. Dialogues
    (codes >= 0, like personas) are told apart within a persona only.
    """
    seen = ~np.isnan(values)
    if not seen.any():
        return None
    design = _Design(values[seen], personas[seen], dialogues[seen])
    turn = design.within_dialogues()
    dialogue = design.between_dialogues(turn or 0.0)
    persona = design.between_personas(dialogue or 0.0, turn or 0.0)
    noise = repeats.variance / repeats.repeats if repeats and turn is not None else 0.0
    return _components(
        persona=_level(persona, len(design.sizes)),
        dialogue=_level(dialogue, len(design.dialogue_sizes)),
        turn=_level(None if turn is None else turn - noise, len(design.values)),
        judge=_judge(repeats) if turn is not None else None,
        repeats=repeats.repeats if repeats else 1.0,
        shares=(design.dialogue_share, design.turn_share),
    )


def advice(found: Components) -> Advice | None:
    """What would narrow the interval; None where there is none, or it has no width."""
    if found.persona is None or not found.standard_error:
        return None
    number = found.persona.number
    halves = {
        "personas": _error(found, 2 * number),
        "dialogues": None if found.dialogue is None else _error(found, number, dialogues=2),
        "judgements": None if found.judge is None else _error(found, number, judgements=2),
    }
    steps = [
        Step(what, error, 1 - error / found.standard_error * _narrowing(what, number))
        for what, error in halves.items()
        if error is not None
    ]
    steps.sort(key=lambda step: -step.narrower)
    return Advice(tuple(steps), _sentence(steps))


class _Design:
    """Codes without gaps, sizes and means of one data set without missing values."""

    def __init__(self, values: Floats, personas: Codes, dialogues: Codes) -> None:
        self.values = values
        apart = personas * (int(dialogues.max()) + 1) + dialogues
        _, start, self.dialogue = np.unique(apart, return_index=True, return_inverse=True)
        _, self.persona_of = np.unique(personas[start], return_inverse=True)
        persona = self.persona_of[self.dialogue]
        self.dialogue_sizes = np.bincount(self.dialogue).astype(np.float64)
        self.sizes = np.bincount(persona).astype(np.float64)
        self.dialogue_means = np.bincount(self.dialogue, values) / self.dialogue_sizes
        self.means = np.bincount(persona, values) / self.sizes
        squares = np.bincount(self.persona_of, self.dialogue_sizes**2)
        self._squares_by_size = float((squares / self.sizes).sum())
        self.dialogue_share = float((squares / self.sizes**2).mean())
        self.turn_share = float((1 / self.sizes).mean())

    def within_dialogues(self) -> float | None:
        """The variance of turns."""
        free = len(self.values) - len(self.dialogue_sizes)
        if not free:
            return None
        return float(((self.values - self.dialogue_means[self.dialogue]) ** 2).sum()) / free

    def between_dialogues(self, turn: float) -> float | None:
        """The variance of dialogues: E[SS] = (b - a) turn + (N - sum n_ij^2 / n_i) dialogue."""
        free = len(self.dialogue_sizes) - len(self.sizes)
        if not free:
            return None
        off = self.dialogue_means - self.means[self.persona_of]
        squares = float((self.dialogue_sizes * off**2).sum())
        return (squares - free * turn) / (len(self.values) - self._squares_by_size)

    def between_personas(self, dialogue: float, turn: float) -> float | None:
        """The variance of personas: that of their means less what dialogues and turns give it."""
        if len(self.sizes) < 2:
            return None
        below = dialogue * self.dialogue_share + turn * self.turn_share
        return float(self.means.var(ddof=1)) - below


def _level(raw: float | None, number: int) -> Level | None:
    return None if raw is None else Level(max(raw, 0.0), raw, number)


def _judge(repeats: Repeats | None) -> Level | None:
    return _level(repeats.variance, repeats.turns) if repeats else None


def _components(
    *,
    persona: Level | None,
    dialogue: Level | None,
    turn: Level | None,
    judge: Level | None,
    repeats: float,
    shares: tuple[float, float],
) -> Components:
    without = Components(persona, dialogue, turn, judge, repeats, None, *shares)
    if persona is None:
        return without
    error = _error(without, persona.number)
    return Components(persona, dialogue, turn, judge, repeats, error, *shares)


def _error(found: Components, personas: int, dialogues: int = 1, judgements: int = 1) -> float:
    """The standard error with so many times the dialogues of each persona, and judgements."""
    persona, dialogue, turn, judge = (
        part.variance if part else 0.0
        for part in (found.persona, found.dialogue, found.turn, found.judge)
    )
    reply = turn + judge / (found.repeats * judgements)
    below = dialogue * found.dialogue_share + reply * found.turn_share
    return math.sqrt((persona + below / dialogues) / personas)


def _narrowing(what: str, personas: int) -> float:
    """How much smaller the quantile of t gets, if there are more personas."""
    if what != "personas":
        return 1.0
    from scipy.special import stdtrit

    return float(stdtrit(2 * personas - 1, 0.975) / stdtrit(personas - 1, 0.975))


_SAID = {
    "personas": "twice as many personas",
    "dialogues": "twice as many dialogues of each persona",
    "judgements": "twice as many judgements of each reply",
}


def _sentence(steps: list[Step]) -> str:
    first, *others = (f"{_percent(step.narrower)} with {_SAID[step.what]}" for step in steps)
    return "; ".join([f"The interval would be narrower by {first}", *others]) + "."


def _percent(narrower: float) -> str:
    return "less than 1%" if narrower < 0.005 else f"{narrower:.0%}"
