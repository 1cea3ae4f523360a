"""The only dynamic loader: finds plugins and collects what they register.

A broken plugin is left out and remembered as a `Problem`; it stops only the run that asks for
something nobody registered, and that error names it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from kardiabench import hookspecs
from kardiabench.errors import PluginError, did_you_mean
from kardiabench.guards import FAULTS, reason
from kardiabench.registry import BUILT_IN, NAME, Entry, Kind, Problem, ProblemKind, Registry

HOOKS = ("register_judges", "register_models", "register_datasets")

_DOTTED = re.compile(r"[\w.]+:[\w.]+")
_SIGNATURE = re.compile(r"hookimpl definition: (.+)")


def load_registry(plugin_files: Sequence[str] = ()) -> Registry:
    """Load the built-in plugin, every installed one and `plugin_files`, each by itself.

    A file that was asked for by path and cannot be loaded is an error; an installed plugin that
    cannot be loaded is a `Problem` of the registry.
    """
    loader = _Loader()
    _check_own_packages()
    loader.add(BUILT_IN, importlib.import_module("kardiabench.builtins"))
    for origin, entry_point in _installed(loader.registry.problems):
        loader.add_entry_point(origin, entry_point)
    for path in {Path(path).expanduser().absolute(): path for path in plugin_files}.values():
        loader.add_file(path)
    return loader.registry


class _Loader:
    """Registers plugins one by one and collects what they offer."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._seen: set[int] = set()

    def add_entry_point(self, origin: str, entry_point: EntryPoint) -> None:
        try:
            plugin = entry_point.load()
        except FAULTS as error:
            self._leave_out(origin, "broken", reason(error))
            return
        self.add(origin, plugin)

    def add_file(self, path: str) -> None:
        self.add(path, _import_file(path))
        for problem in self.registry.problems:
            if problem.plugin == path:
                raise PluginError(f"--plugin {path} ({problem.kind}): {problem.message}")

    def add(self, origin: str, plugin: object) -> None:
        if id(plugin) in self._seen:  # one module under two entry points is one plugin
            return
        self._seen.add(id(plugin))
        try:
            offered = _offers(origin, plugin)
        except _LeftOut as problem:
            self._leave_out(origin, problem.kind, problem.message)
            return
        for entry in offered:
            self._keep(entry)

    def _keep(self, entry: Entry[Any]) -> None:
        registry = self.registry
        known: dict[Kind, dict[str, Entry[Any]]] = {
            "judge": registry.judges,
            "model": registry.models,
            "dataset": registry.datasets,
        }
        first = known[entry.kind].setdefault(entry.name, entry)
        if first is not entry:
            by = "itself" if first.origin == entry.origin else first.origin
            self._leave_out(
                entry.origin,
                "duplicate",
                f"its {entry.kind} {entry.name!r} is left out, since that name is taken "
                f"({by}); rename it there, or uninstall one of the two",
            )

    def _leave_out(self, origin: str, kind: ProblemKind, message: str) -> None:
        self.registry.problems.append(Problem(origin, kind, " ".join(message.split())))


