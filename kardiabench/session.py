"""Puts a run together: plugins, model, judges, dialogues, and the manifest of it all."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kardiabench
from kardiabench.cache import Cache, default_path
from kardiabench.contracts import (
    ChatModel,
    JudgeContext,
    LocalOptions,
    ModelOptions,
    OpenModel,
)
from kardiabench.dialogues import Dialogues, Shard, load
from kardiabench.errors import ConfigError, RunError
from kardiabench.fingerprints import digest
from kardiabench.manifests import MANIFEST_VERSION, Manifest, differences
from kardiabench.plugins import load_registry
from kardiabench.prompts import PromptPlan
from kardiabench.redaction import refuse_secrets
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import Scorer
from kardiabench.settings import DEFAULT_SEED, RunSettings, parse_shard

_PACKAGES = (
    "datasets", "litellm", "pydantic", "scikit-learn", "scipy", "numpy",
    "torch", "transformers", "peft", "vllm", "ray",
)  # fmt: skip
#: What a judge may ask for of a local model.
_LOCAL = frozenset({"dtype", "device", "quantize", "thinking"})


@dataclass
class Models:
    """Opens models for judges with the run's manners, each only once, and remembers them."""

    registry: Registry
    settings: RunSettings
    opened: dict[str, ChatModel] = field(default_factory=dict)

    def __call__(self, name: str, **options: Any) -> ChatModel:
        """Open `name` (an `OpenModel`)."""
        # Like the model under test; what is asked of that one in particular is its own, its seed
        # too: runs that differ in the seed are judged alike.
        manners = replace(
            model_options(self.settings),
            temperature=None,
            seed=DEFAULT_SEED,
            max_tokens=ModelOptions.max_tokens,
            api_base=None,
            extra={},
        )
        tested = name == self.settings.model
        manners = replace(
            manners,
            engine=dict(self.settings.model_args) if tested else {},
            local=_judge_local(self.settings, options, tested=tested),
        )
        key = f"{name} {sorted(options.items())} {manners.local}"
        asked = options.keys() & _LOCAL
        options = {name: value for name, value in options.items() if name not in _LOCAL}
        if key not in self.opened:
            model = self.registry.open_model(name, manners, **options)
            if asked and not getattr(model, "is_local", False):
                raise ConfigError(
                    f"a judge's option {min(asked)} is for models that run in this process (hf/…, "
                    f"vllm/…), and {name} does not; leave it out"
                )
            self.opened[key] = model
        return self.opened[key]

    def noting(self, asked: list[ChatModel]) -> OpenModel:
        """The same, which also puts what it opens into `asked`."""

        def open_model(name: str, **options: Any) -> ChatModel:
            asked.append(self(name, **options))
            return asked[-1]

        return open_model


@dataclass(frozen=True)
class Session:
    """Everything that a run works with."""

    settings: RunSettings
    registry: Registry
    dialogues: Dialogues
    prompts: PromptPlan
    model: ChatModel
    judge_models: Mapping[str, ChatModel]
    scorer: Scorer
    cache: Cache | None

    async def aclose(self) -> None:
        """Close the models and the cache."""
        for model in (self.model, *self.judge_models.values()):
            await model.aclose()
        if self.cache is not None:
            self.cache.close()


def open_session(settings: RunSettings, registry: Registry | None = None) -> Session:
    """Make everything, cheap things first, without calling a model.

    Raises a `KardiaBenchError` for the first thing that cannot be had.
    """
    _refuse_secrets(settings)
    registry = registry or load_registry(settings.plugins)
    prompts = settings.prompts
    prompts.check()
    model = open_tested_model(settings, registry)
    models = Models(registry, settings)
    cache = Cache(default_path()) if settings.cache else None
    scorer = make_scorer(settings, registry, models, cache)
    source = registry.open_dataset(settings.dataset, settings.split, settings.revision)
    dialogues = load(source, settings.selection, settings.on_bad_row)
    if settings.shard is not None:
        dialogues = dialogues.shard(*parse_shard(settings.shard))
    return Session(settings, registry, dialogues, prompts, model, models.opened, scorer, cache)


