"""Reading a judge's options: text in, checked values out, one sentence when it cannot be."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kardiabench.errors import ConfigError, did_you_mean

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Options:
    """The options written after a judge's name, for the judge to take one by one."""

    judge: str
    values: Mapping[str, str]

    @staticmethod
    def check(judge: str, values: Mapping[str, str], known: Collection[str] = ()) -> Options:
        """The options of `judge`; `ConfigError` names the first that it does not have."""
        for name in values:
            if name not in known:
                hint = did_you_mean(name, known) if known else "it takes none"
                raise ConfigError(f"judge {judge!r} has no option {name!r}: {hint}")
        return Options(judge, values)

    def text(self, name: str, default: str) -> str:
        """A text that is not empty."""
        value = self.values.get(name, default).strip()
        if not value:
            raise self._bad(name, "must not be empty")
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of `choices`; the first is the default."""
        value = self.values.get(name, next(iter(choices)))
        if value not in choices:
            raise self._bad(name, f"is not one of its values, {did_you_mean(value, choices)}")
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number in `low`..`high`, or None when it was not given."""
        value = self.values.get(name)
        if value is None:
            return None
        if not _WHOLE.fullmatch(value.strip()) or not low <= int(value) <= high:
            raise self._bad(name, f"must be a whole number from {low} to {high}")
        return int(value)

    def number(self, name: str, low: float, high: float) -> float | None:
        """A finite number in `low`..`high`, or None when it was not given."""
        value = self.values.get(name)
        if value is None:
            return None
        number = _as_float(value)
        if not low <= number <= high:
            raise self._bad(name, f"must be a number from {low:g} to {high:g}")
        return number

    def _bad(self, name: str, problem: str) -> ConfigError:
        given = self.values.get(name, "")
        return ConfigError(f"judge {self.judge!r}: option {name}={given!r} {problem}")


def _as_float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan  # compares false with every bound
