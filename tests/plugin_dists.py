"""Distributions with plugins, made for tests: as installed files, or as wheels for pip."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

#: What most plugin sources begin with.
HEAD = """
from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Verdict

class Judge:
    name = "anything"
    dimensions = (Dimension("niceness", 0.0, 1.0, "Nice: 1."),)
    identity = {"judge": "niceness", "version": "1"}

    async def judge(self, items):
        return [self.verdict(item) for item in items]

    def verdict(self, item, **changes):
        values = {"scores": {"niceness": 1.0}, **changes}
        return Verdict(item.turn.id, self.name, fingerprint(self.identity), **values)

def build(options, context):
    return Judge()
"""


def registering(name: str, factory: str = "build") -> str:
    """The hook that registers a judge; `factory` is source."""
    return dedent(f"""
        @hookimpl
        def register_judges(register):
            register({name!r}, {factory})
        """)


def files_of(name: str, source: str, entry: str | None = None) -> dict[str, str]:
    """The files of the distribution `name` with one module of that name (hyphens aside)."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    return {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/entry_points.txt": f"[kardiabench]\n{entry or f'{name} = {module}'}\n",
    }


def install(site: Path, name: str, source: str, entry: str | None = None) -> None:
    """Put the distribution into the folder `site`, as an installer would."""
    for path, content in files_of(name, source, entry).items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, "utf-8")


def wheel(folder: Path, name: str, source: str, entry: str | None = None) -> Path:
    """A wheel of the distribution."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    files: Mapping[str, str] = files_of(name, source, entry) | {
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    }
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        record = [f"{file},," for file in (*files, f"{info}/RECORD")]
        archive.writestr(f"{info}/RECORD", "\n".join(record))
    return path


def run_python(
    *arguments: str, site: Path | None = None, cwd: Path, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run Python with `site` first on its path and a cache of its own."""
    environment = {**os.environ, "KARDIABENCH_CACHE": str(cwd / "cache.sqlite"), "COLUMNS": "200"}
    environment.pop("PYTHONPATH", None)
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_kardiabench(
    *arguments: str, site: Path | None = None, cwd: Path, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return run_python("-m", "kardiabench", *arguments, site=site, cwd=cwd, python=python)
