"""Keys never reach a log, a manifest or a site: they are cut out of what leaves the process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit

from kardiabench.errors import ConfigError

#: Of a name in snake case: `max_tokens`, `eos_token`, `cost_per_token` are no secrets.
_SECRET_NAME = re.compile(
    r"""(
        (^|_)(api|access|secret|private|subscription|auth|service|account|signing)_?keys?(_id)?$
        | ^keys?$
        | secret | passw(or)?d | passphrase | credential | authorization | bearer | cookie
        | (^|_)auth$
        | (^|_)(?<!per_)(?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!stop_)
          (?<!start_)(?<!end_)(?<!special_)token$
    )""",
    re.VERBOSE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_SHAPE = re.compile(
    r"\b(?:(?:sk|gsk|xai|hf)[-_]|AIza)[A-Za-z0-9_-]{20,}|(?<=Bearer )[^\s\"']{8,}"
)
_SHORTEST_SECRET = 8
_LONGEST_DETAIL = 500
_GONE = "[redacted]"


def redact(text: str) -> str:
    """`text` on one line, at most 500 characters, without keys.

    A key is the value of a secret variable of the environment (plain or percent-encoded), or
    what is shaped like one.
    """
    return " ".join(without_keys(text).split())[:_LONGEST_DETAIL] if text else ""


def refuse_secrets(options: Mapping[str, object], where: str) -> None:
    """Raise `ConfigError` when `options`, nested ones too, hold a key: they end in a manifest."""
    for name, value in _leaves(options):
        if is_secret(name, value):
            raise ConfigError(
                f"{where}: {name!r} looks like a secret, and options are written to the manifest; "
                "put it into the provider's environment variable instead (OPENAI_API_KEY, …)"
            )


def is_secret(name: str, value: object = None) -> bool:
    """Whether an option's name, or its value where it is text, looks like a secret."""
    return _SECRET_NAME.search(_snake_case(name)) is not None or _holds_key(value)


def refuse_url_secrets(url: str | None, where: str) -> None:
    """Raise `ConfigError` when a URL is none, or carries a user name, a password or a query."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{where}: not a URL ({error}); write http://HOST:PORT/v1") from error
    if parts.username or parts.password or parts.query or parts.fragment or _holds_key(url):
        raise ConfigError(
            f"{where}: the URL carries credentials or a query, and is written to the manifest; "
            "give it without, and put the key into the provider's environment variable"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{where}: {url!r} is not a URL; write http://HOST:PORT/v1")


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every name in `value`, however deep, with what it names (a list's items by its name)."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key), None
            yield from _leaves(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, name)
    else:
        yield name, value


def _snake_case(name: str) -> str:
    return re.sub(r"[\s.-]+", "_", _CAMEL.sub("_", name)).lower()


def _holds_key(value: object) -> bool:
    return isinstance(value, str) and without_keys(value) != value


def without_keys(text: str, secrets: Sequence[str] | None = None) -> str:
    """`text` with every key cut out, otherwise as it is.

    `secrets` are those of `known_secrets`, for who has much to cut and looks them up once.
    """
    for secret in known_secrets() if secrets is None else secrets:
        text = text.replace(secret, _GONE)
    return _SECRET_SHAPE.sub(_GONE, text)


def known_secrets() -> list[str]:
    """Values of secret variables in all their spellings, longest first: one may hold another."""
    values = {
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value.strip()) >= _SHORTEST_SECRET
    }
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)
