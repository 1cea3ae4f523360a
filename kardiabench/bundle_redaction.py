"""What of a run is published: an allow-list of the manifest, and texts without keys and paths.

`protocol` goes out as it is, since `protocol_id` is its digest; a protocol that names a path, an
address or a key is not packed at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from kardiabench.bundle_schema import BadMember, check_manifest, strict_json
from kardiabench.errors import RunError
from kardiabench.fingerprints import digest
from kardiabench.manifests import MANIFEST, Manifest
from kardiabench.redaction import without_keys

LEFT_OUT = "[left out]"
SAMPLE = "sample"

#: Options whose values are numbers, switches or words of ours.
_CONFIG = (
    "split", "revision", "on_bad_row", "limit", "limit_personas", "emotions", "history",
    "history_content", "no_rubric", "weights", "on_missing", "temperature", "max_tokens", "seed",
    "concurrency", "timeout", "retries", "cache", "truncate_history", "guided_spans", "dtype",
    "device", "model_revision", "quantize", "thinking", "trust_remote_code", "replicas", "shard",
)  # fmt: skip
_DATASET = ("name", "split", "sha256", "revision")
#: Words that a provider's own options may have as their values; other texts could be anything.
_OPTIONS = frozenset(
    ("reasoning_effort", "effort", "verbosity", "service_tier", "type", "dtype", "torch_dtype",
     "quantization", "thinking", "format", "load_format", "kv_cache_dtype")
)  # fmt: skip
#: Backends whose models are files of the user's.
_FILES = ("replay/", "scripted/")
#: Backends whose models are names of the Hub, or folders of the user's.
_FOLDERS = ("hf/", "vllm/")

_ADDRESS = re.compile(r"@?[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>+,;|]*", re.IGNORECASE)
_ROOT = r"(?:/|~[\w.-]*[\\/]+|\.{1,2}[\\/]+|[A-Za-z]:[\\/]+|\\\\)"
#: A text that is a path as a whole, maybe behind a backend: `hf//home/me/model`.
_WHOLE_PATH = re.compile(rf"([\w-]+/)?({_ROOT}[^\n]+)")
#: A path from the root, a home, here or a drive within a text. Not the slash of `and/or`, nor that
#: of `</response>`.
_PATH = re.compile(rf"(?:(?<![\w.~:<\\/-])|(?<=[\w-]/)){_ROOT}(?![\s/]|\[left out\])[^\s\"'<>|,;]+")
_LONGEST = 300


def public_text(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` without keys, addresses and paths; of a text that is a path its last part stays.

    Idempotent.
    """
    bare = _ADDRESS.sub("", without_keys(text, secrets))
    whole = _WHOLE_PATH.fullmatch(bare)
    if whole:
        return (whole[1] or "") + _last(whole[2])
    return _PATH.sub(LEFT_OUT, bare)


def public_manifest(manifest: Manifest, secrets: Sequence[str] = ()) -> dict[str, Any]:
    """The part of a manifest that is published: what is not known to be harmless stays behind.

    Its own public manifest is itself. `secrets` are cut out (`redaction.known_secrets`).
    """
    rows = manifest["rows"]
    return {
        "kardiabench": public_text(str(manifest["kardiabench"]), secrets),
        "manifest_version": manifest["manifest_version"],
        **({"created": str(manifest["created"])[:40]} if "created" in manifest else {}),
        "config": _config(manifest["config"], secrets),
        "model": public_model(manifest["model"], secrets),
        "dataset": _dataset(manifest["dataset"], secrets),
        "protocol": manifest["protocol"],
        "protocol_id": manifest["protocol_id"],
        "rows": {"read": rows.get("read"), "skipped": rows["skipped"]},
        "environment": _environment(manifest.get("environment"), secrets),
    }


