"""Reads recipes: a YAML file or a built-in one, and `key=value` from the command line above it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, overload

import yaml
from pydantic import ValidationError

from kardiabench.errors import ConfigError, did_you_mean
from kardiabench.redaction import refuse_secrets, refuse_url_secrets
from kardiabench.registry import parse_spec
from trainer.config import STAGES, Grpo, Sft, Split

_DEEPEST = 8


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-6 is a number, as people write it; YAML 1.1 wants 1.0e-6."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def built_in() -> dict[str, str]:
    """The recipes that come with the package: name and what they say they are about."""
    names = sorted(name for name in _files() if "/" not in name)
    return {name: str(_parsed(source_of(name), name).get("about", "")) for name in names}


def launch_configs() -> list[str]:
    """The configurations for `accelerate launch`, by the names that `source_of` takes."""
    return sorted(name for name in _files() if "/" in name)


def _files() -> dict[str, Traversable]:
    """What lies in the package, by name: `grpo-paper`, `accelerate/fsdp`."""
    folder = resources.files("trainer.recipes")
    inner = folder / "accelerate"
    found = {item.name: item for item in folder.iterdir()}
    found |= {f"accelerate/{item.name}": item for item in inner.iterdir()}
    return {
        name.removesuffix(".yaml"): item for name, item in found.items() if name.endswith(".yaml")
    }


@overload
def load_stage(stage: Literal["grpo"], recipe: str | None, overrides: Sequence[str]) -> Grpo: ...


@overload
def load_stage(stage: str, recipe: str | None, overrides: Sequence[str]) -> Sft | Split | Grpo: ...


def load_stage(stage: str, recipe: str | None, overrides: Sequence[str]) -> Sft | Split | Grpo:
    """The validated configuration of a stage; raises `ConfigError`, one sentence.

    `recipe` is a file or a built-in name, None for the defaults; `overrides` are `key=value`, with
    dots for what is nested, the value as YAML.
    """
    fields = {} if recipe is None else read_recipe(recipe)
    named = fields.pop("stage", None) or stage
    if named != stage:
        raise ConfigError(
            f"{recipe} is a recipe for {named}, not for {stage}; run: python -m trainer {named}"
        )
    for override in overrides:
        _override(fields, override)
    refuse_secrets(fields, "recipe")
    try:
        made = STAGES[stage](**fields)
    except ValidationError as error:
        raise ConfigError(_sentence(error, STAGES[stage], recipe)) from error
    _refuse_keys(made)
    return made


def _refuse_keys(stage: Sft | Split | Grpo) -> None:
    """Judges' options and servers' addresses end in the manifest, the ledger and the card."""
    if not isinstance(stage, Sft):
        specs = [*stage.judging.judges]
        refuse_url_secrets(stage.judging.judge_api_base, "judging.judge_api_base")
        if isinstance(stage, Grpo):
            specs += stage.held_out.judges
            refuse_url_secrets(stage.vllm.server_base_url, "vllm.server_base_url")
        for spec in specs:
            name, options = parse_spec(spec)
            refuse_secrets(options, f"judge {name}")
            refuse_url_secrets(options.get("api_base"), f"judge {name}:api_base")


def read_recipe(name: str, depth: int = 0) -> dict[str, Any]:
    """The fields of a recipe, above those of the one that it `extends`."""
    if depth > _DEEPEST:
        raise ConfigError(f"recipe {name} extends itself; take the circle out")
    fields = _parsed(source_of(name), name)
    base = fields.pop("extends", None)
    if base is None:
        return fields
    return _merged(read_recipe(_beside(name, str(base)), depth + 1), fields)


def source_of(name: str) -> str:
    """The text of a recipe, a file or a built-in one; raises `ConfigError`."""
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {name} cannot be read ({error}); give a YAML file") from error
    known = _files()
    if name not in known:
        raise ConfigError(
            f"recipe {name!r} is neither a file nor built in; {did_you_mean(name, known)}"
        )
    return known[name].read_text("utf-8")


def _beside(name: str, base: str) -> str:
    """A recipe that another one extends: a file beside it, else a built-in one."""
    neighbour = Path(name).expanduser().parent / base
    return str(neighbour) if Path(name).expanduser().is_file() and neighbour.is_file() else base


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        fields = yaml.load(text, _Loader) or {}  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"recipe {name} is no YAML ({why}); mend it") from error
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ConfigError(f"recipe {name} is no mapping of names to values; see the built-in ones")
    return fields


def _merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `base`, nested mappings field by field; other values whole."""
    merged = dict(base)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        # weights name judges, so those of the base have no place beside new ones
        merged[key] = _merged(merged[key], value) if both and key != "weights" else value
    return merged


def _override(fields: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not all((*path, last)):
        raise ConfigError(f"{override!r} is not key=value; write for example learning_rate=2e-6")
    try:
        value = yaml.load(text, _Loader) if text else None  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{key.strip()}: the value is no YAML; put it into quotes") from error
    for name in path:
        inner = fields.get(name)
        fields[name] = dict(inner) if isinstance(inner, Mapping) else {}
        fields = fields[name]
    fields[last] = value


def _sentence(error: ValidationError, stage: type[Any], recipe: str | None) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = f" in {recipe}" if recipe else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(stage, first["loc"][:-1])
        hint = did_you_mean(str(first["loc"][-1]), known)
        return f"{place}{where}: there is no such field; {hint}{more}"
    if first["type"] == "missing":
        return f"{place}{where} is missing; give it in the recipe or as {place}=…{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place or 'the recipe'}{where}: {message}{more}"


def _fields_at(model: Any, place: Sequence[Any]) -> list[str]:
    """The names of the fields of the record that is at `place`."""
    from typing import get_args

    for name in place:
        field = getattr(model, "model_fields", {}).get(str(name))
        if field is None:
            return []
        options = (field.annotation, *get_args(field.annotation))
        model = next((one for one in options if hasattr(one, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))
