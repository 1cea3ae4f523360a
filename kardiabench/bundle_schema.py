"""The schema of what is one object in a bundle: its index, the manifest, any JSON at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic wants this one before Python 3.12
)

from typing_extensions import TypedDict

from kardiabench.bundle_rows import WORD, first_flaw
from kardiabench.fingerprints import digest, fingerprint
from kardiabench.manifests import MANIFEST_VERSION

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: No figure of a run is larger.
_LARGEST = 1e15
_DEEPEST = 40
#: The judge that tests the machinery and measures nothing.
SMOKE = "smoke"
_TIME = r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"


class BadMember(ValueError):  # noqa: N818 - it is the member that is bad
    """A member that is not what its name says: why, in a few words."""


def is_word(text: str) -> bool:
    """Whether `text` may name a judge, a dialogue or a persona."""
    return re.fullmatch(WORD, text) is not None


def strict_json(content: bytes) -> dict[str, Any]:
    """The object that `content` is.

    Raises `BadMember` for what is none, for keys that stand twice, for numbers that are none or
    beyond all measure, for halves of characters, and for what is nested without end.
    """
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_constant=_no_number)
        _check_value(value, 0)
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:150]
        raise BadMember(f"it is no JSON that a bundle may hold ({why})") from error
    if not isinstance(value, dict):
        raise BadMember("it is no JSON object")
    return value


def read_index(content: Mapping[str, Any]) -> dict[str, Any]:
    """`bundle.json`, checked; raises `BadMember`."""
    index: dict[str, Any] = _validated(_adapters()[0], content)
    return index


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise `BadMember` unless a site can be made of `manifest`."""
    if manifest.get("manifest_version") != MANIFEST_VERSION:
        version = str(manifest.get("manifest_version"))[:20]
        raise BadMember(f"it has version {version!r}, this kardiabench reads {MANIFEST_VERSION}")
    _validated(_adapters()[1], manifest)
    _check_time(manifest["created"])
    protocol = manifest["protocol"]
    if digest(protocol) != manifest["protocol_id"]:
        raise BadMember("it was edited: its protocol is not what protocol_id stands for")
    for name, judge in protocol["scorer"]["judges"].items():
        if fingerprint(judge["identity"]) != judge["fingerprint"]:
            raise BadMember(f"it was edited: {name} has the fingerprint of another judge")
        if judge["identity"].get("judge") == SMOKE and not judge.get("smoke_test"):
            raise BadMember(f"it was edited: {name} is the smoke test and is said to be none")
        _check_dimensions(name, judge["dimensions"])


def _check_time(created: str) -> None:
    try:
        datetime.fromisoformat(created)
    except ValueError as error:
        raise BadMember(
            f"created: {created!r} is no time (as 2026-01-31T12:00:00+00:00)"
        ) from error


def _check_dimensions(judge: str, dimensions: Sequence[Mapping[str, Any]]) -> None:
    names = [dimension["name"] for dimension in dimensions]
    if len(set(names)) < len(names):
        raise BadMember(f"{judge} has two dimensions of one name")
    for dimension in dimensions:
        if not dimension["low"] < dimension["high"]:
            raise BadMember(f"{judge}.{dimension['name']} has a range that does not rise")


