"""The command that repeats a run, from the settings that its manifest keeps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from kardiabench.manifests import Manifest
from kardiabench.settings import RunSettings

_NAMES = {"judges": "judge", "model_args": "model-arg", "weights": "weight", "plugins": "plugin"}
#: Not part of what a run measures.
_MANNERS = frozenset({"concurrency", "timeout", "retries", "cache", "model"})


def command_of(manifest: Manifest) -> str:
    """`kardiabench run …` with every option that is not the default, quoted for a shell.

    Total: a value of a kind that no option has is shown as its JSON.
    """
    config = manifest["config"] if isinstance(manifest["config"], Mapping) else {}
    parts = ["kardiabench", "run", "--model", str(manifest["model"]["name"])]
    for name, value in config.items():
        if name not in _MANNERS and name in _DEFAULTS and value != _DEFAULTS[name]:
            parts += _option(name, value)
    return shlex.join(parts) + "".join(f"  # {remark}" for remark in _remarks(manifest, config))


def _remarks(manifest: Manifest, config: Mapping[str, Any]) -> Iterator[str]:
    """What the command alone does not say."""
    if config.get("seed", 0) is None:  # no option takes the default seed away
        yield "without a seed"
    if str(manifest["model"]["name"]).startswith(("replay/", "scripted/")):
        yield "with the file of replies, which is not published"


def _option(name: str, value: Any) -> Iterator[str]:
    option = "--" + _NAMES.get(name, name).replace("_", "-")
    if value is True:
        yield option
    elif value is None:
        return
    elif name == "on_missing":
        yield from (option, _text(value).replace("_", "-"))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (option, f"{key}={_written(inner)}")
    elif not isinstance(value, list | tuple):
        yield from (option, _text(value))
    elif name == "emotions":
        yield from (option, ",".join(map(_text, value)))
    else:
        for inner in value:
            yield from (option, _text(inner))


def _text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _written(value: Any) -> str:
    """A value as the command reads it back: as YAML, which JSON is a part of."""
    return value if isinstance(value, str) and _reads_back(value) else json.dumps(value)


def _reads_back(text: str) -> bool:
    """Whether YAML takes `text` for itself, and not for a number, a switch or a list."""
    import yaml

    try:
        return bool(yaml.safe_load(text) == text)
    except yaml.YAMLError:
        return False


def _default(setting: Any) -> Any:
    made = setting.default if setting.default is not MISSING else setting.default_factory()
    return list(made) if isinstance(made, tuple) else made


_DEFAULTS = {setting.name: _default(setting) for setting in fields(RunSettings)[1:]}
