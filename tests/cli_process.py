"""Runs the command line in a process of its own, with a home, a cache and a folder of its own.

`Cli.__call__` starts `python -m kardiabench`, as a user does. `Cli.fast` forks a process that has
the slow imports behind it and calls the same `main`: it can be killed and interrupted just so.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_PRELOADED = [
    *("kardiabench.cli", "kardiabench.execution", "kardiabench.summary", "kardiabench.builtins"),
    *("litellm", "litellm.main", "litellm.utils", "openai.resources.chat"),
    *("aiohttp", "scipy.stats", "sklearn.metrics", "sklearn.linear_model"),
    *("rich.progress", "rich.table", "jinja2.sandbox", "yaml", "filelock", "sqlite3"),
]
_PATIENCE = 120.0


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    rc: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on standard error, less the program's name."""
        return self.err.strip().splitlines()[-1].removeprefix("kardiabench: ")

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Started:
    """A command under way."""

    process: Any
    folder: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def err(self) -> str:
        return (self.folder / "err").read_text()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.join()

    def wait(self, seconds: float = _PATIENCE) -> Result:
        self.process.join(seconds)
        assert not self.alive, f"still running after {seconds:g} s: {self.err()}"
        out = (self.folder / "out").read_text()
        return Result(self.process.exitcode, out, self.err())


@dataclass
class Cli:
    """The command line of one user, whose files are all below `folder`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    _number: int = 0

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        kept = {k: v for k, v in os.environ.items() if not _is_private(k)}
        own = {
            "HOME": str(folder / "home"),
            "KARDIABENCH_CACHE": str(folder / "cache.sqlite"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        (folder / "home").mkdir()
        return cls(folder, kept | own)

    def __call__(self, *args: object, **env: str) -> Result:
        """`python -m kardiabench ARGS`, waited for."""
        command = [sys.executable, "-m", "kardiabench", *map(str, args)]
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def fast(self, *args: object, limit: int | None = None, **env: str) -> Result:
        """The same in a fork; `limit` is the size in bytes that no file can outgrow."""
        return self.start(*args, limit=limit, **env).wait()

    def start(self, *args: object, limit: int | None = None, **env: str) -> Started:
        """Start it in a fork and come back at once."""
        self._number += 1
        logs = self.folder / f".output{self._number}"
        logs.mkdir()
        given = ([*map(str, args)], self.folder, self.env | env, logs, limit)
        process = _forks().Process(target=_main, args=given)
        process.start()
        return Started(process, logs)

    def summary(self, run: str | Path = "out") -> str:
        """`summary.json` of a run, less its times."""
        summary = json.loads((self.folder / run / "summary.json").read_text())
        del summary["timing"]
        return json.dumps(summary, indent=1)

    def lines(self, name: str, run: str | Path = "out") -> list[dict[str, Any]]:
        """The records of `replies.jsonl` or `verdicts.jsonl`."""
        return [json.loads(line) for line in (self.folder / run / name).open()]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for `condition`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def _is_private(name: str) -> bool:
    ours = name.startswith(("KARDIABENCH", "HF_", "XDG_", "PYTEST", "COLUMNS", "LITELLM"))
    return ours or name.endswith(("_KEY", "_TOKEN"))


def _forks() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # for the imports below
    os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _main(
    args: Sequence[str], folder: Path, env: Mapping[str, str], logs: Path, limit: int | None
) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["kardiabench", *args]
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", write_through=True)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from kardiabench.cli import main

    main()