def open_tested_model(settings: RunSettings, registry: Registry) -> ChatModel:
    """The model under test, on replicas where they are asked for.

    Raises `ConfigError` for options that its backend does not have.
    """
    options = model_options(settings)
    model = registry.open_model(settings.model, options)
    if not getattr(model, "is_local", False):
        _refuse_local(settings)
    if settings.guided_spans and not getattr(model, "takes_guided_spans", False):
        raise ConfigError(
            f"--guided-spans: the backend of {settings.model} cannot constrain replies; use a "
            "vllm/… model, or leave it out"
        )
    if settings.ray is None and settings.replicas == 1:
        return model
    from kardiabench.models.replicas import replicated

    return replicated(
        model,
        options,
        address=settings.ray or "local",
        replicas=settings.replicas,
        resources=settings.replica_args,
        plugins=settings.plugins,
    )


def _refuse_local(settings: RunSettings) -> None:
    """Options that only a model in this process has would be ignored in silence."""
    given = [
        flag
        for flag, used in (
            ("--dtype", settings.dtype != "auto"),
            ("--adapter", settings.adapter),
            ("--model-revision", settings.model_revision),
            ("--quantize", settings.quantize),
            ("--thinking", settings.thinking is not None),
            ("--trust-remote-code", settings.trust_remote_code),
            ("--ray", settings.ray),
            ("--replicas", settings.replicas != 1),
        )
        if used
    ]
    if given:
        raise ConfigError(
            f"{given[0]} is for models that run in this process (hf/…, vllm/…), and "
            f"{settings.model} does not; leave it out"
        )


def model_options(settings: RunSettings) -> ModelOptions:
    """How the model under test is talked to."""
    return ModelOptions(
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        api_base=settings.api_base,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        extra=settings.model_args,
        dataset=settings.dataset,
        split=settings.split,
        revision=settings.revision,
        local=settings.local,
    )


def _judge_local(settings: RunSettings, asked: Mapping[str, Any], *, tested: bool) -> LocalOptions:
    """How a judge's own local model is loaded: as asked, else where the tested model is.

    The same weights as the tested model's are loaded as those are, so that they are loaded once;
    what was trained onto them since (an adapter) is the tested model's alone.
    """
    like = replace(settings.local, adapter=None, thinking=None)
    base = like if tested else LocalOptions(device=settings.device)
    return replace(base, **{name: value for name, value in asked.items() if name in _LOCAL})


def make_scorer(
    settings: RunSettings, registry: Registry, models: Models, cache: Cache | None
) -> Scorer:
    """The Scorer of a run."""
    judges, endpoints = [], {}
    for spec in settings.judge_specs:
        asked: list[ChatModel] = []
        judge = registry.make_judge(spec, judge_context(models.noting(asked)))
        judges.append(judge)
        endpoints[judge.name] = _endpoints(asked)
    scorer = Scorer(judges, settings.weights, settings.on_missing, cache)
    return replace(scorer, endpoints=endpoints)


def judge_context(models: OpenModel) -> JudgeContext:
    """What judges are handed."""
    return JudgeContext(open_model=models, seed=DEFAULT_SEED)


