"""Scores of simulated models: turns in dialogues in personas, as `simulation.py` draws them.

A turn's score is the sum of a persona's, a dialogue's and its own part, drawn for each model, with
the standard deviations below. What models share (a hard persona is hard for all) cancels in a
comparison and is left out, except where one model alone is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit, ndtr, ndtri

from kardiabench.emotions import EMOTIONS
from kardiabench.stats import Codes, Floats

PERSONA, DIALOGUE, TURN = 0.15, 0.2, 0.8
#: Turns of the test split: 2,547 dialogues of 32 personas, 20,290 turns.
DIALOGUES, TURNS, ALL_TURNS = 2547, 8, 20_290
#: The latent mean at the ceiling: 96% of the scores are fives.
CEILING = 5.9
LABELS = len(EMOTIONS)


@dataclass(frozen=True)
class Design:
    """Which turns there are: `dialogues` of each persona, and how many turns in all."""

    dialogues: Codes
    turns: int

    @cached_property
    def persona_of(self) -> Codes:
        """The persona of each dialogue."""
        return np.repeat(np.arange(len(self.dialogues)), self.dialogues)

    @cached_property
    def dialogue(self) -> Codes:
        """The dialogue of each turn: eight, in a few dialogues seven."""
        number = len(self.persona_of)
        sizes = np.full(number, TURNS)
        sizes[: number * TURNS - self.turns] -= 1
        return np.repeat(np.arange(number), sizes)

    @cached_property
    def persona(self) -> Codes:
        """The persona of each turn."""
        return self.persona_of[self.dialogue]

    def means(self, values: Floats) -> Floats:
        """By persona."""
        return np.bincount(self.persona, values) / np.bincount(self.persona)

    def dialogue_means(self, values: Floats) -> Floats:
        """By dialogue."""
        return np.bincount(self.dialogue, values) / np.bincount(self.dialogue)

    def latent(self, rng: np.random.Generator, persona: float = PERSONA) -> Floats:
        """One model's scores about 0, before any rounding: (turns,). `persona` is an SD."""
        upper = DIALOGUE * rng.standard_normal(len(self.persona_of))
        upper += persona * rng.standard_normal(len(self.dialogues))[self.persona_of]
        return upper[self.dialogue] + TURN * rng.standard_normal(self.turns)


def even(personas: int) -> Design:
    """The real size for 32 personas, and dialogues in proportion for others."""
    number = round(DIALOGUES * personas / 32)
    dialogues = np.full(personas, number // personas)
    dialogues[: number % personas] += 1
    return Design(dialogues, round(ALL_TURNS * personas / 32))


def uneven(personas: int) -> Design:
    """As many dialogues, shared out like the quantiles of a log-normal of sigma 1: 6 to 428."""
    plain = even(personas)
    share = np.exp(ndtri((np.arange(personas) + 0.5) / personas))
    dialogues = np.maximum(np.round(share / share.sum() * plain.dialogues.sum()), 1)
    dialogues[-1] += plain.dialogues.sum() - dialogues.sum()
    return Design(dialogues.astype(np.int64), plain.turns)


def rounded(latent: Floats) -> Floats:
    """Whole scores from 1 to 5 of a model at the ceiling."""
    return np.clip(np.round(latent + CEILING), 1.0, 5.0)


def rounded_mean(persona: float = PERSONA) -> float:
    """What `rounded` scores have for a mean: 5 less the chance to be below each half level."""
    spread = (persona**2 + DIALOGUE**2 + TURN**2) ** 0.5
    return 5.0 - float(ndtr((np.arange(1.5, 5) - CEILING) / spread).sum())


class Naming:
    """A model that names emotions: how well depends on label, persona and dialogue.

    A dialogue has one gold emotion; the labels' frequencies fall from 12% to 0.4%. The log odds of
    a hit are the label's, plus normal parts of a persona (SD .5) and a dialogue (SD .7). A miss
    names another label, drawn by frequency, or none at all (3%).
    """

    spread_persona, spread_dialogue, none = 0.5, 0.7, 0.03

    def __init__(self) -> None:
        raw = np.geomspace(30, 1, LABELS)
        self.frequency: Floats = raw / raw.sum()
        self.chance: Floats = np.tile([0.6, 0.8, 0.4, 0.95], LABELS // 4)
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        spread = np.hypot(self.spread_persona, self.spread_dialogue)
        odds = self._odds[:, None] + spread * nodes
        self.recall: Floats = expit(odds) @ weights / weights.sum()

    @property
    def _odds(self) -> Floats:
        return np.log(self.chance / (1 - self.chance))

    @property
    def macro_f1(self) -> float:
        """What it would be over a world of personas."""
        missed = self.frequency * (1 - self.recall)
        to_others = self.frequency[None, :] / (1 - self.frequency[:, None]) * (1 - self.none)
        np.fill_diagonal(to_others, 0.0)
        hits = self.frequency * self.recall
        predicted = hits + missed @ to_others
        return float((2 * hits / (self.frequency + predicted)).mean())

    def gold(self, rng: np.random.Generator, design: Design) -> Codes:
        """The emotion of each dialogue."""
        return rng.choice(LABELS, len(design.persona_of), p=self.frequency)

    def answers(self, rng: np.random.Generator, design: Design, gold: Codes) -> Codes:
        """What a model named in each turn."""
        odds = self._odds[gold] + self.spread_dialogue * rng.standard_normal(len(gold))
        persona = self.spread_persona * rng.standard_normal(len(design.dialogues))
        chance = expit(odds + persona[design.persona_of])[design.dialogue]
        hit = rng.random(design.turns) < chance
        wanted = gold[design.dialogue]
        return np.where(hit, wanted, self._others(rng, wanted))

    def _others(self, rng: np.random.Generator, gold: Codes) -> Codes:
        other = rng.choice(LABELS, len(gold), p=self.frequency)
        while (same := other == gold).any():
            other[same] = rng.choice(LABELS, int(same.sum()), p=self.frequency)
        return np.where(rng.random(len(gold)) < self.none, LABELS, other)
