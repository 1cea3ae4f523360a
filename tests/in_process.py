"""Runs the command line in this process, which has the slow imports of local models behind it."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_process import Result


@dataclass
class Here:
    """The command line of one user, whose files are all below `folder`."""

    folder: Path
    patch: pytest.MonkeyPatch
    captured: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        (self.folder / "home").mkdir(parents=True)
        self.patch.chdir(self.folder)
        self.patch.setenv("HOME", str(self.folder / "home"))
        self.patch.setenv("KARDIABENCH_CACHE", str(self.folder / "cache.sqlite"))

    def __call__(self, *args: object, **env: str) -> Result:
        from kardiabench.cli import main

        self.captured.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        with self.patch.context() as patch:
            patch.setattr(sys, "argv", ["kardiabench", *map(str, args)])
            for name, value in env.items():
                patch.setenv(name, value)
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                signal.signal(signal.SIGTERM, before)
        code = ended.value.code
        out, err = self.captured.readouterr()
        return Result(code if isinstance(code, int) else 0, out, err)

    def lines(self, name: str, run: str | Path = "out") -> list[dict[str, Any]]:
        """The records of `replies.jsonl` or `verdicts.jsonl`."""
        return [json.loads(line) for line in (self.folder / run / name).open()]

    def json_of(self, name: str, run: str | Path = "out") -> Any:
        """`manifest.json` or `summary.json` of a run."""
        return json.loads((self.folder / run / name).read_text())