def make_manifest(session: Session, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything needed to repeat the run and to tell whether another is comparable.

    `model` is what an earlier manifest says of the model, where its replies are there already.
    """
    protocol = make_protocol(session)
    part = session.dialogues.part
    return {
        "kardiabench": kardiabench.__version__,
        "manifest_version": MANIFEST_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": session.settings.to_json(),
        "model": model or {"name": session.model.name, "identity": dict(session.model.identity)},
        "dataset": dict(session.dialogues.identity),
        "protocol": protocol,
        "protocol_id": digest(protocol),
        **({} if part is None else {"shard": _shard(session.dialogues, part)}),
        "rows": {
            "read": session.dialogues.rows_read,
            "skipped": session.dialogues.n_skipped,
            "examples": list(session.dialogues.skipped),
        },
        "environment": {
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            **_plugins(session.registry),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    }


def _refuse_secrets(settings: RunSettings) -> None:
    """Whatever the backend or judge: options end in the manifest."""
    refuse_secrets(settings.model_args, "--model-arg")
    for spec in settings.judge_specs:
        name, options = parse_spec(spec)
        refuse_secrets(options, f"--judge {name}")


def _endpoints(models: Sequence[ChatModel]) -> str:
    """The addresses that are not the providers' own."""
    return " ".join(sorted({e for m in models if (e := getattr(m, "endpoint", None))}))


def _plugins(registry: Registry) -> dict[str, Any]:
    """Which plugin each judge, model and dataset comes from, where there are plugins."""
    found = {
        f"{kind}.{name}": origin
        for kind, origins in registry.origins.items()
        for name, origin in origins.items()
    }
    return {"plugins": found} if found else {}


def _shard(dialogues: Dialogues, part: Shard) -> dict[str, int]:
    """Which part of a run the manifest is of, and how much it is."""
    return {
        "index": part.index,
        "of": part.of,
        "dialogues": dialogues.n_dialogues,
        "turns": dialogues.n_turns,
    }


def make_protocol(session: Session) -> dict[str, Any]:
    """What makes two runs comparable: data, prompts and judges; nothing of the model under test.

    The data are named by their content, so it does not matter where they were read from. A part of
    a run has the protocol of the whole.
    """
    dialogues, whole = session.dialogues, session.dialogues.whole
    return {
        "dataset": {
            "fingerprint": dialogues.fingerprint,
            "dialogues": whole.dialogues,
            "turns": whole.turns,
            "personas": whole.personas,
        },
        "prompts": dict(session.prompts.identity),
        "gold_emotion": dict(whole.gold_sources),
        "scorer": dict(session.scorer.identity),
    }


def default_directory(manifest: Manifest) -> Path:
    """`runs/MODEL-DATASET-HASH`: the same command names the same directory.

    Each part of a run has one of its own, `…-shard-2-of-8`.
    """
    identity = digest([manifest["protocol"], manifest["model"]], length=8)
    dataset, part = manifest["dataset"]["name"], manifest.get("shard")
    suffix = "" if part is None else f"-shard-{part['index']}-of-{part['of']}"
    model = _slug(manifest["model"]["name"])
    return Path("runs") / f"{model}-{_slug(str(dataset))}-{identity}{suffix}"


def check_same(old: Manifest, new: Manifest, path: Path, hint: str = "") -> None:
    """Raise `RunError`, naming the keys, unless `new` measures the same thing as `old`.

    `hint` is the next step, where it is not the ordinary one.
    """
    changed = changes(old, new)
    if changed:
        raise RunError(
            f"{path} holds a run of another configuration ({changed}); "
            + (hint or f"go on with it as it is by: kardiabench resume {path}; ")
            + "or give another --out"
        )


def changes(old: Manifest, new: Manifest) -> str:
    """The keys in which `new` measures something else than `old`, and how; empty for none."""
    return differences(_essence(old), _essence(new))


def without_judges(manifest: Manifest) -> dict[str, Any]:
    """The manifest less its judges, for comparing runs to which judges are added."""
    protocol = {**manifest["protocol"], "scorer": {}}
    return {**manifest, "protocol": protocol}


def _essence(manifest: Manifest) -> dict[str, Any]:
    essence = {"model": manifest["model"], "protocol": manifest["protocol"]}
    if "shard" in manifest:
        essence["shard"] = manifest["shard"]
    # As it comes back from the file, so that a plugin's tuple is not a change.
    through_json: dict[str, Any] = json.loads(json.dumps(essence))
    return through_json


def _slug(name: str) -> str:
    """Letters, digits and hyphens only: a name is never a path."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[-60:].strip("-") or "model"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
