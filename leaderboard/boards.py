"""A protocol's runs as its page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from leaderboard.extract import Extract
from leaderboard.metrics import primary
from leaderboard.names import display_names
from leaderboard.run_views import run_view
from leaderboard.table import Standing, Table
from leaderboard.texts import licence
from leaderboard.views import BoardView, Detectable, RunView


def grouped(extracts: Sequence[Extract]) -> list[list[Extract]]:
    """The runs by protocol: that with the most models first, then the one with the newest run."""
    by_protocol: dict[str, list[Extract]] = {}
    for extract in sorted(extracts, key=lambda e: (str(e.manifest["created"]), e.id)):
        by_protocol.setdefault(extract.protocol, []).append(extract)
    newest = sorted(
        by_protocol.values(), key=lambda group: str(group[-1].manifest["created"]), reverse=True
    )
    return sorted(newest, key=_is_smoke_then_size)


def _is_smoke_then_size(group: Sequence[Extract]) -> tuple[bool, int]:
    judges = group[0].manifest["protocol"]["scorer"]["judges"].values()
    return any(judge.get("smoke_test") for judge in judges), -len({e.model for e in group})


def board_view(table: Table, page: str, *, text: bool) -> BoardView:
    """The view of `table`, whose page has the address `page`; its pictures are drawn later."""
    manifest = table.extracts[0].manifest
    names = display_names(table.extracts)
    places = range(len(table.extracts))
    views = [run_view(table, p, names[p], table.extracts[p].charts) for p in places]
    chosen = primary(list(table.metrics))
    data = manifest["protocol"]["dataset"]
    runs = _ordered([view for view in views if view.ranked], chosen)
    return BoardView(
        protocol=table.extracts[0].protocol,
        page=page,
        title=_title(table),
        dataset=str(manifest["dataset"]["name"]),
        dialogues=data["dialogues"],
        turns=data["turns"],
        personas=data["personas"],
        settings=list(_settings(table)),
        metrics=table.metrics,
        primary=chosen,
        runs=runs,
        unranked=[view for view in views if not view.ranked],
        detectable=[_detectable(standing) for standing in table.standings.values()],
        text=text,
        licence=licence(extract.manifest for extract in table.extracts),
        charts={},
    )


def _ordered(views: Sequence[RunView], key: str) -> list[RunView]:
    def place(view: RunView) -> tuple[float, str]:
        figure = view.figures.get(key)
        mean = figure.mean if figure is not None else None
        return (-mean if mean is not None else np.inf), view.name

    return sorted(views, key=place)


def _title(table: Table) -> str:
    manifest = table.extracts[0].manifest
    judges = [j for j in manifest["protocol"]["scorer"]["judges"] if j not in ("format", "emotion")]
    judged = f"judged by {', '.join(judges)}" if judges else "emotion and format only"
    return f"{manifest['dataset']['name']}, {judged}"


def _settings(table: Table) -> Iterator[tuple[str, str]]:
    """What makes the runs comparable, in words."""
    protocol = table.extracts[0].manifest["protocol"]
    prompts, gold = protocol["prompts"], protocol["gold_emotion"]
    yield "Dataset fingerprint", str(protocol["dataset"]["fingerprint"])
    yield "History", f"{prompts['history']}, with {prompts['history_content']}"
    yield "System prompt", f"{prompts['system_prompt']} ({prompts['system_prompt_hash']})"
    yield (
        "Gold emotion",
        f"{gold['span']} turns from the gold span, {gold['dialogue']} from the dialogue",
    )
    for name, judge in protocol["scorer"]["judges"].items():
        yield f"Judge {name}", str(judge["fingerprint"])
    weights = protocol["scorer"]["weights"]
    yield "Weights", ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    yield "Missing judgements", str(protocol["scorer"]["missing"])


def _detectable(standing: Standing) -> Detectable:
    pairs = standing.ranked
    return Detectable(
        metric=standing.metric.key,
        alone=_median(pairs.mde),
        together=_median(pairs.mde_holm),
        pairs=int(np.count_nonzero(~np.isnan(pairs.mde))),
    )


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None
