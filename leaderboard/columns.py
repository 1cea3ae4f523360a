"""A run's turns as columns: what its page, its data files and its row are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kardiabench.emotions import EMOTIONS
from kardiabench.results import Results, TurnResult
from kardiabench.stats import Codes, Floats
from leaderboard.metrics import COMPOSITE

NDBool = np.ndarray[tuple[int], np.dtype[np.bool_]]

NO_LABEL = len(EMOTIONS)
_CODES = {label: code for code, label in enumerate(EMOTIONS)}


@dataclass(frozen=True)
class Columns:
    """The answered turns of a run in the canonical order: by dialogue, then by place in it.

    `dialogue`, `persona`, `gold` and `predicted` are codes: into `dialogues`, `personas` and
    `EMOTIONS`, where 32 stands for a reply that named none. `scores` has the composite and every
    `judge.dimension`, NaN where there is none.
    """

    dialogues: tuple[str, ...]
    personas: tuple[str, ...]
    dialogue: Codes
    persona: Codes
    index: Codes
    gold: Codes
    predicted: Codes
    scores: dict[str, Floats]
    turns: Sequence[TurnResult]

    @property
    def ids(self) -> list[str]:
        """The turns' ids."""
        return [
            f"{self.dialogues[dialogue]}/{index}"
            for dialogue, index in zip(self.dialogue, self.index, strict=True)
        ]

    @property
    def answered(self) -> NDBool:
        """Which turns a model answered: an error is nobody's answer."""
        return np.array([turn.status != "error" for turn in self.turns], dtype=bool)


def columns_of(results: Results) -> Columns:
    """The columns of `results`."""
    turns = list(results.turns.values())
    places = [turn_id.rpartition("/") for turn_id in results.turns]
    dialogues, dialogue = _coded([place[0] for place in places])
    return Columns(
        dialogues=dialogues,
        personas=results.persona_names,
        dialogue=dialogue,
        persona=results.personas,
        index=np.array([int(place[2]) for place in places], dtype=np.int64),
        gold=_emotions([turn.gold_emotion for turn in turns]),
        predicted=_emotions([turn.predicted for turn in turns]),
        scores=_scores(results),
        turns=turns,
    )


def _coded(names: Sequence[str]) -> tuple[tuple[str, ...], Codes]:
    """The distinct names in order of first sight, and each name's place among them."""
    places: dict[str, int] = {}
    codes = [places.setdefault(name, len(places)) for name in names]
    return tuple(places), np.array(codes, dtype=np.int64)


def _emotions(labels: Sequence[str | None]) -> Codes:
    codes = [NO_LABEL if label is None else _CODES[label] for label in labels]
    return np.array(codes, dtype=np.int64)


def _scores(results: Results) -> dict[str, Floats]:
    scores = {
        f"{judge}.{dimension.name}": results.column(judge, place)
        for judge, dimensions in results.dimensions.items()
        for place, dimension in enumerate(dimensions)
    }
    return scores | {COMPOSITE: results.composites}
