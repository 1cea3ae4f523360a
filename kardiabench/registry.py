"""Everything that plugins registered: looked up and made by name."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from kardiabench.contracts import (
    ChatModel,
    DatasetFactory,
    Judge,
    JudgeContext,
    JudgeFactory,
    ModelFactory,
    ModelOptions,
    RowSource,
)
from kardiabench.errors import ConfigError, KardiaBenchError, PluginError, did_you_mean
from kardiabench.guards import (
    FAULTS,
    GuardedJudge,
    GuardedModel,
    HintedModel,
    NamedJudge,
    guarded_source,
    reason,
)

BUILT_IN = "built in"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_Factory = TypeVar("_Factory", bound=Callable[..., Any])
ProblemKind = Literal["broken", "misspelt hook", "incompatible", "duplicate", "not a plugin"]
Kind = Literal["judge", "model", "dataset"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plugin, or one thing that it registers, was left out."""

    plugin: str
    kind: ProblemKind
    message: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.kind}): {self.message}"


@dataclass(frozen=True, slots=True)
class Entry(Generic[_Factory]):
    """One registered factory and where it comes from: a distribution and its version, or a file."""

    name: str
    factory: _Factory | str
    origin: str
    kind: Kind

    def __str__(self) -> str:
        by = "" if self.origin == BUILT_IN else f" of plugin {self.origin!r}"
        return f"{self.kind} {self.name!r}{by}"

    @property
    def built_in(self) -> bool:
        """Whether it is the project's own."""
        return self.origin == BUILT_IN

    def resolve(self) -> _Factory:
        """Import the factory where it was registered by name."""
        if not isinstance(self.factory, str):
            return self.factory
        module_name, _, attribute = self.factory.partition(":")
        try:
            module: Any = importlib.import_module(module_name)
            factory: _Factory = functools.reduce(getattr, attribute.split("."), module)
        except FAULTS as error:
            raise PluginError(
                f"{self} cannot be loaded from {self.factory!r} ({reason(error)}); "
                "repair or uninstall what provides it"
            ) from error
        return factory

    def make(self, *arguments: Any) -> Any:
        """Call the factory. What a plugin's raises, other than our own errors, names the plugin."""
        factory = self.resolve()
        if self.built_in:
            return factory(*arguments)
        try:
            return factory(*arguments)
        except KardiaBenchError:
            raise
        except FAULTS as error:
            raise PluginError(
                f"{self} cannot be made: {reason(error)}; check its options, or leave it out"
            ) from error


@dataclass
class Registry:
    """Everything that plugins registered, and what was left out."""

    judges: dict[str, Entry[JudgeFactory]] = field(default_factory=dict)
    models: dict[str, Entry[ModelFactory]] = field(default_factory=dict)
    datasets: dict[str, Entry[DatasetFactory]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def make_judge(self, spec: str, context: JudgeContext) -> Judge:
        """Make a judge from `NAME` or `NAME:option=value,…`; the option `as` renames it.

        It goes by the name that it is registered under, or by `as`, whatever it calls itself.
        """
        name, options = parse_spec(spec)
        entry = self._find(self.judges, name, "judge")
        label = _checked_label(spec, options.pop("as", name))
        judge: Judge = entry.make(options, context)
        if not entry.built_in:
            return GuardedJudge(judge, label, str(entry))
        return judge if judge.name == label else NamedJudge(judge, label)

    def open_model(
        self, name: str, options: ModelOptions | None = None, **changes: Any
    ) -> ChatModel:
        """Make the model `name`: by its prefix, else through litellm. Nothing is called yet."""
        settings = replace(options or ModelOptions(), open_dataset=self.open_dataset, **changes)
        prefix, slash, rest = name.partition("/")
        entry = self.models.get(prefix)
        if entry is not None:
            if not slash or not rest:
                raise PluginError(f"model {name!r} is a prefix only; write {prefix}/NAME")
            model: ChatModel = entry.make(name, settings)
            return model if entry.built_in else GuardedModel(model, f"{entry} ({name})")
        from kardiabench.models import api

        hint = self._own_model(prefix, rest) + self._suspects()
        return HintedModel(api.build(name, settings), hint) if hint else api.build(name, settings)

    def open_dataset(
        self, name: str, split: str | None = None, revision: str | None = None
    ) -> RowSource:
        """Open the dataset `name`: a registered name, else a path."""
        if name == "Jhcircle/KardiaBench" and name not in self.datasets:
            name = "KardiaBench"
        entry = self.datasets.get(name)
        if entry is not None:
            source: RowSource = entry.make(name, split, revision)
            return source if entry.built_in else guarded_source(source, str(entry))
        path_like = any(mark in name for mark in "/\\.")
        if not Path(name).expanduser().exists() and (self.problems or not path_like):
            raise PluginError(
                f"dataset {name!r} is neither known nor a path here; "
                f"{did_you_mean(name, self.datasets)}{self._suspects()}"
            )
        from kardiabench.sources import open_path

        return open_path(name, split, revision)

    @property
    def origins(self) -> dict[str, dict[str, str]]:
        """Where what plugins registered comes from, by kind and name; nothing built in."""
        kinds: Mapping[str, Mapping[str, Entry[Any]]] = {
            "judges": self.judges,
            "models": self.models,
            "datasets": self.datasets,
        }
        return {
            kind: {name: entry.origin for name, entry in entries.items() if not entry.built_in}
            for kind, entries in kinds.items()
        }

    def _find(
        self, entries: Mapping[str, Entry[_Factory]], name: str, kind: str
    ) -> Entry[_Factory]:
        if name not in entries:
            hint = did_you_mean(name, entries)
            raise PluginError(f"{kind} {name!r} is not registered; {hint}{self._suspects()}")
        return entries[name]

    def _own_model(self, prefix: str, rest: str) -> str:
        """A hint at the registered prefix that is nearly `prefix`, if there is one."""
        close = difflib.get_close_matches(prefix, self.models, n=1)
        return f"; or did you mean '{close[0]}/{rest}'?" if close and rest else ""

    def _suspects(self) -> str:
        if not self.problems:
            return ""
        return "; left out while loading: " + "; ".join(map(str, self.problems))


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split `rubric:model=openai/gpt-4o,samples=3` into its name and its options."""
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"judge {spec!r}: {part!r} is not of the form option=value; "
                "write for example rubric:model=openai/gpt-4o,samples=3"
            )
        if key in options:
            raise ConfigError(f"judge {spec!r} has the option {key!r} twice; leave one out")
        options[key] = value.strip()
    return name.strip(), options


def _checked_label(spec: str, label: str) -> str:
    if not NAME.fullmatch(label):
        raise ConfigError(
            f"judge {spec!r}: {label!r} cannot name a judge; use letters, digits, '_', '.' and '-'"
        )
    return label
