"""A local model on several machines: each dialogue goes whole to the replica that is least busy.

Ray actors rather than Ray Data. A dataset of Ray Data would want to own the loop: it reads, maps
and writes by itself, and what has been done when it breaks off is not known turn by turn. Here the
runner owns it already: it streams turns, records each reply the moment it has it, judges meanwhile,
and resumes; it stays the only writer of the run directory. Replicas are then a model like any
other, which answers several dialogues at a time, and the run is the same as from one machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kardiabench.contracts import ChatModel, Identity, ModelOptions
from kardiabench.errors import PreflightError
from kardiabench.fingerprints import canonical_json
from kardiabench.models.local import ray_cluster
from kardiabench.models.local.replica_actor import Recipe, Replica
from kardiabench.models.local.replica_pool import LostError, NoReplicaError, Pool
from kardiabench.records import ChatRequest, Completion

#: Replicas that may be lost over one dialogue; then it, and not they, is taken to be the trouble.
MOST_LOSSES = 3


def replicated(
    model: ChatModel,
    options: ModelOptions,
    *,
    address: str,
    replicas: int,
    resources: Mapping[str, Any],
    plugins: Sequence[str] = (),
) -> Replicas:
    """`model`, which is not loaded here, on so many replicas of the Ray cluster at `address`.

    `options` made it; `resources` are the `--replica-arg`s. Nothing is started yet. Raises
    `ConfigError` for resources that Ray could not give.
    """
    recipe = Recipe(
        name=model.name,
        options=replace(options, open_dataset=None),  # it does not travel, nor is it needed
        plugins=tuple(plugins),
        folder=str(Path.cwd()),
        identity=canonical_json(dict(model.identity)),
    )
    shape = ray_cluster.parse_shape(resources, options.extra)
    return Replicas(model, recipe, shape, address, replicas)


class Replicas:
    """The `ChatModel` that stands for all replicas; its identity is that of one.

    Replies do not depend on how many there are, nor on which of them is lost. What is lost in
    flight is asked again, and nothing is answered twice: an answer is taken from one actor only.
    """

    #: The runner hands over whole dialogues (`dialogues_at_once`); a single turn is as welcome.
    batch_size = 1

    def __init__(
        self,
        model: ChatModel,
        recipe: Recipe,
        shape: ray_cluster.Shape,
        address: str,
        replicas: int,
    ) -> None:
        self.name = model.name
        self.dialogues_at_once = replicas * getattr(model, "dialogues_at_once", 1)
        self._model, self._recipe, self._shape = model, recipe, shape
        self._address, self._replicas = address, replicas
        self._cluster: ray_cluster.Cluster | None = None
        self._pool: Pool | None = None
        self._refusal: PreflightError | None = None
        self._opening = asyncio.Lock()
        self._suspects = asyncio.Lock()

    @property
    def identity(self) -> Identity:
        """That of one replica: how many there are changes nothing of what they answer."""
        return self._model.identity

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # not made yet (a copy): there is nothing to ask
            raise AttributeError(attribute)
        found = getattr(self._model, attribute)
        # The model of this process is never loaded: its format is that of a replica.
        return self._chat_format if attribute == "chat_format" else found

    async def preflight(self) -> None:
        """Start every replica and have it load and try its model; raise `PreflightError` if not."""
        pool = await self._opened()
        self.dialogues_at_once = self._replicas * await pool.dialogues_at_once()

    async def _chat_format(self) -> Any:
        return await (await self._opened()).chat_format()

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """One completion a request, in order, all by the same replica.

        Errors are of kind `replica` when none is left, and of kind `internal` for a dialogue that
        three replicas in a row were lost over.
        """
        try:
            pool = await self._opened()
        except PreflightError as error:
            kind = "install" if str(error) == ray_cluster.INSTALL else "replica"
            return _failed(requests, f"{kind}: {error}")
        why = ""
        for losses in range(MOST_LOSSES):
            try:
                async with self._place(losses):
                    return await pool.ask(requests)
            except NoReplicaError as error:
                return _failed(requests, f"replica: none is left: {error}")
            except LostError as error:
                why = str(error)
        trouble = f"{MOST_LOSSES} replicas in a row were lost over this dialogue, the last"
        return _failed(requests, f"internal: {trouble} was {why}")

    async def aclose(self) -> None:
        """End the replicas, and the Ray that was started for them; a cluster stays as it was."""
        async with self._opening:
            if self._pool is not None:
                await self._pool.close()
            if self._cluster is not None:
                self._cluster.close()
            self._pool = self._cluster = None
        await self._model.aclose()

    async def _opened(self) -> Pool:
        async with self._opening:
            if self._refusal is not None:
                raise self._refusal
            if self._pool is None:
                try:
                    self._pool = await self._open()
                except PreflightError as error:
                    self._refusal = error  # nobody else need wait to hear the same
                    raise
            return self._pool

    async def _open(self) -> Pool:
        if self._cluster is None:
            self._cluster = ray_cluster.connect(self._address)
        cluster = self._cluster
        takes = self._shape.on(cluster.totals)
        check_room = partial(cluster.check_room, takes, self._replicas)
        check_room()
        recipe = replace(self._recipe, threads=cluster.threads(takes, self._replicas))
        options = {
            **ray_cluster.ray_options(takes),
            "max_restarts": 0,  # the pool replaces what is lost
            "max_task_retries": 0,
        }
        actor = cluster.ray.remote(Replica).options(**options)
        pool = Pool(cluster.ray, partial(actor.remote, recipe), self._replicas, check_room)
        try:
            await pool.start()
        except BaseException:
            await pool.close()
            raise
        return pool

    def _place(self, losses: int) -> AbstractAsyncContextManager[object]:
        """One that was lost twice goes one at a time, so that its neighbours are not blamed."""
        return self._suspects if losses == MOST_LOSSES - 1 else nullcontext()


def _failed(requests: Sequence[ChatRequest], detail: str) -> list[Completion]:
    return [Completion(status="error", detail=detail)] * len(requests)
