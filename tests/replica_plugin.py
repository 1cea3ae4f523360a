"""A backend for tests of replicas, as a plugin file: `--plugin replica_plugin.py --model echo/X`.

It answers with the turn's id, always the same. `seconds`: what a turn takes. `log`: a file that
gets a line for every turn: turn, pid. `die_at`: the turn at which its process ends.
`engine_dies_at`: the turn that is answered with a dead engine's error, while the file `once`, which
is then made, is not there yet. `refuse`: the reason it cannot start.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from kardiabench.errors import PreflightError
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Completion, Usage
from kardiabench.spans import render_spans

KARDIABENCH_API = 1


class Echo:
    batch_size = 1
    is_local = True
    dialogues_at_once = 2

    def __init__(self, name, options) -> None:
        self.name = name
        self._extra = dict(options.extra)
        self.identity = {"name": name, "seed": options.seed, "shown": self._shown()}

    def _shown(self) -> str:
        file = self._extra.get("shown")
        return Path(file).read_text("utf-8") if file else ""

    async def preflight(self) -> None:
        if os.environ.get("REFUSE"):
            raise PreflightError(os.environ["REFUSE"])
        if self._extra.get("refuse"):
            raise PreflightError(self._extra["refuse"])
        if self._extra.get("crash"):
            os._exit(3)

    async def complete(self, requests):
        return [await self._answer(request) for request in requests]

    async def _answer(self, request) -> Completion:
        if request.turn_id == self._extra.get("die_at"):
            os._exit(1)
        if request.turn_id == self._extra.get("engine_dies_at") and self._first():
            return Completion(status="error", detail="engine: it died")
        await asyncio.sleep(self._extra.get("seconds", 0))
        if log := self._extra.get("log"):
            _note(log, f"{request.turn_id} {os.getpid()}\n")
        text = render_spans("An echo.", request.persona_id, "sad", request.turn_id)
        return Completion(text, finish_reason="stop", usage=Usage(calls=1))

    def _first(self) -> bool:
        """Whether this has not happened before."""
        once = Path(self._extra["once"])
        first = not once.exists()
        once.touch()
        return first

    async def aclose(self) -> None:
        """Nothing is held."""


def _note(log: str, line: str) -> None:
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(line)


@hookimpl
def register_models(register):
    register("echo", Echo)
