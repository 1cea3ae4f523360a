"""What the pages are made of: plain records that templates read and nothing else.

Every number in them was computed by `kardiabench`'s statistics; None is a number that is not there.
All text in them is somebody's words: templates escape it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

#: A floor is a baseline, which every model worth its name should beat.
Kind = Literal["model", "floor"]
MetricKind = Literal["composite", "accuracy", "f1", "rubric", "format", "flag", "other"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that runs are compared on. `key` is `composite`, `macro_f1` or `judge.dimension`.

    `label` is for people; scores lie in `low`..`high`, higher is better. `digits` behind the point.
    """

    key: str
    label: str
    low: float
    high: float
    kind: MetricKind
    description: str
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one run.

    `low`..`high` is the 95% interval, `rank` the shared rank among the ranked runs of the protocol,
    `rank_low`..`rank_high` its 95% interval (1 is best). `worst`..`best` is where the mean could
    lie if the missing judgements were known. `scored` of `total` turns have a value.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    worst: float | None = None
    best: float | None = None
    personas: int = 0
    scored: int = 0
    total: int = 0

    @property
    def coverage(self) -> float:
        """The share of planned turns that have a value."""
        return self.scored / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class DriftShift:
    """How far a judge has moved on one dimension since its card was measured."""

    dimension: str
    shift: float | None
    low: float | None
    high: float | None
    warning: bool


@dataclass(frozen=True, slots=True)
class JudgeView:
    """A judge of a run. `drifted` puts a mark on every number of it; None: it was not compared.

    `card` is the address of its card's page, None where it has none. `model` is what it asks.
    """

    name: str
    fingerprint: str
    model: str | None
    smoke_test: bool
    coverage: float
    statuses: Mapping[str, int]
    drifted: bool | None
    drift_note: str
    shifts: Sequence[DriftShift]
    card: str | None
    findings: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class FlagView:
    """A yes/no question: `turns` are the ids of those flagged, of `scored` that were judged."""

    judge: str
    dimension: str
    description: str
    turns: Sequence[str]
    scored: int
    coverage: float


@dataclass(frozen=True, slots=True)
class EmotionRow:
    """How often one emotion was named when it was the gold one."""

    label: str
    support: int
    recall: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class VarianceView:
    """Where the uncertainty of one metric comes from, and what would narrow it.

    `parts` are (`persona`, `dialogue`, `turn`, `judge`) with the share of the squared standard
    error that each is answerable for.
    """

    metric: str
    label: str
    standard_error: float
    parts: Sequence[tuple[str, float]]
    advice: Sequence[str]


@dataclass(frozen=True, slots=True)
class FailureView:
    """Something that went wrong in a turn. `whose` keeps the model's failures from others."""

    turn: str
    whose: Literal["model", "judge", "transport"]
    what: str


@dataclass(frozen=True, slots=True)
class RunView:
    """One run, as its page and its row show it.

    `slug` names its files and holds letters, digits and hyphens only. Costs are US dollars, latency
    seconds, shares in 0..1. `why_unranked` is empty for a ranked run. `charts` are SVG by name:
    `radar`, `confusion`, `turns`, `flags`. `failures` are the first of `failures_total`.
    """

    id: str
    slug: str
    model: str
    name: str
    kind: Kind
    created: str
    version: str
    packed: bool
    complete: bool
    why_unranked: str
    figures: Mapping[str, Figure]
    turns_planned: int
    turns_answered: int
    statuses: Mapping[str, int]
    problems: Mapping[str, int]
    malformed: float | None
    cost_per_turn: float | None
    judge_cost_per_turn: float | None
    tokens_in_per_turn: float | None
    tokens_out_per_turn: float | None
    latency_p50: float | None
    latency_p95: float | None
    judges: Sequence[JudgeView]
    flags: Sequence[FlagView]
    emotions: Sequence[EmotionRow]
    variance: Sequence[VarianceView]
    failures: Sequence[FailureView]
    failures_total: int
    command: str
    manifest: str
    charts: Mapping[str, str] = field(repr=False)

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"models/{self.slug}.html"

    @property
    def ranked(self) -> bool:
        """Whether it has ranks."""
        return not self.why_unranked

    @property
    def drifted(self) -> bool:
        """Whether a judge of it has drifted."""
        return any(judge.drifted for judge in self.judges)


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest difference between two runs that would be found with 80% power.

    The median over pairs: for a pair alone, and at the first step of Holm over all pairs.
    """

    metric: str
    alone: float | None
    together: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class BoardView:
    """The runs of one protocol. `runs` are ranked, best first; `unranked` say why they are not.

    `page` is the address of its page, `charts` SVG by name: `intervals`, `radar`, `cost`.
    `primary` is the key of the metric that the table is sorted by at first. `text` tells whether
    the dialogues' text is on the site, `licence` under what.
    """

    protocol: str
    page: str
    title: str
    dataset: str
    dialogues: int
    turns: int
    personas: int
    settings: Sequence[tuple[str, str]]
    metrics: Sequence[Metric]
    primary: str
    runs: Sequence[RunView]
    unranked: Sequence[RunView]
    detectable: Sequence[Detectable]
    text: bool
    licence: str
    charts: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CardView:
    """A judge card: its text as Markdown, its JSON, and the address of that."""

    judge: str
    fingerprint: str
    page: str
    text: str
    source: str
    content: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """A run or bundle that is not on the site, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class SiteView:
    """The whole site. `updated` is when its newest run was made, so equal runs give equal bytes."""

    title: str
    url: str | None
    version: str
    updated: str
    boards: Sequence[BoardView]
    cards: Sequence[CardView]
    problems: Sequence[Problem]
