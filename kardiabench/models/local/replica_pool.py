"""Replicas that are kept alive, and the one that is least busy.

Ray's own restarts are not used: a restarted actor would have to load its weights anew behind our
back. What is lost is replaced here by a new actor, wherever the cluster has room for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from kardiabench.errors import PreflightError
from kardiabench.models.local.replica_actor import Place
from kardiabench.records import ChatRequest, Completion

#: A replica that is lost or fails to start so often, with no answer in between, is given up: more
#: often than one dialogue that it cannot survive brings about.
GIVE_UP = 6
#: Seconds that a replica may wait for its place, and between lines that say so.
PLACE, TELL = 600.0, 30.0
#: Seconds before a lost replica is replaced, times the losses so far.
_PAUSE = 1.0

#: Dialogues whose replica is remembered.
HOMES = 4096

State = Literal["starting", "ready", "gone"]


class LostError(Exception):
    """A replica went away with what it was asked; the text says why."""


class NoReplicaError(Exception):
    """No replica is left and none can be had; the text says why."""


@dataclass(eq=False)
class Seat:
    """One of the N replicas: an actor, and the next one once that is lost."""

    number: int
    state: State = "starting"
    actor: Any = None
    place: Place | None = None
    #: Requests that it has been asked and has not answered.
    load: int = 0
    losses: int = 0
    why: str = ""

    def __str__(self) -> str:
        return f"replica {self.number}" + (f" on {self.place.node}" if self.place else "")


@dataclass
class Pool:
    """N replicas made by `spawn`; to be used within one event loop.

    `check_room` raises `PreflightError` once there can be no place for all of them, which is asked
    again while one waits for its own: a node may have gone.
    """

    ray: Any
    spawn: Callable[[], Any]
    size: int
    check_room: Callable[[], None]
    patience: float = PLACE
    tell: float = TELL
    seats: list[Seat] = field(init=False)
    _starts: set[asyncio.Task[None]] = field(default_factory=set)
    #: Where dialogues were last: their next turn begins with what that replica has read already.
    _homes: dict[str, Seat] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seats = [Seat(number) for number in range(1, self.size + 1)]
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        """Start all replicas; raise `PreflightError` for the first that cannot be had."""
        try:
            async with asyncio.TaskGroup() as starting:
                for seat in self.seats:
                    starting.create_task(self._start(seat))
        except* LostError as group:
            raise PreflightError(str(group.exceptions[0])) from group

    async def ask(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Have one replica answer: the one that had this dialogue before, else the least busy.

        Raises `LostError` when it is lost over it, `NoReplicaError` when there is none. What the
        actor itself raises (a fault of ours, or of a plugin) becomes error completions.
        """
        async with self._seat(len(requests), _dialogue(requests)) as seat:
            actor = seat.actor
            ref = actor.complete.remote(list(requests))
            try:
                completions: list[Completion] = await ref
            except asyncio.CancelledError:
                self.ray.cancel(ref)
                raise
            except self.ray.exceptions.RayTaskError as error:
                fault = f"internal: {seat}: {type(error.cause).__name__}: {error.cause}"
                return [Completion(status="error", detail=fault)] * len(requests)
            except self.ray.exceptions.RayError as error:
                await self._lose(seat, actor, reason_lost(error))
                raise LostError(f"{seat}: {seat.why}") from error
            dead = next((c.detail for c in completions if c.detail.startswith("engine:")), "")
            if dead:  # the process lives and its engine does not
                await self._lose(seat, actor, dead)
                raise LostError(f"{seat}: {dead}")
            seat.losses = 0
            return completions

    async def close(self) -> None:
        """End every replica, and whatever was to become one."""
        for start in self._starts:
            start.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        for seat in self.seats:
            self._kill(seat)

    async def chat_format(self) -> Any:
        """The chat format of a loaded model; raise `PreflightError` where it cannot be had."""
        return await self._told("chat_format", "show its prompts")

    async def dialogues_at_once(self) -> int:
        """How many dialogues a replica wants at a time, now that it knows its device."""
        return int(await self._told("dialogues_at_once", "say how much it takes"))

    async def _told(self, method: str, what: str) -> Any:
        async with self._seat(0) as seat:
            try:
                return await getattr(seat.actor, method).remote()
            except self.ray.exceptions.RayError as error:
                raise PreflightError(f"{seat} cannot {what}: {reason_lost(error)}") from error

    @asynccontextmanager
    async def _seat(self, requests: int, dialogue: str = "") -> AsyncIterator[Seat]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ready or not self._starting)
            if not self._ready:
                raise NoReplicaError(self.seats[-1].why)
            seat = self._choose(dialogue)
            seat.load += requests
        try:
            yield seat
        finally:
            seat.load -= requests

    def _choose(self, dialogue: str) -> Seat:
        """The home of the dialogue if it is well, else the least busy, which becomes its home."""
        home = self._homes.pop(dialogue, None)
        seat = home if home in self._ready else min(self._ready, key=lambda s: s.load)
        if dialogue:
            self._homes[dialogue] = seat  # at the end: those at the beginning are forgotten first
        if len(self._homes) > HOMES:
            del self._homes[next(iter(self._homes))]
        return seat

    @property
    def _ready(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.state == "ready"]

    @property
    def _starting(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.state == "starting"]

    async def _become(self, seat: Seat, state: State) -> None:
        async with self._changed:
            seat.state = state
            self._changed.notify_all()

    # --- one replica ----------------------------------------------------------------------------

    async def _start(self, seat: Seat) -> None:
        """Put an actor into `seat` and have it load; raise `LostError` where it cannot."""
        seat.actor, seat.place = self.spawn(), None
        try:
            seat.place = await self._placed(seat)
            loading = f"{seat} loads the model"
            problem = await self._telling(seat.actor.load.remote(), loading, placed=True)
        except PreflightError as error:
            problem = str(error)
        except self.ray.exceptions.RayError as error:
            problem = reason_lost(error)
        except TimeoutError:
            problem = f"the cluster found no place for it within {self.patience:g} s; is it busy?"
        if problem:
            self._kill(seat)
            raise LostError(f"{seat} cannot start: {problem}")
        await self._become(seat, "ready")

    async def _placed(self, seat: Seat) -> Place:
        waiting = self._telling(seat.actor.where.remote(), f"{seat} waits for its place")
        return await asyncio.wait_for(waiting, self.patience)

    async def _telling(self, ref: Awaitable[Any], what: str, *, placed: bool = False) -> Any:
        """The answer; on standard error, where it takes long, what is waited for."""
        answer, started = asyncio.ensure_future(_waited(ref)), time.monotonic()
        try:
            while not (await asyncio.wait([answer], timeout=self.tell))[0]:
                _say(f"{what} ({time.monotonic() - started:.0f} s)")
                if not placed:  # who has a place keeps it, whatever else has gone
                    self.check_room()
            return answer.result()
        finally:
            answer.cancel()

    async def _lose(self, seat: Seat, actor: Any, why: str) -> None:
        """Replace what sat there, once for all that asked it."""
        if seat.actor is not actor or seat.state != "ready":
            return
        seat.why = why
        seat.losses += 1
        _say(f"{seat} was lost: {why}; what it was asked is asked again")
        self._kill(seat)
        await self._become(seat, "starting")
        start = asyncio.create_task(self._replace(seat))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)

    async def _replace(self, seat: Seat) -> None:
        while seat.losses < GIVE_UP:
            await asyncio.sleep(_PAUSE * seat.losses)
            try:
                await self._start(seat)
            except Exception as error:  # unforeseen ones too: else it would be waited for for ever
                seat.why = str(error) or type(error).__name__
                seat.losses += 1
                _say(seat.why)
            else:
                return
        await self._become(seat, "gone")

    def _kill(self, seat: Seat) -> None:
        """End the actor and free its place; it may be gone already."""
        if seat.actor is not None:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(seat.actor)
            seat.actor = None


def _dialogue(requests: Sequence[ChatRequest]) -> str:
    """The id of the dialogue that the requests are turns of."""
    return requests[0].turn_id.rpartition("/")[0] if requests else ""


async def _waited(ref: Awaitable[Any]) -> Any:
    return await ref


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def reason_lost(error: BaseException) -> str:
    """What Ray says of a lost worker in pages, in a few words."""
    text = str(error).strip()
    for sign, words in _SIGNS:
        if sign in text:
            return words
    last = text.splitlines()[-1].strip() if text else type(error).__name__
    return f"{last[:300]}; see Ray's logs of it"


#: Signs in Ray's own messages, the telling ones first.
_SIGNS = (
    (
        "No module named 'kardiabench'",
        "kardiabench is not installed there; install the same version on every machine",
    ),
    ("running low on memory", "its machine ran out of memory and Ray ended it"),
    ("node has died", "its machine left the cluster"),
    ("is unavailable: ", "its process or its machine cannot be reached any more"),
    (
        "worker process has died",
        "its process ended: killed, crashed or out of memory; see Ray's logs of it",
    ),
)
