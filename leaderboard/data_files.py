"""The data files that depend on more than one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leaderboard.dialogue_files import all_notes, write_dialogue_files
from leaderboard.pair_files import write_pair_files
from leaderboard.scripts import write_script
from leaderboard.table import Table
from leaderboard.texts import dialogues_of, named
from leaderboard.views import BoardView, SiteView


def write_data(
    folder: Path, tables: Sequence[Table], site: SiteView, text_from: Sequence[str] | None
) -> None:
    """Write the index, and for each protocol its dialogues and pairs.

    `text_from` are datasets whose text was asked for, None where none was: then only the sample's
    is shown. Raises `DataError` where text is to be shown and its dataset is not there.
    """
    write_script(folder, "index", {"boards": [_board(board) for board in site.boards]})
    for table, board in zip(tables, site.boards, strict=True):
        notes = all_notes(extract.dialogues for extract in table.extracts)
        texts = None
        if board.text:
            datasets = named([extract.manifest for extract in table.extracts], text_from)
            texts = dialogues_of(datasets, {note.id for note in notes})
        write_dialogue_files(folder, board.protocol, notes, texts)
        write_pair_files(folder, table)


def _board(board: BoardView) -> dict[str, Any]:
    return {
        "protocol": board.protocol,
        "title": board.title,
        "page": board.page,
        "text": board.text,
        "licence": board.licence,
        "primary": board.primary,
        "metrics": [
            {
                "key": metric.key,
                "label": metric.label,
                "low": metric.low,
                "high": metric.high,
                "digits": metric.digits,
                "kind": metric.kind,
            }
            for metric in board.metrics
        ],
        "runs": [
            {
                "slug": run.slug,
                "name": run.name,
                "kind": run.kind,
                "ranked": run.ranked,
                "drifted": [judge.name for judge in run.judges if judge.drifted],
            }
            for run in (*board.runs, *board.unranked)
        ],
    }
