"""Keys never reach a log, a manifest or a site: they are cut out of what leaves the process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from kardiabench.errors import ConfigError

_SECRET_NAME = re.compile(
    r"(api_?key|token|secret|password|authorization|credential)s?$", re.IGNORECASE
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
_SHORTEST_SECRET = 8
_LONGEST_DETAIL = 500


def redact(text: str) -> str:
    """`text` on one line, at most 500 characters, without the value of any secret variable."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "[redacted]")
    return " ".join(text.split())[:_LONGEST_DETAIL]


def refuse_secrets(options: Mapping[str, object], where: str) -> None:
    """Raise `ConfigError` when `options`, nested ones too, hold a key: they end in a manifest."""
    for name, value in options.items():
        if _SECRET_NAME.search(name):
            raise ConfigError(
                f"{where}: {name!r} looks like a secret, and options are written to the manifest; "
                "put it into the provider's environment variable instead (OPENAI_API_KEY, …)"
            )
        if isinstance(value, Mapping):
            refuse_secrets(value, where)


def refuse_url_secrets(url: str | None, where: str) -> None:
    """Raise `ConfigError` when a URL carries a user name, a password or a query."""
    if url is None:
        return
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"{where}: the URL carries credentials or a query, and is written to the manifest; "
            "give it without, and put the key into the provider's environment variable"
        )
