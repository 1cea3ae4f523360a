"""The command line with torch and transformers already imported: their import takes seconds.

`WarmCli` is a `Cli` whose quick commands are forked off one process a test run, which has imported
the local models' packages and computed nothing.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
from functools import cache
from importlib import import_module
from typing import Any

from cli_process import Cli, Started, _forks, _main

_SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_IMPORTED = (
    *("kardiabench.models.hf", "kardiabench.models.local.held", "kardiabench.inspection"),
    *("torch", "accelerate", "peft", "transformers.models.qwen2.modeling_qwen2"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.generation.utils", "transformers.integrations.accelerate"),
)


class WarmCli(Cli):
    """A `Cli` for commands with local models."""

    def start(self, *args: object, limit: int | None = None, **env: str) -> Started:
        """Start it in a fork that has torch, and come back at once."""
        self._number += 1
        logs = self.folder / f".output{self._number}"
        logs.mkdir()
        given = ([*map(str, args)], self.folder, self.env | env, logs, limit)
        return Started(_Forked(_server(), given), logs)


class _Forked:
    """What a `Started` needs of a process that is the server's child."""

    def __init__(self, server: Any, given: Any) -> None:
        self._server = server
        self.pid: int = self._ask("start", given)
        self.exitcode: int | None = None

    def join(self, seconds: float | None = None) -> None:
        if self.exitcode is None:
            self.exitcode = self._ask("join", (self.pid, seconds))

    def is_alive(self) -> bool:
        self.join(0)
        return self.exitcode is None

    def kill(self) -> None:
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)

    def _ask(self, verb: str, given: Any) -> Any:
        self._server.send((verb, given))
        return self._server.recv()


@cache
def _server() -> Any:
    """The connection to the process that forks; it ends with this one."""
    context = _forks()
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there,)).start()
    there.close()
    atexit.register(here.close)
    return here


def _serve(asked: Any) -> None:
    import multiprocessing

    os.environ.update(_SETTINGS)
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()  # a command's first collection need not look at all that
    forks, children = multiprocessing.get_context("fork"), {}
    while True:
        try:
            verb, given = asked.recv()
        except EOFError:
            return
        if verb == "start":
            child = forks.Process(target=_main, args=given)
            child.start()
            children[child.pid] = child
            asked.send(child.pid)
        else:
            pid, seconds = given
            children[pid].join(seconds)
            asked.send(children[pid].exitcode)
