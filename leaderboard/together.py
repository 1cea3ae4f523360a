"""Runs of one protocol put side by side, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kardiabench.stats import Codes, Floats
from leaderboard.turn_scores import Ids, TurnScores


@dataclass(frozen=True)
class Together:
    """The turns that any of `runs` has, sorted by id, and each one's persona, a code by name."""

    runs: Sequence[TurnScores]

    def prepare(self) -> None:
        """Compute what all metrics share, before several threads ask for it."""
        _ = self._by_persona

    @cached_property
    def turns(self) -> Ids:
        """The ids."""
        first = self.runs[0].turns
        if all(np.array_equal(first, run.turns) for run in self.runs[1:]):
            return first
        return np.unique(np.concatenate([run.turns for run in self.runs]))

    @cached_property
    def persona(self) -> Codes:
        """The persona of each turn; the runs agree on it (`agreeing`)."""
        names = np.empty(len(self.turns), dtype=object)
        for run, places in zip(self.runs, self._places, strict=True):
            names[places] = run.personas
        return np.unique(names.astype(np.bytes_), return_inverse=True)[1].astype(np.int64)

    def differences(self, key: str) -> Floats:
        """(runs, runs, personas): the mean of first less second over turns that both have.

        NaN where they have none in common.
        """
        scores = self._scores(key)
        present = ~np.isnan(scores)
        values = np.where(present, scores, 0.0)
        cubes = [self._of_persona(values[:, at], present[:, at]) for at in self._by_persona]
        return np.stack(cubes, axis=2)

    @staticmethod
    def _of_persona(
        values: Floats, present: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    ) -> Floats:
        mask = present.astype(np.float64)
        total = values @ mask.T  # [i, j]: what i scored on the turns that j has too
        with np.errstate(invalid="ignore"):
            return np.asarray((total - total.T) / (mask @ mask.T), dtype=np.float64)

    def _scores(self, key: str) -> Floats:
        """(runs, turns); NaN where there is no score."""
        found = np.full((len(self.runs), len(self.turns)), np.nan)
        for row, run, places in zip(found, self.runs, self._places, strict=True):
            if key in run.scores:
                row[places] = run.scores[key]
        return found

    @cached_property
    def _places(self) -> list[Codes | slice]:
        """Where each run's turns are among all."""
        return [
            slice(None)
            if len(run.turns) == len(self.turns)
            else np.searchsorted(self.turns, run.turns).astype(np.int64)
            for run in self.runs
        ]

    @cached_property
    def _by_persona(self) -> list[Codes]:
        """The places of each persona's turns."""
        order = np.argsort(self.persona, kind="stable").astype(np.int64)
        return np.split(order, np.cumsum(np.bincount(self.persona))[:-1])
