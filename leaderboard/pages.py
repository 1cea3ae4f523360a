"""Writes the pages, and the files that are offered beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from leaderboard.citing import bibtex
from leaderboard.feed import feed
from leaderboard.schema import leaderboard_json, schema
from leaderboard.templating import render, static_files
from leaderboard.views import BoardView, SiteView
from leaderboard.workplace import MARKER

#: Waits for a board's pictures, SVG by name, and gives them.
Drawn = Callable[[], Mapping[str, str]]
#: Pages that there is one of.
_SINGLE = ("compare", "browse", "method")


def write_pages(folder: Path, site: SiteView, pictures: Mapping[str, Drawn]) -> None:
    """Write every page of `site`, its style and scripts, and what machines read below `folder`.

    `pictures` are those of each board, by protocol, which may still be in the making.
    """
    for board in site.boards:
        _write_runs(folder, site, board)
    for board in site.boards:
        drawn = replace(board, charts=pictures[board.protocol]())
        _page(folder, board.page, "board.html.j2", site=site, board=drawn)
    for card in site.cards:
        _page(folder, card.page, "card.html.j2", site=site, card=card)
        _write(folder, card.source, card.content + "\n")
    for name in _SINGLE:
        _page(folder, f"{name}.html", f"{name}.html.j2", site=site)
    for name, content in static_files().items():
        _write(folder, name, content)
    _write(folder, "feed.xml", feed(site))
    _write(folder, "cite.bib", bibtex(site))
    _write(folder, "leaderboard.schema.json", _json(schema()))
    _write(folder, MARKER, _json(leaderboard_json(site)))


def _write_runs(folder: Path, site: SiteView, board: BoardView) -> None:
    for run in (*board.runs, *board.unranked):
        _page(folder, run.page, "model.html.j2", site=site, board=board, run=run)


def _page(folder: Path, page: str, template: str, **values: object) -> None:
    _write(folder, page, render(template, page, **values))


def _write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
