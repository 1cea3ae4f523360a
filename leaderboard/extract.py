"""What the site needs of one run, computed once: everything but the comparison with others.

An extract is small (no turn is in it), so a site of many runs is put together from extracts; a
run's data files are written beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.views import EmotionRow, FailureView, FlagView, Metric, VarianceView

Numbers = list[float | None]


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric by persona, in the order of `Extract.personas`: means, and how many have a score.

    `mean`, `low` and `high` are those of the run. A statistic that is no mean of personas' means
    (macro-F1) has jackknife pseudo-values in `means`: their mean is the bias-corrected statistic.
    """

    means: Numbers
    scored: list[int]
    mean: float | None
    low: float | None
    high: float | None
    personas: int
    total_scored: int


@dataclass(frozen=True, slots=True)
class DialogueNote:
    """What every run of a protocol knows of a dialogue."""

    id: str
    persona: str
    emotion: str
    turns: int


@dataclass(frozen=True, slots=True)
class Extract:
    """One run. `manifest` is the public one; `summary` is recomputed from the logs.

    `turns` counts tried turns by persona. `cards` are judge cards by judge. `cost` and `judge_cost`
    are US dollars a turn, None where a call has no known price.
    """

    id: str
    slug: str
    packed: bool
    manifest: dict[str, Any]
    summary: dict[str, Any]
    metrics: list[Metric]
    personas: list[str]
    turns: list[int]
    dialogues: list[DialogueNote]
    scores: dict[str, Scores]
    emotions: list[EmotionRow]
    flags: list[FlagView]
    variance: list[VarianceView]
    failures: list[FailureView]
    failures_total: int
    cards: dict[str, dict[str, Any]]
    charts: dict[str, str]
    cost: float | None
    judge_cost: float | None

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def protocol(self) -> str:
        """The protocol's id."""
        return str(self.manifest["protocol_id"])

    @property
    def planned(self) -> int:
        """The turns of the protocol's dialogues."""
        return int(self.manifest["protocol"]["dataset"]["turns"])


def metric(extract: Extract, key: str) -> Metric | None:
    """The metric of `extract` that is called `key`."""
    return next((found for found in extract.metrics if found.key == key), None)


def judges(extract: Extract) -> Mapping[str, Any]:
    """The judges as the manifest describes them."""
    described: Mapping[str, Any] = extract.manifest["protocol"]["scorer"]["judges"]
    return described


def flagged_turns(flags: Sequence[FlagView]) -> set[str]:
    """The turns that some question flags."""
    return {turn for flag in flags for turn in flag.turns}
