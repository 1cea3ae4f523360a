"""Builds the site: read what there is, compare it, write the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import kardiabench
from kardiabench.errors import ConfigError, RunError
from kardiabench.results import collector_at_rest
from kardiabench.scoring import JUDGED
from leaderboard import kept
from leaderboard.agreeing import agreeing
from leaderboard.aside import Aside, draw, export, light
from leaderboard.boards import board_view, grouped
from leaderboard.cards import cards_of
from leaderboard.data_files import write_data
from leaderboard.feed import newest
from leaderboard.inputs import find
from leaderboard.names import published
from leaderboard.pages import write_pages
from leaderboard.processing import Broken, Processed, Ready, process
from leaderboard.table import MIN_COVERAGE, Table, table_of
from leaderboard.texts import board_shows_text
from leaderboard.turn_scores import TurnScores
from leaderboard.views import BoardView, Problem, SiteView
from leaderboard.workplace import check_target, workplace

#: Shows progress: given what is counted and how many there are, what to call after each.
Watching = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


def unwatched(_what: str, _total: int) -> AbstractContextManager[Callable[[], None]]:
    """Shows nothing."""
    return nullcontext(lambda: None)


@dataclass(frozen=True)
class Plan:
    """How a site is built. `text_from` are datasets whose text it shows (with `include_text`)."""

    title: str = "KardiaBench leaderboard"
    url: str | None = None
    include_text: bool = False
    text_from: Sequence[str] = ()
    strict: bool = False
    min_coverage: float = MIN_COVERAGE
    cache: Path = field(default_factory=kept.default_folder)
    workers: int | None = None


def build_site(
    paths: Sequence[Path],
    out: Path,
    plan: Plan | None = None,
    watching: Watching = unwatched,
) -> SiteView:
    """Build the site of the runs and bundles at or below `paths` in the folder `out`.

    `watching` shows how the reading goes. The `problems` of what is returned are in full, for who
    builds; those of the pages name no path. Raises a `KardiaBenchError` when nothing can be shown
    or, with `plan.strict`, when something has to be left out.
    """
    plan = plan or Plan()
    inputs = find(paths)
    check_target(out, inputs)
    apart = plan.workers != 1
    with collector_at_rest(), Aside(apart=apart) as aside, kept.usable(plan.cache) as cache:
        with watching("runs read", len(inputs)) as done:
            processed = process(
                inputs,
                cache,
                include_text=plan.include_text,
                done=done,
                workers=plan.workers,
                aside=aside,
            )
        chosen, problems = sorted_out(processed)
        chosen, turns, contradicting = agreeing(chosen)
        problems += contradicting
        _check(chosen, problems, strict=plan.strict)
        site, tables = _compared(chosen, turns, problems, plan)
        boards = [light(board) for board in site.boards]
        pictures = {board.protocol: aside.call(draw, board) for board in boards}
        with workplace(out) as folder:
            exported = [aside.call(export, folder, board) for board in boards]
            for one in chosen:
                kept.publish(one.folder, folder)
            write_data(folder, tables, site, plan.text_from if plan.include_text else None)
            shown = replace(site, problems=published(problems, inputs))
            write_pages(folder, shown, pictures)
            for done_with in exported:
                done_with()
        kept.tidy(cache, [one.folder for one in chosen])
    return site


def _compared(
    chosen: Sequence[Ready],
    turns: Mapping[str, TurnScores],
    problems: Sequence[Problem],
    plan: Plan,
) -> tuple[SiteView, list[Table]]:
    """What the pages show of the runs, and the tables that it comes from, one a protocol."""
    groups = grouped([one.extract for one in chosen])
    tables = [
        table_of(group, [turns[extract.id] for extract in group], plan.min_coverage)
        for group in groups
    ]
    return _site(tables, problems, plan), tables


def sorted_out(processed: Sequence[Processed]) -> tuple[list[Ready], list[Problem]]:
    """The inputs that are shown, and what is wrong with the others: broken, or of a run shown.

    Of several inputs of one run the most complete is shown: anybody can make a part of a run.
    """
    chosen: dict[str, Ready] = {}
    for one in processed:
        if isinstance(one, Ready):
            first = chosen.setdefault(one.extract.id, one)
            chosen[one.extract.id] = max(first, one, key=_completeness)  # of equals the first
    problems = [
        Problem(one.path.name, why)
        for one in processed
        if (why := one.why if isinstance(one, Broken) else _again(one, chosen[one.extract.id]))
    ]
    return list(chosen.values()), problems


def _completeness(one: Ready) -> tuple[int, int, bool]:
    """Turns answered, then turns judged, then whether it is a run directory."""
    summary = one.extract.summary
    turns, judges = summary["turns"], summary["judges"].values()
    judged = sum(judge["verdicts"].get(status, 0) for judge in judges for status in JUDGED)
    return turns["answered"] - turns["by_status"].get("error", 0), judged, not one.extract.packed


def _again(one: Ready, shown: Ready) -> str:
    """Why an input is left out whose run is shown from another; empty for the one that is shown."""
    if one is shown:
        return ""
    differ = "" if one.extract.scores == shown.extract.scores else "; their figures differ"
    return f"it is the same run as {shown.path.name}, which is shown{differ}"


def _check(chosen: Sequence[Ready], problems: Sequence[Problem], *, strict: bool) -> None:
    if problems and (strict or not chosen):
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RunError(f"{first.name} cannot be shown{more}: {first.why}")
    if not chosen:
        raise ConfigError("there is no run to show; make one with: kardiabench run")


def _site(tables: Sequence[Table], problems: Sequence[Problem], plan: Plan) -> SiteView:
    boards = [_board(table, place, plan) for place, table in enumerate(tables)]
    return SiteView(
        title=plan.title,
        url=plan.url,
        version=kardiabench.__version__,
        updated=newest(boards),
        boards=boards,
        cards=cards_of([extract for table in tables for extract in table.extracts]),
        problems=problems,
    )


def _board(table: Table, place: int, plan: Plan) -> BoardView:
    protocol = table.extracts[0].protocol
    page = "index.html" if place == 0 else f"board-{protocol}.html"
    text = board_shows_text(table.extracts, include_text=plan.include_text)
    return board_view(table, page, text=text)
