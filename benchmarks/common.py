"""What the benchmarks share: a server process, a measured child process, a printed table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def server(delay: float, capacity: int) -> Iterator[str]:
    """The tests' OpenAI-compatible server as a process of its own; gives its base URL."""
    command = [sys.executable, str(ROOT / "tests" / "openai_server.py"), "--port", "0"]
    command += ["--delay", str(delay), "--capacity", str(capacity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def child(python: str, script: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Any:
    """Run a script that prints JSON on its last line, in a process of its own."""
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"} | dict(env or {})
    done = subprocess.run(
        [python, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{script.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values: Sequence[float]) -> str:
    """`median (min-max)`."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