def checked_manifest(run: Path, manifest: Manifest, secrets: Sequence[str] = ()) -> dict[str, Any]:
    """The public manifest of the run directory `run`, held to what a bundle's is held to.

    Raises `RunError` that names the file, for a manifest of which no page can be made.
    """
    try:
        checked = strict_json(json.dumps(public_manifest(manifest, secrets)).encode())
        check_manifest(checked)
    except (BadMember, RecursionError) as error:
        why = str(error) if isinstance(error, BadMember) else "it is nested too deeply"
        raise RunError(f"{run / MANIFEST}: {why}; restore the file or start a new run") from error
    return checked


def public_model(model: Mapping[str, Any], secrets: Sequence[str] = ()) -> dict[str, Any]:
    """The name and identity of the model under test, without paths and addresses."""
    name = str(model["name"])
    shown = _model_name(name, secrets)
    identity = {
        str(key): shown if value == name else _identity(key, value, secrets)
        for key, value in model["identity"].items()
    }
    return {"name": shown, "identity": identity}


def run_id(manifest: Manifest) -> str:
    """A run's name, 16 hexadecimal digits: the same for the run, resumed or not, and its bundles.

    It is of the model, the protocol and the time at which the run was begun.
    """
    created = str(manifest.get("created", ""))[:40]
    return digest([public_model(manifest["model"]), manifest["protocol_id"], created])


def is_open(manifest: Manifest) -> bool:
    """Whether the run is on the embedded sample (CC0): then its replies and quotes may be shown.

    By the file's digest: a file that somebody calls `sample` is none.
    """
    dataset = manifest["dataset"]
    return bool(dataset["name"] == SAMPLE) and dataset.get("sha256") == _sample_digest()


def refuse_private_protocol(
    manifest: Manifest, secrets: Sequence[str], *, allow_paths: bool
) -> None:
    """Raise `RunError` when the protocol, which is published as it is, names what should not be.

    With `allow_paths` it may name paths and addresses, never a key.
    """
    for where, text in _texts(manifest["protocol"], "protocol"):
        if without_keys(text, secrets) != text:
            raise RunError(
                f"{where} in the manifest holds a key, and the protocol's digest covers it, so it "
                "cannot be cut out; take it back where it was issued, and run again without it"
            )
        is_prose = where.endswith(".description")
        if not allow_paths and not is_prose and public_text(text) != text:
            raise RunError(
                f"{where} in the manifest holds a path or an address, and the protocol's digest "
                "covers it, so it cannot be cut out; pack with --allow-protocol when it may be "
                "public, else run again with a model of a plain name"
            )


