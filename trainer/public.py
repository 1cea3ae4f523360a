"""What of a recipe others may see: what was done, and not where things lie or who serves them.

A field is cut by what it means. A model's name may have any number of slashes
(`hosted_vllm/Qwen/Qwen3-8B`), so that slashes alone make no path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kardiabench.redaction import is_secret

#: Backends that load a model from a folder, a file or the Hub, whose names have one slash at most.
_LOCAL = ("hf", "vllm")
_DATASET = "Jhcircle/KardiaBench"
_PATH_STARTS = ("/", "./", "../", "~")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ADDRESS = re.compile(
    r"""@?(?<![\w.])[A-Za-z][A-Za-z0-9+.-]*://[^\s,'"]*   # with its scheme
    | (?<![\w.])(?:localhost|\d{1,3}(?:\.\d{1,3}){3})(?::\d+)?(?:/[^\s,'"]*)?(?![\w.])""",
    re.VERBOSE,
)
#: Names of options, of judges and of TRL, that say where a server is.
_SERVER = re.compile(r"(^|_)(base|url|uri|host|server|endpoint|address)$")


def public_recipe(recipe: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """`recipe` for others; `model` is the base model's name, where it is known from elsewhere."""
    public = _fields(recipe)
    if "model" in public and model is not None:
        public["model"] = model
    return public


def last_part(name: str) -> str:
    """The last part of a path."""
    return PurePosixPath(name.replace("\\", "/")).name or name


def public_text(value: str) -> str:
    """Any text: without addresses, and the last part of what is surely a path."""
    text = _ADDRESS.sub("", value).strip()
    return last_part(text) if _is_surely_path(text) else text


def public_local(name: str) -> str:
    """A model to load here: whole when the Hub could have it, the last part of a folder or file."""
    text = _ADDRESS.sub("", name).strip()
    is_path = text.count("/") > 1 or "\\" in text or text.endswith(".gguf") or _exists(text)
    return last_part(text) if is_path or _is_surely_path(text) else text


def public_base(name: str) -> str:
    """A base model as `public_local` shows it; of one that a training saved, `PARENT/final`."""
    shown = public_local(name.rstrip("/\\") or name)
    path = PurePosixPath(_ADDRESS.sub("", name).strip().replace("\\", "/"))
    above = path.parent.name
    is_named = re.search(r"\w", above) is not None and ":" not in above
    return f"{above}/final" if shown == "final" and is_named else shown


def public_model(name: str) -> str:
    """A model behind a backend's prefix: whole, but for the folder of one that is loaded here."""
    prefix, slash, rest = name.partition("/")
    if slash and (prefix in _LOCAL or _is_surely_path(rest)):
        return f"{prefix}/{public_local(rest)}"
    return public_text(name)


def public_dataset(name: str) -> str:
    """A dataset: every name with a slash but KardiaBench's own is a path."""
    return name if name == _DATASET else last_part(_ADDRESS.sub("", name).strip())


def public_spec(spec: str) -> str:
    """A judge with its options; left out are those that say where a server is, and secrets."""
    name, colon, rest = spec.partition(":")
    if not colon or rest.startswith("//"):
        return public_text(spec)
    options = [_option(part) for part in rest.split(",")]
    kept = ",".join(option for option in options if option)
    return public_text(name) + (f":{kept}" if kept else "")


def _option(part: str) -> str:
    key, equals, value = part.partition("=")
    name = key.strip()
    if _SERVER.search(name) or is_secret(name, part):
        return ""
    if not equals:
        return public_text(part)
    if name == "models":  # of a panel: MODEL or MODEL@http://SERVER, joined by +
        shown = "+".join(public_model(one.strip()) for one in value.split("+"))
    elif name == "model" or name.endswith("_model"):
        shown = public_model(value.strip())
    else:
        shown = public_text(value)
    return f"{name}={shown}" if shown else ""


def _is_surely_path(text: str) -> bool:
    return text.startswith(_PATH_STARTS) or _DRIVE.match(text) is not None


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or with a sign that none may have
        return False


def _path(value: str) -> str:
    return last_part(value)


def _whole(value: str) -> str:
    """A pattern, which may look like a path."""
    return value


#: Fields that say where things are, not what was done.
_LEFT_OUT = ("output", "plugins", "report_to", "about")
#: What a text of the field is; others are any text.
_KINDS: Mapping[str, Callable[[str], str]] = {
    "model": public_base,
    "judge_model": public_model,
    "judges": public_spec,
    "dataset": public_dataset,
    "test_dataset": public_dataset,
    "manifest": _path,
    "system_prompt": _path,
    "target_modules": _whole,
}


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key): _value(inner, _KINDS.get(str(key), public_text))
        for key, inner in values.items()
        if key not in _LEFT_OUT and not _SERVER.search(str(key)) and not is_secret(str(key), inner)
    }


def _value(value: Any, shown: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return _fields(value)
    if isinstance(value, list):
        return [_value(inner, shown) for inner in value]
    return shown(value) if isinstance(value, str) else value
