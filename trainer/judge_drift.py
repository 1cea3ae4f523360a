"""How far live judges are today from what they said during a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kardiabench.records import Verdict
from trainer.ledger import Row


@dataclass
class Drift:
    """One judge and dimension, over the candidates that were scored both times.

    `absolute` is the sum of absolute differences, in the dimension's own unit; `unjudged` counts
    candidates with a stored score that got none now.
    """

    judge: str
    dimension: str
    n: int = 0
    equal: int = 0
    absolute: float = 0.0
    unjudged: int = 0

    @property
    def mean_absolute(self) -> float | None:
        """The mean absolute difference; None where nothing was scored twice."""
        return self.absolute / self.n if self.n else None

    @property
    def share_equal(self) -> float | None:
        """The share of equal scores; None where nothing was scored twice."""
        return self.equal / self.n if self.n else None

    def add(self, stored: float, new: float | None) -> None:
        """Count one candidate."""
        if new is None:
            self.unjudged += 1
            return
        self.n += 1
        self.equal += stored == new
        self.absolute += abs(stored - new)


@dataclass
class Drifts:
    """The drifts of all judges and dimensions."""

    found: dict[tuple[str, str], Drift] = field(default_factory=dict)

    def add(self, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
        """Count one judge's new `verdicts` on `rows`."""
        for row, verdict in zip(rows, verdicts, strict=True):
            for dimension, new in verdict.scores.items():
                stored = row.score(verdict.judge, dimension)
                if stored is not None:
                    key = (verdict.judge, dimension)
                    self.found.setdefault(key, Drift(*key)).add(stored, new)
