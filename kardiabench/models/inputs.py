"""What the offline backends read from their users: arguments and lines of JSON, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from kardiabench.errors import ConfigError, did_you_mean


def check_arguments(name: str, given: Mapping[str, object], known: Sequence[str] = ()) -> None:
    """Raise `ConfigError` for the first of the model arguments `given` that `name` doesn't know."""
    for key in given:
        if not known:
            raise ConfigError(f"{name} takes no model arguments; leave out {key!r}")
        if key not in known:
            raise ConfigError(f"{name}: unknown model argument {key!r}; {did_you_mean(key, known)}")


def parse_object(line: bytes) -> dict[str, object]:
    """The JSON object of one line; `ValueError` with a short reason where there is none."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (the content is wrong, not a caller)
    return value
