"""Work that is done in a process of its own while the pages of runs are written.

Starting Altair and pandas and drawing with them takes longer than all else in a build of known
runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from kardiabench.emotions import EMOTIONS
from kardiabench.errors import StorageError
from leaderboard.views import BoardView, RunView
from leaderboard.workers import pool

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Aside:
    """Use it as a context manager; without `apart` the work is done here, when it is waited for."""

    def __init__(self, *, apart: bool) -> None:
        self._pool = pool(1) if apart else None

    def __enter__(self) -> Self:
        if self._pool is not None:
            self._pool.submit(_prepare)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def call(
        self,
        work: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> Callable[[], _Result]:
        """Begin `work`; what is returned waits for its result, and raises what it raised.

        `StorageError` when the process was killed.
        """
        if self._pool is None:
            return lambda: work(*arguments, **named)
        future = self._pool.submit(work, *arguments, **named)

        def finished() -> _Result:
            try:
                return future.result()
            except BrokenProcessPool as error:
                raise StorageError(
                    "the process that draws pictures was killed, probably for want of memory; "
                    "build again with --workers 1"
                ) from error

        return finished


def light(board: BoardView) -> BoardView:
    """`board` without what neither pictures nor exports show: it travels to another process."""
    runs, unranked = ([_light(run) for run in part] for part in (board.runs, board.unranked))
    return replace(board, runs=runs, unranked=unranked, charts={})


def _light(run: RunView) -> RunView:
    return replace(
        run, charts={}, manifest="", command="", failures=[], emotions=[], variance=[], flags=[]
    )


def draw(board: BoardView) -> dict[str, str]:
    """The pictures of a board, SVG by name."""
    from leaderboard.board_charts import charts

    return charts(board.runs, list(board.metrics), board.primary)


def export(folder: Path, board: BoardView) -> None:
    """Write a board's table for spreadsheets and programs."""
    from leaderboard.exports import write_exports

    write_exports(folder, board)


def _prepare() -> None:
    """Start what takes long to start before there is anything to do: the compiler of pictures."""
    import leaderboard.board_charts  # noqa: F401
    from leaderboard.run_charts import Sketch
    from leaderboard.run_charts import draw as draw_run

    draw_run(Sketch("", [], [[0] * (len(EMOTIONS) + 1)] * len(EMOTIONS), {}, []))
    import pandas  # noqa: F401, ICN001 - for the exports
