"""What runs and their files are called. A model's name is somebody's text: it is never a path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kardiabench.bundle_redaction import public_text
from kardiabench.manifests import Manifest
from kardiabench.redaction import known_secrets
from kardiabench.report import plain
from leaderboard.extract import Extract
from leaderboard.views import Problem

_LONGEST = 120


def slug(model: str, run: str) -> str:
    """The name of a run's files: letters, digits and hyphens; `run` is its id, 16 hex digits."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-").lower()[-40:].strip("-")
    return f"{words or 'model'}-{run[:8]}"


def display_names(extracts: Sequence[Extract]) -> list[str]:
    """The models' names; runs of one model are told apart by when they were made."""
    models = [shown_name(extract.manifest) for extract in extracts]
    counts = Counter(models)
    dated = [
        model if counts[model] == 1 else f"{model} ({str(extract.manifest['created'])[:10]})"
        for model, extract in zip(models, extracts, strict=True)
    ]
    again = Counter(dated)
    return [
        name if again[name] == 1 else f"{name} {extract.id[:6]}"
        for name, extract in zip(dated, extracts, strict=True)
    ]


def shown_name(manifest: Manifest) -> str:
    """The model's name as people see it: without control characters, not too long."""
    name = " ".join(plain(str(manifest["model"]["name"])).split()) or "(no name)"
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def published(problems: Sequence[Problem], inputs: Sequence[Path]) -> list[Problem]:
    """`problems` as a page may have them: inputs by their names, and no path, address or key."""
    secrets = known_secrets()
    ways = {str(way): one.name for one in inputs for way in (one, one.resolve())}
    named = [(way, ways[way]) for way in sorted(ways, key=len, reverse=True) if "/" in way]
    return [
        replace(
            problem,
            name=public_text(problem.name, secrets),
            why=public_text(_by_name(problem.why, named), secrets),
        )
        for problem in problems
    ]


def _by_name(text: str, named: Sequence[tuple[str, str]]) -> str:
    for way, name in named:
        text = text.replace(way, name)
    return text
