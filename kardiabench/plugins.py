"""The only dynamic loader: finds plugins, keeps what they register, makes it by name.

A broken plugin is left out and remembered as a `Problem`; it stops only the run that asks for
something nobody registered, and that error names it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from kardiabench import hookspecs
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
from kardiabench.errors import ConfigError, PluginError, did_you_mean

BUILT_IN = "built in"
HOOKS = ("register_judges", "register_models", "register_datasets")

_Factory = TypeVar("_Factory", bound=Callable[..., Any])
ProblemKind = Literal["broken", "misspelt hook", "incompatible", "duplicate", "not a plugin"]


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
    """One registered factory and the plugin that it comes from."""

    name: str
    factory: _Factory | str
    origin: str

    def resolve(self) -> _Factory:
        """Import the factory where it was registered by name."""
        if not isinstance(self.factory, str):
            return self.factory
        module_name, _, attribute = self.factory.partition(":")
        try:
            module = importlib.import_module(module_name)
            factory: _Factory = getattr(module, attribute)
        except Exception as error:
            raise PluginError(
                f"{self.name!r} of {self.origin} cannot be loaded from {self.factory!r} "
                f"({type(error).__name__}: {error}); repair or uninstall that plugin"
            ) from error
        return factory


@dataclass
class Registry:
    """Everything that plugins registered, and what was left out."""

    judges: dict[str, Entry[JudgeFactory]] = field(default_factory=dict)
    models: dict[str, Entry[ModelFactory]] = field(default_factory=dict)
    datasets: dict[str, Entry[DatasetFactory]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def make_judge(self, spec: str, context: JudgeContext) -> Judge:
        """Make a judge from `NAME` or `NAME:option=value,…`; the option `as` renames it."""
        name, options = parse_spec(spec)
        entry = self._find(self.judges, name, "judge")
        label = options.pop("as", None)
        judge = entry.resolve()(options, context)
        if label is not None:
            judge.name = label
        return judge

    def open_model(
        self, name: str, options: ModelOptions | None = None, **changes: Any
    ) -> ChatModel:
        """Make the model `name`: by its prefix, else through litellm. Nothing is called yet."""
        settings = replace(options or ModelOptions(), **changes)
        prefix, slash, rest = name.partition("/")
        if prefix in ("hf", "vllm"):
            raise PluginError(
                f"{name!r}: this version does not run {prefix} models in process; serve the model "
                f"(`vllm serve {rest}`) and use --model hosted_vllm/{rest} --api-base URL"
            )
        entry = self.models.get(prefix) if slash else None
        if entry is not None:
            return entry.resolve()(name, settings)
        from kardiabench.models import api

        try:
            return api.build(name, settings)
        except PluginError as error:
            raise PluginError(f"{error}{self._suspects()}") from error

    def open_dataset(
        self, name: str, split: str | None = None, revision: str | None = None
    ) -> RowSource:
        """Open the dataset `name`: a registered name, else a path."""
        if name in self.datasets:
            return self.datasets[name].resolve()(name, split, revision)
        if name == "Jhcircle/KardiaBench":
            return self.open_dataset("KardiaBench", split, revision)
        if not Path(name).exists() and not any(mark in name for mark in "/\\."):
            raise PluginError(
                f"dataset {name!r} is neither known nor a path here; "
                f"{did_you_mean(name, self.datasets)}{self._suspects()}"
            )
        from kardiabench.sources import open_path

        return open_path(name, split, revision)

    def _find(
        self, entries: Mapping[str, Entry[_Factory]], name: str, kind: str
    ) -> Entry[_Factory]:
        if name not in entries:
            hint = did_you_mean(name, entries)
            raise PluginError(f"{kind} {name!r} is not registered; {hint}{self._suspects()}")
        return entries[name]

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
        if not equals or not key.strip():
            raise ConfigError(
                f"judge {spec!r}: {part!r} is not of the form option=value; "
                "write for example rubric:model=openai/gpt-4o,samples=3"
            )
        options[key.strip()] = value.strip()
    return name.strip(), options


def load_registry(plugin_files: Sequence[str] = ()) -> Registry:
    """Load the built-in plugin, every installed one and `plugin_files`, each by itself.

    A file that was asked for by path and cannot be loaded is an error; an installed plugin that
    cannot be loaded is a `Problem` of the registry.
    """
    loader = _Loader()
    builtins = importlib.import_module("kardiabench.builtins")
    _check_own_packages()
    loader.add(BUILT_IN, builtins)
    for entry_point in sorted(entry_points(group=hookspecs.PROJECT), key=lambda e: e.name):
        loader.add_entry_point(entry_point)
    for path in plugin_files:
        loader.add(path, _import_file(path))
        loader.stop_if_left_out(path)
    return loader.registry


class _Loader:
    """Registers plugins one by one with pluggy and collects what they offer."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)

    def add_entry_point(self, entry_point: EntryPoint) -> None:
        origin = entry_point.dist.name if entry_point.dist else entry_point.name
        try:
            module = entry_point.load()
        except Exception as error:
            self._leave_out(origin, "broken", f"{type(error).__name__}: {error}")
            return
        self.add(origin, module)

    def add(self, origin: str, module: ModuleType) -> None:
        wanted = getattr(module, "KARDIABENCH_API", hookspecs.API_VERSION)
        if wanted != hookspecs.API_VERSION:
            self._leave_out(
                origin,
                "incompatible",
                f"written for plugin API {wanted}, this is {hookspecs.API_VERSION}; "
                "update the older of the two",
            )
            return
        try:
            self.manager.register(module, name=origin)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            self._unregister(module)
            self._leave_out(origin, "misspelt hook", _hook_problem(module, error))
            return
        self._collect(origin, module)

    def stop_if_left_out(self, origin: str) -> None:
        for problem in self.registry.problems:
            if problem.plugin == origin:
                raise PluginError(str(problem))

    def _collect(self, origin: str, module: ModuleType) -> None:
        others = [plugin for plugin in self.manager.get_plugins() if plugin is not module]
        offered: list[tuple[dict[str, Any], Entry[Any]]] = []
        kinds: tuple[dict[str, Any], ...] = (
            self.registry.judges,
            self.registry.models,
            self.registry.datasets,
        )
        try:
            for hook, known in zip(HOOKS, kinds, strict=True):
                collect = _Collector(known, origin, offered)
                self.manager.subset_hook_caller(hook, others)(register=collect)
        except Exception as error:
            self._unregister(module)
            self._leave_out(origin, "broken", f"{type(error).__name__}: {error}")
            return
        if not any(caller.name in HOOKS for caller in self.manager.get_hookcallers(module) or ()):
            self._leave_out(origin, "not a plugin", f"it implements none of {', '.join(HOOKS)}")
        for known, entry in offered:
            self._keep(known, entry)

    def _keep(self, known: dict[str, Any], entry: Entry[Any]) -> None:
        first = known.setdefault(entry.name, entry)
        if first is not entry:
            self._leave_out(
                entry.origin,
                "duplicate",
                f"its {entry.name!r} is left out, since {first.origin} has that name already",
            )

    def _unregister(self, module: ModuleType) -> None:
        if self.manager.is_registered(module):
            self.manager.unregister(module)

    def _leave_out(self, origin: str, kind: ProblemKind, message: str) -> None:
        self.registry.problems.append(Problem(origin, kind, message))


class _Collector:
    """The `register` callable that a hook is given."""

    def __init__(
        self, known: dict[str, Any], origin: str, offered: list[tuple[dict[str, Any], Entry[Any]]]
    ) -> None:
        self.known, self.origin, self.offered = known, origin, offered

    def __call__(self, name: str, factory: Callable[..., Any] | str) -> None:
        self.offered.append((self.known, Entry(name, factory, self.origin)))


def _hook_problem(module: ModuleType, error: Exception) -> str:
    for name in dir(module):
        if name not in HOOKS and hasattr(getattr(module, name), f"{hookspecs.PROJECT}_impl"):
            return f"there is no hook {name!r}; {did_you_mean(name, HOOKS)}"
    return str(error).strip().replace("\n", " ")


def _import_file(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise PluginError(f"--plugin {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"kardiabench_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"--plugin {path}: {type(error).__name__}: {error}") from error
    return module


def _check_own_packages() -> None:
    judges = importlib.import_module("judges")
    if not getattr(judges, "KARDIABENCH_PACKAGE", False):
        raise PluginError(
            f"the package 'judges' at {judges.__path__[0]} belongs to another distribution; "
            "install kardiabench into a virtual environment of its own"
        )
