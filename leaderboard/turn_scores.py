"""A run's scores turn by turn, kept beside its extract: what two runs are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from kardiabench.stats import Codes, Floats
from leaderboard.columns import Columns
from leaderboard.views import Metric

FILE = "turns.npz"
Ids = NDArray[np.bytes_]


@dataclass(frozen=True)
class TurnScores:
    """The tried turns of a run, sorted by id: each one's persona, gold emotion (a code) and scores.

    `scores` are by metric, those that are means; NaN where there is no score.
    """

    turns: Ids
    personas: Ids
    gold: Codes
    scores: dict[str, Floats]


def turn_scores(columns: Columns, metrics: Sequence[Metric]) -> TurnScores:
    """The scores of `columns`."""
    turns = np.array([turn.encode() for turn in columns.ids], dtype=np.bytes_)
    personas = np.array([name.encode() for name in columns.personas], dtype=np.bytes_)
    order = np.argsort(turns, kind="stable")
    return TurnScores(
        turns=turns[order],
        personas=personas[columns.persona][order],
        gold=columns.gold[order],
        scores={m.key: columns.scores[m.key][order] for m in metrics if m.key in columns.scores},
    )


def save(folder: Path, found: TurnScores) -> None:
    """Put them into `folder`."""
    shape = len(found.scores), len(found.turns)
    scores = np.array(list(found.scores.values()), dtype=np.float64).reshape(shape)
    with (folder / FILE).open("wb") as file:
        np.savez(
            file,
            turns=found.turns,
            personas=found.personas,
            gold=found.gold,
            keys=np.array(list(found.scores), dtype=np.str_),
            scores=scores,
        )


def load(folder: Path) -> TurnScores:
    """Those in `folder`. Raises `OSError`, `ValueError` or `KeyError` where they are broken."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        scores = dict(zip(arrays["keys"].tolist(), arrays["scores"], strict=True))
        return TurnScores(arrays["turns"], arrays["personas"], arrays["gold"], scores)


def there(folder: Path) -> bool:
    """Whether `folder` has whole ones: a zip file's directory is at its end."""
    return is_zipfile(folder / FILE)
