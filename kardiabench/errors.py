"""Errors a user can act on: one sentence that says what, where and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPT = 130


class KardiaBenchError(Exception):
    """An expected failure; its text is the one sentence shown to the user.

    `exit_code` is what the command line returns for it.
    """

    exit_code = EXIT_USAGE


class ConfigError(KardiaBenchError):
    """An option, a configuration file or a combination of them cannot be used."""


class DataError(KardiaBenchError):
    """A dataset cannot be read, or a row of it breaks the schema."""


class PluginError(KardiaBenchError):
    """A judge, model or dataset is unknown, or the plugin that provides it is broken."""


class RunError(KardiaBenchError):
    """A run directory cannot be used: missing, foreign, locked or of another configuration."""


class PreflightError(KardiaBenchError):
    """A check made before spending failed: a key, the model, a judge or the dataset."""


class StorageError(KardiaBenchError):
    """Results can no longer be written (full disk, lost permission); the run can be resumed."""

    exit_code = EXIT_INCOMPLETE


class ScoringError(KardiaBenchError):
    """A judgement failed and the missing-judgement policy is `fail_fast`."""

    exit_code = EXIT_INCOMPLETE


def first_failure(group: BaseExceptionGroup[Any]) -> BaseException:
    """The failure that made the others of a task group stop: a foreseen one, if there is one."""
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[Any]] = [group]
    for one in groups:  # grows while it is read
        leaves += [e for e in one.exceptions if not isinstance(e, BaseExceptionGroup)]
        groups += [e for e in one.exceptions if isinstance(e, BaseExceptionGroup)]
    return next((e for e in leaves if isinstance(e, KardiaBenchError)), leaves[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A closing phrase for an error about `name`: the nearest known name, else the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names) if names else "none are known"
