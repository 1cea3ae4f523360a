"""What runs and their files are called. A model's name is somebody's text: it is never a path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from kardiabench.report import plain
from kardiabench.store import Manifest
from leaderboard.extract import Extract

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
