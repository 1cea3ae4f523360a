"""KardiaBench: an evaluation harness for emotionally supportive dialogue."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    # pandas takes most of a second to import: only those who ask for tables pay for it.
    if name == "load_run":
        from kardiabench.frames import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
