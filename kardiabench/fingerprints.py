"""Content hashes: the same content gives the same name on every machine."""

from __future__ import annotations

import hashlib
import json

from kardiabench.contracts import Identity
from kardiabench.errors import ConfigError


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no white space: equal values give equal text.

    Raises `ConfigError` for what JSON cannot hold: a number that is not finite, a date, a set.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"an option has a value that JSON cannot hold ({error}); give text, finite numbers, "
            "true, false, or lists of them"
        ) from error


def digest(value: object, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def fingerprint(identity: Identity) -> str:
    """The short name of a judge's or model's identity: 16 hexadecimal digits."""
    return digest(dict(identity))