class _LeftOut(Exception):  # noqa: N818 - it names what happens, not a failure of ours
    """A plugin is left out, and why."""

    def __init__(self, kind: ProblemKind, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def _offers(origin: str, plugin: object) -> list[Entry[Any]]:
    """What `plugin` registers through its hooks; raise `_LeftOut` where it cannot be used.

    A manager for each plugin: what is wrong with one cannot touch the next.
    """
    _check_version(plugin)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _register(manager, plugin)
    offered: list[Entry[Any]] = []
    kinds: tuple[Kind, ...] = ("judge", "model", "dataset")
    for hook, kind in zip(HOOKS, kinds, strict=True):
        collect = functools.partial(_collect, offered, origin, kind)
        try:
            getattr(manager.hook, hook)(register=collect)
        except FAULTS as error:
            raise _LeftOut("broken", f"its {hook} raised {reason(error)}") from error
    if not offered:
        raise _LeftOut("not a plugin", "its hooks register nothing")
    return offered


def _collect(
    offered: list[Entry[Any]],
    origin: str,
    kind: Kind,
    name: str,
    factory: Callable[..., Any] | str,
) -> None:
    """Note one registration: the `register` that hooks are given."""
    if not (isinstance(name, str) and (NAME.fullmatch(name) or _is_dataset_name(kind, name))):
        raise ValueError(f"{name!r} cannot name a {kind}: use letters, digits, '_', '.' and '-'")
    if not callable(factory) and not (isinstance(factory, str) and _DOTTED.fullmatch(factory)):
        raise TypeError(f"the factory of {name!r} is neither callable nor 'module:attribute'")
    offered.append(Entry(name, factory, origin, kind))


def _is_dataset_name(kind: Kind, name: str) -> bool:
    """Datasets may be called `owner/name`, as on the Hub."""
    return kind == "dataset" and all(map(NAME.fullmatch, name.split("/")))


def _check_version(plugin: object) -> None:
    wanted = getattr(plugin, "KARDIABENCH_API", hookspecs.API_VERSION)
    if wanted == hookspecs.API_VERSION:
        return
    newer = isinstance(wanted, int) and wanted > hookspecs.API_VERSION
    raise _LeftOut(
        "incompatible",
        f"it is written for plugin API {wanted!r}, and this kardiabench has "
        f"{hookspecs.API_VERSION}; update {'kardiabench' if newer else 'the plugin'}",
    )


def _register(manager: pluggy.PluginManager, plugin: object) -> None:
    try:
        manager.register(plugin, name="plugin")
    except pluggy.PluginValidationError as error:
        found = _SIGNATURE.search(str(error))
        raise _LeftOut(
            "broken",
            "a hook is called with one argument, named register, which this does not take: "
            + (found.group(1) if found else str(error)),
        ) from error
    except FAULTS as error:
        raise _LeftOut("broken", reason(error)) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _LeftOut("misspelt hook", _misspelt(plugin) or str(error)) from error
    if not manager.get_hookcallers(plugin):
        raise _no_hooks(plugin)


def _misspelt(plugin: object) -> str | None:
    """A sentence on the first hook of `plugin` that there is not, marked as one or called so."""
    for name in dir(plugin):
        value = getattr(plugin, name, None)
        marked = isinstance(getattr(value, f"{hookspecs.PROJECT}_impl", None), dict)
        if name not in HOOKS and callable(value) and (marked or name.startswith("register_")):
            return f"there is no hook {name!r}; {did_you_mean(name, HOOKS)}"
    return None


def _no_hooks(plugin: object) -> _LeftOut:
    unmarked = [name for name in HOOKS if callable(getattr(plugin, name, None))]
    if unmarked:
        return _LeftOut(
            "not a plugin",
            f"its {unmarked[0]} is not marked: write @hookimpl (from kardiabench.hookspecs) above",
        )
    misspelt = _misspelt(plugin)
    if misspelt:
        return _LeftOut("misspelt hook", misspelt)
    kind = "module" if isinstance(plugin, ModuleType) else type(plugin).__name__
    return _LeftOut("not a plugin", f"this {kind} implements none of {', '.join(HOOKS)}")


def _installed(problems: list[Problem]) -> Iterator[tuple[str, EntryPoint]]:
    """The origin and the entry point of every installed plugin, in the order of their names.

    One by one, since one distribution with damaged metadata would end a search of them all.
    """
    found: list[tuple[str, str, EntryPoint]] = []
    seen: set[str] = set()
    for distribution in distributions():
        origin = "an unreadable distribution"
        try:
            origin = f"{distribution.name} {distribution.version}"
            points = distribution.entry_points.select(group=hookspecs.PROJECT)
        except Exception as error:
            problems.append(Problem(origin, "broken", f"its metadata: {reason(error)}"))
            continue
        # A distribution that stands on the path twice is imported from where it stands first.
        if points and (name := distribution.name.lower().replace("_", "-")) not in seen:
            seen.add(name)
            found += [(point.name, origin, point) for point in points]
    for _, origin, point in sorted(found, key=lambda entry: entry[:2]):
        yield origin, point


def _import_file(path: str) -> ModuleType:
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise PluginError(f"--plugin {path}: there is no such file; give the path of a .py file")
    # A module has to be in `sys.modules` while it runs: dataclasses look their module up there.
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    name = f"kardiabench_plugin_{digest}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--plugin {path}: this is no Python file; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FAULTS as error:
        del sys.modules[name]
        raise PluginError(f"--plugin {path} is broken: {reason(error)}; repair it") from error
    return module


def _check_own_packages() -> None:
    """Other distributions have packages of our names, and pip overwrites silently."""
    for name in ("judges", "leaderboard", "trainer"):
        check_own_package(name)


def check_own_package(name: str) -> None:
    """Raise `PluginError` when the package called `name` is another distribution's."""
    try:
        package = importlib.import_module(name)
        trouble = None if getattr(package, "KARDIABENCH_PACKAGE", False) else "is another's"
        where = getattr(package, "__file__", None) or next(iter(package.__path__), "?")
    except FAULTS as error:
        where, trouble = "an unknown place", f"cannot be imported ({reason(error)})"
    if trouble:
        raise PluginError(
            f"the package {name!r} at {where} {trouble}, not kardiabench's: "
            "install kardiabench into a virtual environment of its own"
        )
