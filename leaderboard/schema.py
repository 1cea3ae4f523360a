"""`leaderboard.json`: everything on the site's tables for machines, and its JSON schema."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from leaderboard.views import BoardView, RunView, SiteView

SCHEMA_VERSION = 1

_Share = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[float | None, Field(description="null: there is no such number")]
_Rank = Annotated[int | None, Field(ge=1, description="1 is best; null: not ranked")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class MetricPart(_Part):
    """What runs are compared on; higher is better."""

    key: str
    label: str
    low: float
    high: float
    kind: str
    description: str


class FigurePart(_Part):
    """A metric of a run.

    Mean of persona means, its 95% interval, shared rank with its 95% interval, the bounds if
    missing judgements were known, and how many turns have a score.
    """

    mean: _Number
    low: _Number
    high: _Number
    rank: _Rank
    rank_low: _Rank
    rank_high: _Rank
    worst: _Number
    best: _Number
    personas: int
    scored: int
    total: int
    coverage: _Share


class JudgePart(_Part):
    """A judge of a run; `drifted` is null where it was not compared with its card."""

    name: str
    fingerprint: str
    model: str | None
    coverage: _Share
    drifted: bool | None


class RunPart(_Part):
    """One run. Costs are US dollars, latency seconds, shares lie in 0 to 1."""

    id: str
    page: str
    model: str
    name: str
    kind: str
    created: str
    ranked: bool
    why_unranked: str
    complete: bool
    figures: dict[str, FigurePart]
    turns_planned: int
    turns_answered: int
    malformed: _Number
    cost_per_turn: _Number
    judge_cost_per_turn: _Number
    tokens_in_per_turn: _Number
    tokens_out_per_turn: _Number
    latency_p50: _Number
    latency_p95: _Number
    judges: list[JudgePart]


class ProtocolPart(_Part):
    """The runs of one protocol; those of different protocols don't compare."""

    protocol: str
    title: str
    dataset: str
    dialogues: int
    turns: int
    personas: int
    primary: str
    metrics: list[MetricPart]
    runs: list[RunPart]


class Leaderboard(_Part):
    """A site's tables. `updated` is when its newest run was made."""

    schema_version: int
    kardiabench: str
    title: str
    updated: str
    protocols: list[ProtocolPart]


def leaderboard_json(site: SiteView) -> dict[str, Any]:
    """The content of `leaderboard.json`, as `schema()` describes it."""
    content = Leaderboard(
        schema_version=SCHEMA_VERSION,
        kardiabench=site.version,
        title=site.title,
        updated=site.updated,
        protocols=[_protocol(board) for board in site.boards],
    )
    return content.model_dump(mode="json")


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `leaderboard.json`."""
    described = Leaderboard.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def _protocol(board: BoardView) -> ProtocolPart:
    names = ProtocolPart.model_fields.keys() - {"metrics", "runs"}
    return ProtocolPart(
        **{name: getattr(board, name) for name in names},
        metrics=[MetricPart.model_validate(_picked(MetricPart, m)) for m in board.metrics],
        runs=[_run(run) for run in (*board.runs, *board.unranked)],
    )


def _run(run: RunView) -> RunPart:
    names = RunPart.model_fields.keys() - {"figures", "judges"}
    return RunPart(
        **{name: getattr(run, name) for name in names},
        figures={
            key: FigurePart.model_validate(_picked(FigurePart, figure))
            for key, figure in run.figures.items()
        },
        judges=[JudgePart.model_validate(_picked(JudgePart, judge)) for judge in run.judges],
    )


def _picked(part: type[_Part], view: object) -> dict[str, Any]:
    """What `part` has of a view, which holds more."""
    return {name: getattr(view, name) for name in part.model_fields}
