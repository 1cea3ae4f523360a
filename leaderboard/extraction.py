"""One input, read and turned into its extract and data files: what a worker does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from kardiabench.bundle_redaction import run_id
from kardiabench.bundle_rows import TurnText
from kardiabench.results import collector_at_rest
from kardiabench.texts import iterate_texts
from leaderboard import run_charts
from leaderboard.aside import Aside
from leaderboard.columns import Columns, columns_of
from leaderboard.extract import Extract
from leaderboard.extracting import (
    MOST_FAILURES,
    costs_of,
    emotions_of,
    f1_scores,
    failures_of,
    flags_of,
    naming,
    notes_of,
    scores_of,
)
from leaderboard.inputs import Opened, open_input
from leaderboard.metrics import MACRO_F1, metrics_of
from leaderboard.names import shown_name, slug
from leaderboard.texts import shows_text
from leaderboard.turn_files import write_run_files
from leaderboard.turn_scores import save, turn_scores
from leaderboard.variances import variances_of


def extract_input(
    path: Path, made: Path, *, include_text: bool, aside: Aside | None = None
) -> Extract:
    """Read the run or bundle at `path`, write its data files below `made`, return its extract.

    Pictures are drawn by `aside`, else here. Raises a `KardiaBenchError` where the input cannot be
    used, and says why.
    """
    aside = aside or Aside(apart=False)
    with collector_at_rest():  # going through all turns again and again, it would take a fifth
        return _made(path, made, include_text=include_text, aside=aside)


def _made(path: Path, made: Path, *, include_text: bool, aside: Aside) -> Extract:
    opened = open_input(path)
    columns = columns_of(opened.results)
    extract = _extract(opened, columns)
    name = shown_name(opened.manifest)
    sketch = run_charts.sketch(name, columns, extract.metrics, extract.scores, extract.flags)
    pictures = aside.call(run_charts.draw, sketch)
    save(made, turn_scores(columns, extract.metrics))
    texts = _texts(opened, include_text=include_text)
    write_run_files(
        made,
        extract.slug,
        columns=columns,
        metrics=extract.metrics,
        flags=extract.flags,
        texts=texts,
    )
    return replace(extract, charts=pictures())


def _extract(opened: Opened, columns: Columns) -> Extract:
    manifest, results = opened.manifest, opened.results
    metrics = metrics_of(manifest)
    named = naming(columns)
    emotions = emotions_of(named)
    scores = scores_of(columns, metrics)
    scores |= {MACRO_F1: f1_scores(columns, named)} if named is not None else {}
    flags = flags_of(columns, results)
    failures = list(failures_of(columns))
    costs = costs_of(results)
    name = run_id(manifest)
    return Extract(
        id=name,
        slug=slug(str(manifest["model"]["name"]), name),
        packed=opened.packed,
        manifest=manifest,
        summary=opened.summary,
        metrics=metrics,
        personas=list(columns.personas),
        turns=_turns(columns),
        dialogues=notes_of(columns),
        scores=scores,
        emotions=emotions,
        flags=flags,
        variance=variances_of(columns, results, metrics),
        failures=list(islice(failures, MOST_FAILURES)),
        failures_total=len(failures),
        cards=opened.cards,
        cost=costs[0],
        judge_cost=costs[1],
        charts={},
    )


def _turns(columns: Columns) -> list[int]:
    counts = [0] * len(columns.personas)
    for code in columns.persona:
        counts[code] += 1
    return counts


def _texts(opened: Opened, *, include_text: bool) -> dict[str, TurnText] | None:
    """The texts of replies and judges by turn; None where they may not be shown."""
    if not shows_text(opened.manifest, include_text=include_text):
        return None
    return {text.turn_id: text for text in iterate_texts(opened.path)}
