"""Where the weights of a local model are, and what identifies them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from kardiabench.contracts import LocalOptions, ModelOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local import hub
from kardiabench.models.local.fingerprint import (
    fingerprint_of_adapter,
    fingerprint_of_folder,
    fingerprint_of_gguf,
    names_in,
    weight_names,
)

Kind = Literal["folder", "gguf", "hub"]
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Place:
    """Where a model or an adapter is.

    `path` is its folder or GGUF file; a model of the Hub has none and is pinned by `revision`, a
    commit. `config` is its config.json (an adapter's adapter_config.json), {} for a GGUF file.
    `has_tokenizer`: there is a tokenizer beside the weights, as trainers leave one with an adapter.
    """

    name: str
    kind: Kind
    path: Path | None = None
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    has_tokenizer: bool = True

    @property
    def source(self) -> str:
        """What `from_pretrained` takes as its first argument."""
        if self.path is None:
            return self.name
        return str(self.path.parent if self.kind == "gguf" else self.path)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` of a tokenizer or model takes besides."""
        if self.path is None:
            return {"revision": self.revision}
        return {"gguf_file": self.path.name} if self.kind == "gguf" else {}


def weights_identity(name: str, local: LocalOptions) -> dict[str, object]:
    """What identifies the weights of `name` (without the backend's prefix) and of its adapter.

    `weights` is the fingerprint of a folder's or file's content, `revision` the commit of a model
    of the Hub; `adapter` likewise a fingerprint, or `NAME@COMMIT`. Where they lie is no part of it.
    Raises as `locate`.
    """
    place = locate(name, local)
    identity: dict[str, object] = {}
    if place.path is None:
        identity["revision"] = place.revision
    else:
        identity["weights"] = _fingerprint(place, adapter=False)
    if local.adapter is not None:
        adapter = locate_adapter(local.adapter)
        if adapter.path is None:
            identity["adapter"] = f"{adapter.name}@{adapter.revision}"
        else:
            identity["adapter"] = _fingerprint(adapter, adapter=True)
    return identity


def model_identity(
    backend: str, name: str, options: ModelOptions, extra: Mapping[str, object]
) -> dict[str, object]:
    """What decides the replies of a local model: its files, and how tokens are chosen.

    `name` is without the backend's prefix; `extra` are the model arguments that decide replies. No
    device, no folder, nothing that only decides how fast it is.
    """
    local = options.local
    return {
        "backend": backend,
        "model": shown_name(name),
        **weights_identity(name, local),
        "dtype": local.dtype,
        "quantize": local.quantize,
        "thinking": local.thinking,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        "extra": dict(extra),
    }


def shown_name(name: str) -> str:
    """`name` for a model's identity: of a path the last part, since it may lie anywhere."""
    path = Path(name).expanduser()
    is_path = path.exists() or name.startswith(("/", ".", "~"))
    return path.resolve().name if is_path else name


def locate(name: str, local: LocalOptions) -> Place:
    """Find the model `name`: a folder, a `.gguf` file, else a model of the Hub.

    What exists as a folder is one; so is what begins with `/`, `.` or `~`. Raises `PreflightError`
    where there is no model or one that cannot be loaded as it lies there, and `ConfigError` for a
    revision of something that has none.
    """
    path = Path(name).expanduser()
    if not _is_path(name, path):
        return _on_hub(name, local.revision)
    if not path.exists():
        raise PreflightError(f"{name} does not exist: give a folder with a model, or a .gguf file")
    if local.revision is not None:
        raise ConfigError(
            f"{name} is on this machine, where it has no revisions: leave --model-revision out"
        )
    return _folder(name, path) if path.is_dir() else _gguf(name, path)


def locate_adapter(name: str) -> Place:
    """Find a LoRA adapter: a folder, else a repository of the Hub. Raises `PreflightError`."""
    path = Path(name).expanduser()
    if _is_path(name, path):
        if not path.is_dir():
            raise PreflightError(f"{name} is no folder: give --adapter the folder of an adapter")
        names: Collection[str] = names_in(path)
        place = Place(name, "folder", path)
    else:
        commit = hub.commit_of(name, None)
        names = commit.files
        place = Place(name, "hub", revision=commit.sha)
    _check_adapter(name, names)
    config = _json_of(place, _ADAPTER_CONFIG)
    return replace(place, config=config, has_tokenizer="tokenizer_config.json" in names)


def _is_path(name: str, path: Path) -> bool:
    return path.exists() or name.startswith(("/", ".", "~")) or name.lower().endswith(".gguf")


def _on_hub(name: str, revision: str | None) -> Place:
    commit = hub.commit_of(name, revision)
    place = Place(name, "hub", revision=commit.sha)
    if "config.json" not in commit.files:
        _no_config(name, commit.files, lambda: _json_of(place, _ADAPTER_CONFIG, revision))
    if not weight_names(commit.files):
        raise PreflightError(f"{name} has no weights at {commit.sha[:12]}: {_holds(commit.files)}")
    return replace(place, config=_json_of(place, "config.json", revision))


def _folder(name: str, path: Path) -> Place:
    names = _names_in(name, path)
    place = Place(name, "folder", path)
    if "config.json" not in names:
        _no_config(name, names, lambda: _json_of(place, _ADAPTER_CONFIG))
    if _ADAPTER_CONFIG in names:
        raise PreflightError(
            f"{name} has a model and an adapter, so which is meant cannot be told: move the "
            "adapter_* files to a folder of their own for --adapter, or delete them"
        )
    if not weight_names(names):
        raise PreflightError(
            f"{name} has no weights (.safetensors or .bin): {_holds(names)}; copy them there"
        )
    _check_shards(place, names)
    return replace(place, config=_json_of(place, "config.json"))


def _gguf(name: str, path: Path) -> Place:
    with path.open("rb") as stream:
        if stream.read(4) == b"GGUF":
            return Place(name, "gguf", path)
    raise PreflightError(f"{name} is no GGUF file: give a folder with a model, or a .gguf file")


def _no_config(name: str, names: Collection[str], adapter_config: Any) -> NoReturn:
    if _ADAPTER_CONFIG in names:
        base = adapter_config().get("base_model_name_or_path") or "its base model"
        raise PreflightError(
            f"{name} has an adapter only: give {base} as the model, with --adapter {name}"
        )
    files = sorted(file for file in names if file.lower().endswith(".gguf"))
    if files:
        raise PreflightError(
            f"{name} has no config.json, but GGUF files: give one as the model, such as the path "
            f"of {files[0]}, downloaded if it is on the Hub"
        )
    raise PreflightError(f"{name} has no config.json, so it is no model: {_holds(names)}")


def _check_shards(place: Place, names: Collection[str]) -> None:
    """Weights in several files must all be there."""
    index = next((name for name in names if name.endswith((".safetensors.index.json"))), None)
    if index is None or "model.safetensors" in names:
        return
    parts = _json_of(place, index).get("weight_map")
    wanted = set(map(str, parts.values())) if isinstance(parts, dict) else set()
    missing = sorted(wanted.difference(names))
    if missing:
        raise PreflightError(
            f"{place.name} lacks {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f", which {index} names: copy the model anew"
        )


def _check_adapter(name: str, names: Collection[str]) -> None:
    if _ADAPTER_CONFIG not in names:
        hint = "; as a whole model it belongs to --model" if "config.json" in names else ""
        raise PreflightError(f"{name} has no {_ADAPTER_CONFIG}, so it is no adapter{hint}")
    if not any(file in names for file in _ADAPTER_WEIGHTS):
        raise PreflightError(f"{name} lacks {_ADAPTER_WEIGHTS[0]}, the adapter's weights")


def _names_in(name: str, path: Path) -> list[str]:
    try:
        return names_in(path)
    except OSError as error:
        raise _unreadable(name, error) from error


def _fingerprint(place: Place, *, adapter: bool) -> str:
    if place.path is None:
        raise ValueError("what is on the Hub is identified by its commit")
    try:
        if place.kind == "gguf":
            return fingerprint_of_gguf(place.path)
        return (fingerprint_of_adapter if adapter else fingerprint_of_folder)(place.path)
    except OSError as error:
        raise _unreadable(place.name, error) from error


def _json_of(place: Place, file: str, revision: str | None = None) -> Mapping[str, Any]:
    if place.path is None:
        return hub.read_json(place.name, revision, place.revision or "main", file)
    try:
        value = json.loads((place.path / file).read_text("utf-8"))
    except OSError as error:
        raise _unreadable(place.name, error) from error
    except ValueError as error:
        raise PreflightError(
            f"{file} of {place.name} is not JSON ({error}): copy the model anew"
        ) from error
    if not isinstance(value, dict):
        raise PreflightError(f"{file} of {place.name} is no JSON object: copy the model anew")
    return value


def _unreadable(name: str, error: OSError) -> PreflightError:
    reason = error.strerror or str(error)
    return PreflightError(f"{name} cannot be read ({reason}): check the path and rights")


def _holds(names: Collection[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return f"it has {', '.join(shown[:6])}{more}" if shown else "it is empty"