def _schema() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    from pydantic import ConfigDict, Field, TypeAdapter, with_config

    closed = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    opened = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    word = Annotated[str, Field(pattern=WORD)]
    line = Annotated[str, Field(max_length=1000)]
    name = Annotated[str, Field(min_length=1, max_length=500)]
    count = Annotated[int, Field(ge=0, le=10_000_000)]
    some = Annotated[int, Field(ge=1, le=10_000_000)]
    text = Annotated[str, Field(max_length=10_000)]
    weight = Annotated[float, Field(gt=0, le=1e6)]
    mark = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]

    @with_config(closed)
    class Index(TypedDict):
        bundle_version: int
        kardiabench: Annotated[str, Field(max_length=50)]
        run_id: mark
        left_out: Annotated[list[line], Field(max_length=20)]
        members: dict[
            Annotated[str, Field(max_length=100)], Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
        ]

    @with_config(closed)
    class DimensionPart(TypedDict):
        name: Annotated[str, Field(min_length=1, max_length=100)]
        low: float
        high: float
        description: Annotated[str, Field(max_length=2000)]
        flag: NotRequired[bool]

    @with_config(opened)
    class JudgePart(TypedDict):
        fingerprint: mark
        identity: dict[str, Any]
        smoke_test: NotRequired[bool]
        dimensions: Annotated[list[DimensionPart], Field(min_length=1, max_length=100)]

    @with_config(opened)
    class ScorerPart(TypedDict):
        judges: dict[word, JudgePart]
        weights: Annotated[dict[word, weight], Field(min_length=1)]
        missing: Literal["mask", "fail_fast", "zero"]

    @with_config(opened)
    class CountsPart(TypedDict):
        turns: some
        dialogues: some
        personas: some
        fingerprint: mark

    @with_config(opened)
    class PromptsPart(TypedDict):
        history: line
        history_content: line
        system_prompt: line
        system_prompt_hash: line

    @with_config(closed)
    class GoldPart(TypedDict):
        span: count
        dialogue: count

    @with_config(opened)
    class ProtocolPart(TypedDict):
        dataset: CountsPart
        prompts: PromptsPart
        gold_emotion: GoldPart
        scorer: ScorerPart

    @with_config(closed)
    class ModelPart(TypedDict):
        name: name
        identity: dict[str, Any]

    @with_config(closed)
    class SourcePart(TypedDict):
        name: name
        split: NotRequired[line | None]
        sha256: NotRequired[Annotated[str, Field(max_length=100)]]
        revision: NotRequired[line | None]

    @with_config(closed)
    class RowsPart(TypedDict):
        read: count | None
        skipped: count

    @with_config(closed)
    class EnvironmentPart(TypedDict, total=False):
        python: line
        platform: line
        packages: dict[line, line | None]
        plugins: dict[line, line]

    @with_config(opened)
    class ConfigPart(TypedDict, total=False):
        model: text
        dataset: text
        split: text | None
        revision: text | None
        on_bad_row: text
        limit: int | None
        limit_personas: int | None
        emotions: list[text]
        history: text
        history_content: text
        system_prompt: text
        judges: list[text]
        judge_model: text | None
        no_rubric: bool
        weights: dict[text, float]
        on_missing: text
        temperature: float | None
        max_tokens: int | None
        seed: int | None
        model_args: dict[text, Any]
        truncate_history: bool
        guided_spans: bool
        dtype: text
        device: text
        adapter: text | None
        model_revision: text | None
        quantize: text | None
        thinking: bool | None
        trust_remote_code: bool
        replicas: int
        replica_args: dict[text, Any]
        shard: text | None
        concurrency: int
        timeout: float
        retries: int
        plugins: list[text]
        cache: bool

    @with_config(opened)
    class ManifestPart(TypedDict):
        kardiabench: Annotated[str, Field(max_length=50)]
        created: Annotated[str, Field(pattern=_TIME)]
        config: ConfigPart
        model: ModelPart
        dataset: SourcePart
        protocol: ProtocolPart
        protocol_id: mark
        rows: RowsPart
        environment: EnvironmentPart

    return TypeAdapter(Index), TypeAdapter(ManifestPart)


@cache
def _adapters() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    return _schema()


def _validated(adapter: TypeAdapter[Any], value: Mapping[str, Any]) -> Any:
    from pydantic import ValidationError

    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise BadMember(first_flaw(error)) from error


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")


def _check_value(value: object, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        value.encode()  # half a character is none, and raises a ValueError
    elif isinstance(value, list):
        for part in value:
            _check_value(part, depth + 1)
    elif isinstance(value, dict):
        for key, part in value.items():
            key.encode()
            _check_value(part, depth + 1)
    elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST):
        raise ValueError("a number in it is beyond all measure")
