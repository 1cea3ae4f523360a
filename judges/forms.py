"""The form of an answer as the prompt shows it, and answers that copy it without filling it in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What models put around a word that they copy.
_AROUND = "\"'`*\u2018\u2019\u201c\u201d\u00ab\u00bb"


def skeleton(schema: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """An object of `schema` on one line: a placeholder for each value, but for the `known`."""
    if "enum" in schema:
        options: Sequence[Any] = schema["enum"]
        shown = " | ".join(map(str, options))
        return f"<{shown}>" if isinstance(options[0], int) else f'"<{shown}>"'
    if schema.get("type") != "object":
        return json.dumps(_placeholder(schema))
    parts = (
        f'"{key}": {known.get(key) or skeleton(part, known)}'
        for key, part in schema["properties"].items()
    )
    return "{" + ", ".join(parts) + "}"


def copied(schema: Mapping[str, Any], value: Any, place: str = "") -> Iterator[str]:
    """The places (`empathy.evidence`) of texts in `value` that are still the form's placeholder."""
    if isinstance(value, Mapping):
        for key, part in schema.get("properties", {}).items():
            yield from copied(part, value.get(key), f"{place}.{key}" if place else key)
    elif isinstance(value, str) and _bare(value) == _bare(_placeholder(schema)):
        yield place


def _placeholder(schema: Mapping[str, Any]) -> str:
    return f"<{schema.get('description', schema.get('type'))}>"


def _bare(text: str) -> str:
    """`text` without white space, without marks around it, in one case."""
    return "".join(text.split()).strip(_AROUND).casefold()
