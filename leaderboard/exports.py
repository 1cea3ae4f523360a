"""The tables as files: CSV, JSON and Parquet beside each table, one row a run and metric."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboard.templating import marked
from leaderboard.views import BoardView, RunView

if TYPE_CHECKING:
    import pandas as pd

#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_exports(folder: Path, board: BoardView) -> None:
    """Write `exports/PROTOCOL.csv`, `.json` and `.parquet` below `folder`."""
    place = folder / "exports"
    place.mkdir(exist_ok=True)
    table = frame(board)
    # A fixed name of the index and no time stamp: equal tables give equal bytes.
    table.to_parquet(place / f"{board.protocol}.parquet", index=False)
    table.to_json(place / f"{board.protocol}.json", orient="records", double_precision=15, indent=1)
    shown = table.map(_no_formula)
    shown.to_csv(place / f"{board.protocol}.csv", index=False, lineterminator="\n")


def frame(board: BoardView) -> pd.DataFrame:
    """One row a run and metric, ranked runs first; what is not there is missing.

    `drifted`: the number rests on a judge that has drifted. `why_unranked` is empty where ranked.
    """
    import pandas as pd

    rows = [row for run in (*board.runs, *board.unranked) for row in _rows(board, run)]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype({name: kind for name, kind in _COLUMNS.items() if kind})


_COLUMNS: dict[str, Any] = {
    "protocol": "str", "run": "str", "model": "str", "name": "str", "kind": "str", "ranked": "bool",
    "why_unranked": "str",
    "metric": "str", "mean": "float64", "low": "float64", "high": "float64", "coverage": "float64",
    "rank": "Int64", "rank_low": "Int64", "rank_high": "Int64",
    "worst": "float64", "best": "float64", "personas": "int64", "scored": "int64", "total": "int64",
    "cost_per_turn": "float64", "judge_cost_per_turn": "float64",
    "tokens_in_per_turn": "float64", "tokens_out_per_turn": "float64",
    "latency_p50": "float64", "latency_p95": "float64", "malformed": "float64", "drifted": "bool",
}  # fmt: skip


def _rows(board: BoardView, run: RunView) -> Iterator[dict[str, Any]]:
    for metric in board.metrics:
        figure = run.figures.get(metric.key)
        if figure is None:
            continue
        yield {
            "protocol": board.protocol,
            "run": run.id,
            "metric": metric.key,
            "coverage": figure.coverage,
            "drifted": marked(run, metric),
            **{name: getattr(figure, name) for name in _FIGURE},
            **{name: getattr(run, name) for name in _RUN},
        }


_FIGURE = (
    "mean", "low", "high", "rank", "rank_low", "rank_high", "worst", "best", "personas", "scored",
    "total",
)  # fmt: skip
_RUN = (
    "model", "name", "kind", "ranked", "why_unranked", "cost_per_turn", "judge_cost_per_turn",
    "tokens_in_per_turn", "tokens_out_per_turn", "latency_p50", "latency_p95", "malformed",
)  # fmt: skip


def _no_formula(cell: Any) -> Any:
    """A name that a spreadsheet would run is text there."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