def public_value(value: Any, secrets: Sequence[str] = ()) -> Any:
    """A JSON value with every text and every key of it as `public_text` leaves them."""
    if isinstance(value, Mapping):
        return {
            public_text(str(key), secrets): public_value(part, secrets)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [public_value(part, secrets) for part in value]
    return public_text(value, secrets) if isinstance(value, str) else value


def _config(config: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """The options of the command, less addresses; files by their names.

    An option of another kind stays of that kind, for `check_manifest` to refuse.
    """

    def each(key: str, public: Callable[[str], str]) -> Any:
        value = config[key]
        if isinstance(value, list | tuple):
            return [public(str(one)) for one in value]
        return public_value(value, secrets)

    shown = {key: public_value(config[key], secrets) for key in _CONFIG if key in config}
    for key in ("model", "judge_model"):
        if key in config:
            name = config[key]
            is_name = isinstance(name, str) and name
            shown[key] = _model_name(name, secrets) if is_name else public_value(name, secrets)
    for key in ("dataset", "system_prompt", "adapter"):
        if config.get(key) is not None:
            hub = key != "system_prompt"
            shown[key] = _last(public_text(str(config[key]), secrets), hub=hub)
    if "judges" in config:
        shown["judges"] = each("judges", lambda spec: _judge(spec, secrets))
    if "plugins" in config:
        shown["plugins"] = each("plugins", lambda file: _last(public_text(file, secrets)))
    arguments = (key for key in ("model_args", "replica_args") if key in config)
    return shown | {key: _options(config[key], secrets) for key in arguments}


def _judge(spec: str, secrets: Sequence[str]) -> str:
    """`rubric:model=M,api_base=http://…` without the address."""
    name, colon, rest = spec.partition(":")
    kept = [part for part in rest.split(",") if not part.strip().startswith("api_base=")]
    options = ",".join(_option(part, secrets) for part in kept)
    return public_text(name, secrets) + (colon + options if options else "")


def _option(text: str, secrets: Sequence[str]) -> str:
    """`models=A+B`: a value may be a model, or several."""
    name, equals, value = text.partition("=")
    models = (_model_name(public_text(model, secrets), secrets) for model in value.split("+"))
    return public_text(name, secrets) + equals + "+".join(models)


def _model_name(name: str, secrets: Sequence[str]) -> str:
    """`replay//home/me/x.jsonl` is `replay/x.jsonl`; a name of the Hub stays whole."""
    for prefix in (*_FILES, *_FOLDERS):
        if name.startswith(prefix):
            place = name.removeprefix(prefix)
            return prefix + _last(public_text(place, secrets), hub=prefix in _FOLDERS)
    return public_text(name, secrets)[:_LONGEST]


def _last(path: str, *, hub: bool = False) -> str:
    """The last part of a path; with `hub`, a name of the form `owner/name` is no path."""
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    if hub and path == "/".join(parts) and len(parts) <= 2 and not path.startswith((".", "~")):
        return path
    return parts[-1] if parts else LEFT_OUT


def _identity(key: object, value: Any, secrets: Sequence[str]) -> Any:
    """What of a model's identity is published: `extra` are options, the rest names and numbers."""
    if key == "extra":
        return _options(value, secrets)
    if isinstance(value, Mapping):
        return {str(inner): _identity(inner, part, secrets) for inner, part in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(key, part, secrets) for part in value]
    if isinstance(value, str):
        return public_text(value, secrets)[:_LONGEST]
    return value


def _options(value: Any, secrets: Sequence[str], name: str = "") -> Any:
    """Options for a provider: their names, and values that are numbers, switches or known words."""
    if isinstance(value, Mapping):
        return {
            public_text(str(key), secrets): _options(part, secrets, str(key))
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_options(part, secrets, name) for part in value]
    if isinstance(value, str):
        return public_text(value, secrets)[:_LONGEST] if name in _OPTIONS else LEFT_OUT
    return value


def _dataset(dataset: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Where the data are from: of a local file or folder, which has a digest, its name alone."""
    shown = {key: public_value(dataset[key], secrets) for key in _DATASET if key in dataset}
    shown["name"] = _last(shown["name"], hub="sha256" not in dataset)
    return shown


def _environment(environment: Any, secrets: Sequence[str]) -> dict[str, Any]:
    """Versions; of the system its kind alone."""
    if not isinstance(environment, Mapping):
        return {}
    shown = {
        key: public_value(environment[key], secrets)
        for key in ("python", "packages")
        if key in environment
    }
    if "platform" in environment:
        shown["platform"] = str(environment["platform"]).partition("-")[0]
    plugins = environment.get("plugins")
    if isinstance(plugins, Mapping):
        shown["plugins"] = {
            public_text(str(key), secrets): _origin(str(origin), secrets)
            for key, origin in plugins.items()
        }
    return shown


def _origin(origin: str, secrets: Sequence[str]) -> str:
    """A distribution and its version, or a file by its name."""
    bare = public_text(origin, secrets)
    return PurePosixPath(bare.replace("\\", "/")).name if bare.endswith(".py") else bare


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, keys too, with where it stands."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield where, str(key)
            yield from _texts(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for at, part in enumerate(value):
            yield from _texts(part, f"{where}[{at}]")
    elif isinstance(value, str):
        yield where, value


@cache
def _sample_digest() -> str:
    from kardiabench.sources import open_sample

    return str(open_sample(SAMPLE, None, None).identity["sha256"])
