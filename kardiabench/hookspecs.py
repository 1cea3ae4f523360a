"""The hooks a plugin can implement; docs/plugins.md has a complete example of each.

A plugin is a module that is named under the entry-point group `kardiabench`, or a file that is
given with `--plugin`::

    from kardiabench.hookspecs import hookimpl

    KARDIABENCH_API = 1

    @hookimpl
    def register_judges(register):
        register("brevity", "my_package.brevity:build")
"""

from __future__ import annotations

from typing import Protocol

import pluggy

from kardiabench.contracts import DatasetFactory, JudgeFactory, ModelFactory

PROJECT = "kardiabench"

#: The version of these hooks and of `kardiabench.contracts`. A plugin names the one that it was
#: written for as `KARDIABENCH_API`; another number than this leaves the plugin out.
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RegisterJudge(Protocol):
    """`register(name, factory)`; a factory is a callable or its dotted name, `module:attribute`."""

    def __call__(self, name: str, factory: JudgeFactory | str) -> None:
        """Register the judge `name`."""


class RegisterModel(Protocol):
    """`register(prefix, factory)`; a factory is a callable or its dotted name."""

    def __call__(self, prefix: str, factory: ModelFactory | str) -> None:
        """Register all models called `prefix/…`."""


class RegisterDataset(Protocol):
    """`register(name, factory)`; a factory is a callable or its dotted name."""

    def __call__(self, name: str, factory: DatasetFactory | str) -> None:
        """Register the dataset `name`."""


@hookspec
def register_judges(register: RegisterJudge) -> None:
    """Offer judges. Called once, when plugins load.

    Give a dotted name rather than a callable, so that nothing is imported until the judge is used.
    The factory is called as `factory(options, context)`: see `kardiabench.contracts.JudgeFactory`.
    """


@hookspec
def register_models(register: RegisterModel) -> None:
    """Offer a backend for every model whose name starts with `prefix/`.

    The factory is called as `factory(name, options)`: see `kardiabench.contracts.ModelFactory`.
    """


@hookspec
def register_datasets(register: RegisterDataset) -> None:
    """Offer a dataset under a name for `--dataset`.

    The factory is called as `factory(name, split, revision)`: see
    `kardiabench.contracts.DatasetFactory`.
    """
