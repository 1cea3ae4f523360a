"""One replica: the model in a process of its own, somewhere on a Ray cluster.

Ray makes an actor of the class below (`replica_pool.py`), so this runs on the worker's machine with
what is installed and set there: no key and no variable of the asking machine comes along. Nothing
here raises at the asking side: what cannot be had is told as a sentence.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import kardiabench
from kardiabench.contracts import ChatModel, ModelOptions
from kardiabench.errors import KardiaBenchError, PreflightError
from kardiabench.fingerprints import canonical_json
from kardiabench.guards import FAULTS, reason
from kardiabench.plugins import load_registry
from kardiabench.records import ChatRequest, Completion


@dataclass(frozen=True)
class Recipe:
    """How a replica makes its model: what the registry is asked for, and where.

    `folder` is the asking machine's working folder: relative paths mean the same there where it
    exists. `identity` is the model's own as canonical JSON, which a replica has to have too.
    `threads` is the share of the cluster's processors that one replica computes with.
    """

    name: str
    options: ModelOptions
    plugins: tuple[str, ...] = ()
    folder: str = ""
    identity: str = ""
    threads: int = 1
    version: str = field(default=kardiabench.__version__)


class Place(NamedTuple):
    """Where a replica runs."""

    node: str
    pid: int


class Replica:
    """Makes the model once it is told to, and answers with it."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._model: ChatModel | None = None

    def where(self) -> Place:
        """Where this runs: the first answer of a replica that has been placed."""
        return Place(socket.gethostname(), os.getpid())

    async def load(self) -> str:
        """Load the model and try it; an empty text, or the sentence on why it cannot answer."""
        try:
            self._model = _make(self._recipe)
            await self._model.preflight()
        except KardiaBenchError as error:
            return str(error)
        except FAULTS as error:
            return f"{reason(error)}; see Ray's worker logs there"
        _share_processors(self._recipe.threads)
        return ""

    def dialogues_at_once(self) -> int:
        """How many whole dialogues the loaded model wants at a time."""
        return int(getattr(self._model, "dialogues_at_once", 1))

    async def chat_format(self) -> Any:
        """How the loaded model's prompts are made, to be looked at where the run is."""
        model: Any = self._model
        return await model.chat_format()

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """The model's completions, in order; so many at a time as the model takes."""
        if self._model is None:
            return [Completion(status="error", detail="internal: not loaded")] * len(requests)
        size = len(requests)
        if getattr(self._model, "dialogues_at_once", None) is None:
            size = self._model.batch_size
        answers: list[Completion] = []
        for start in range(0, len(requests), size):
            answers += await self._model.complete(requests[start : start + size])
        return answers


def _make(recipe: Recipe) -> ChatModel:
    """The model of `recipe`, as the same one as on the asking machine; nothing is loaded yet."""
    if recipe.version != kardiabench.__version__:
        raise PreflightError(
            f"kardiabench {kardiabench.__version__} is installed there and {recipe.version} here; "
            "install the same version on every machine"
        )
    if recipe.folder and Path(recipe.folder).is_dir():
        os.chdir(recipe.folder)
    _share_processors(recipe.threads)
    model = load_registry(recipe.plugins).open_model(recipe.name, recipe.options)
    if not getattr(model, "is_local", False):
        raise PreflightError(
            f"nothing that is installed there provides {recipe.name}; install the same plugins on "
            "every machine"
        )
    changed = _differences(json.loads(canonical_json(dict(model.identity))), recipe.identity)
    if changed:
        raise PreflightError(
            f"{recipe.name} is another model there than here ({changed}); "
            "put the same files on every machine"
        )
    return model


def _differences(there: Mapping[str, Any], here: str) -> str:
    """What of the two identities differs, in words; empty where nothing does."""
    asked = json.loads(here)
    names = sorted(n for n in there.keys() | asked.keys() if there.get(n) != asked.get(n))
    return ", ".join(f"{n}: {there.get(n)!r} there, {asked.get(n)!r} here" for n in names)


def _share_processors(threads: int) -> None:
    """Compute with so many threads: replicas that each take every processor slow each other.

    OpenMP reads the variable when it is loaded; a torch that is there already has to be told.
    """
    threads = max(1, min(threads, _processors()))
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _processors() -> int:
    """Those that this process may use, where the system tells (Linux), else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
