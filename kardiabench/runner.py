"""Generate -> score -> record, overlapping, stoppable, resumable.

Generation workers take turns off the dataset in order and hand replies over a bounded queue to
judging workers. A reply is on disk before anything else happens to it, its verdicts as soon as
they exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, Protocol

from kardiabench.cache import request_key
from kardiabench.contracts import Judge
from kardiabench.models.api_errors import FATAL_KINDS, advice
from kardiabench.pending import Pending
from kardiabench.prompts import in_own_words
from kardiabench.queues import waiting
from kardiabench.records import (
    ChatRequest,
    Completion,
    Item,
    Reply,
    Turn,
    Usage,
    Verdict,
)
from kardiabench.rows import turns_of
from kardiabench.session import Session
from kardiabench.shortening import SHORTENED, noting_shortened, overflows, without_oldest
from kardiabench.spans import strip_thinking
from kardiabench.store import RunStore, reply_at

StopReason = Literal["interrupt", "max_cost", "fatal"]

#: Replies that may wait for a judge, a worker: generation runs ahead of a slow judge this far.
_QUEUE_PER_WORKER = 2


class Watcher(Protocol):
    """Who is told what happens."""

    def replied(self, reply: Reply) -> None:
        """A reply was stored."""

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """All verdicts of one turn are stored."""


@dataclass
class Control:
    """Why to stop, if so, and the money spent so far in US dollars.

    `spent` counts what was paid for now: nothing out of the cache. `unpriced` counts calls that
    no price is known for. `dearest` is the price of the dearest call so far, at first what one is
    thought to cost.
    """

    max_cost: float | None = None
    dearest: float = 0.0
    spent: float = 0.0
    unpriced: int = 0
    stop: StopReason | None = None
    detail: str = ""
    begun: bool = False
    _in_flight: int = 0

    def halt(self, reason: StopReason, detail: str = "") -> None:
        """Start nothing new; what is in flight is finished and kept."""
        if self.stop is None:
            self.stop, self.detail = reason, detail

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as in flight."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def pay(self, usage: Usage) -> None:
        """Note what a call has used."""
        if usage.cost is None:
            self.unpriced += usage.calls
        else:
            self.spent += usage.cost
            self.dearest = max(self.dearest, usage.cost)

    def ends_over(self, status: str, detail: str) -> bool:
        """Whether every further call would fail so too; it is not recorded, the run stops."""
        if status == "error" and detail.partition(":")[0] in FATAL_KINDS:
            self.halt("fatal", f"{detail}; {advice(detail)}")
            return True
        return False

    def affordable(self) -> bool:
        """Whether one more call fits, each of those in flight taken to be as dear as any."""
        if self.max_cost is None:
            return True
        if self.spent + self.dearest * (self._in_flight + 1) <= self.max_cost:
            return True
        self.halt("max_cost")
        return False


class _ToJudge(NamedTuple):
    turn: Turn
    reply: Reply
    judges: Sequence[str]


@dataclass
class Runner:
    """One run: `await Runner(...).run()` does everything that is pending."""

    session: Session
    store: RunStore
    pending: Pending
    control: Control
    watcher: Watcher
    generate: bool = True
    _queue: asyncio.Queue[_ToJudge | None] = field(init=False)
    _jobs: Iterator[Sequence[Turn]] = field(init=False)

    def __post_init__(self) -> None:
        self.session.scorer.on_usage = self.control.pay

    async def run(self) -> None:
        """Generate and judge until nothing is pending or `control` says stop.

        With `generate=False` only replies that are stored already are judged.
        """
        workers = self.session.settings.concurrency
        self._queue = asyncio.Queue(_QUEUE_PER_WORKER * workers)
        self._jobs = self._plan()
        async with asyncio.TaskGroup() as judging:
            for _ in range(workers):
                judging.create_task(self._judge_worker())
            async with asyncio.TaskGroup() as generating:
                for _ in range(self._generators(workers)):
                    generating.create_task(self._generate_worker())
            for _ in range(workers):
                await self._queue.put(None)

    # --- generation -----------------------------------------------------------------------------

    @property
    def _dialogues_at_once(self) -> int | None:
        """How many whole dialogues the model wants at a time, if it wants them whole."""
        at_once: int | None = getattr(self.session.model, "dialogues_at_once", None)
        return at_once

    def _generators(self, workers: int) -> int:
        """How many jobs are asked for at a time."""
        at_once = self._dialogues_at_once
        if at_once is not None:
            # In `free` mode a dialogue asks for one turn at a time.
            return max(at_once, workers) if self.session.settings.history == "free" else at_once
        return workers if self.session.model.batch_size == 1 else 1

    def _plan(self) -> Iterator[Sequence[Turn]]:
        """Jobs: whole dialogues where they are wanted, else as many turns as the model likes."""
        if self.session.settings.history == "free" or self._dialogues_at_once is not None:
            return (turns_of(dialogue) for dialogue in self.session.dialogues)
        turns = self.session.dialogues.turns()
        size = self.session.model.batch_size
        return iter(lambda: tuple(islice(turns, size)), ())

    async def _generate_worker(self) -> None:
        free = self.session.settings.history == "free"
        for job in self._jobs:
            if self.control.stop:
                return
            await (self._free_dialogue(job) if free else self._gold_turns(job))

    async def _gold_turns(self, turns: Sequence[Turn]) -> None:
        todo = [turn for turn in turns if self.pending.needs_reply(turn)]
        for turn in turns:
            if not self.pending.needs_reply(turn):
                await self._hand_over_stored(turn)
        if todo and self.generate:
            await self._answer(todo)

    async def _free_dialogue(self, turns: Sequence[Turn]) -> None:
        said: list[Reply] = []
        for gold_turn in turns:
            if self.control.stop:
                return
            turn = in_own_words(gold_turn, [strip_thinking(r.text).strip() for r in said])
            if self.pending.needs_reply(turn):
                reply = await self._free_turn(turn, said) if self.generate else None
            else:
                reply = await self._hand_over_stored(turn)
            if reply is None:
                return
            said.append(reply)

    async def _free_turn(self, turn: Turn, said: Sequence[Reply]) -> Reply | None:
        failed = [index for index, reply in enumerate(said) if reply.status == "error"]
        if failed:
            why = f"history: exchange {failed[0]} of this dialogue has no reply to go on from"
            return await self._record(turn, Completion(status="error", detail=why))
        replies = await self._answer([turn])
        return replies[0] if replies else None

    def _request(self, turn: Turn) -> ChatRequest:
        messages = self.session.prompts.messages(turn)
        return ChatRequest(
            messages,
            turn.id,
            turn.dialogue.persona_id,
            guided_spans=self.session.settings.guided_spans,
        )

    async def _answer(self, turns: Sequence[Turn]) -> list[Reply]:
        """Ask for all, record each; without those that the run stops over."""
        requests = [self._request(turn) for turn in turns]
        cached = [self._cached(request) for request in requests]
        asked = [r for r, known in zip(requests, cached, strict=True) if known is None]
        if asked and not self.control.affordable():
            return []
        fresh = iter(await self._complete_fitting(asked))
        replies = []
        for turn, request, known in zip(turns, requests, cached, strict=True):
            completion = known or next(fresh)
            live = completion.text_source != "file"  # what failed elsewhere stops nothing here
            if live and self.control.ends_over(completion.status, completion.detail):
                continue
            replies.append(await self._record(turn, completion))
            if known is None:
                self._remember(request, completion)
        return replies

    async def _complete_fitting(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Completions; with `--truncate-history` those of histories short enough for the model."""
        completions = await self._complete(requests)
        if not self.session.settings.truncate_history:
            return completions
        left_out = 0
        while True:
            left_out += 1
            again = {
                place: shorter
                for place, completion in enumerate(completions)
                if overflows(completion)
                and (shorter := without_oldest(requests[place], left_out)) is not None
            }
            if not again:
                return completions
            for place, completion in zip(
                again, await self._complete(list(again.values())), strict=True
            ):
                completions[place] = noting_shortened(completion, left_out)

    async def _complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        if not requests:
            return []
        with self.control.call():
            completions = await self.session.model.complete(requests)
        if not getattr(self.session.model, "is_local", False):  # what runs here has no price
            for completion in completions:
                self.control.pay(completion.usage)
        return completions

    async def _record(self, turn: Turn, completion: Completion) -> Reply:
        reply = Reply.of(turn.id, completion)
        self.store.append_reply(turn, reply)
        self.watcher.replied(reply)
        await self._queue.put(_ToJudge(turn, reply, self.pending.judges))
        return reply

    async def _hand_over_stored(self, turn: Turn) -> Reply | None:
        """A reply that is on disk: judge what it still lacks. Returned in `free` mode only."""
        judges = self.pending.missing_judges(turn)
        free = self.session.settings.history == "free"
        if not judges and not free:
            return None
        reply = reply_at(self.store.path, self.pending.offset(turn))
        if judges:
            await self._queue.put(_ToJudge(turn, reply, judges))
        return reply

    # --- the cache ------------------------------------------------------------------------------

    @property
    def _caches_replies(self) -> bool:
        return self.session.cache is not None and getattr(self.session.model, "cacheable", True)

    def _cached(self, request: ChatRequest) -> Completion | None:
        if self.session.cache is None or not self._caches_replies:
            return None
        return self.session.cache.get_completion(request_key(self.session.model, request))

    def _remember(self, request: ChatRequest, completion: Completion) -> None:
        # A reply to less than the request says belongs to this protocol alone.
        shortened = completion.detail.startswith(SHORTENED)
        if self.session.cache is not None and self._caches_replies and not shortened:
            self.session.cache.put_completion(request_key(self.session.model, request), completion)

    # --- judging --------------------------------------------------------------------------------

    async def _judge_worker(self) -> None:
        while (work := await self._queue.get()) is not None:
            batch = [work, *waiting(self._queue, self.session.scorer.batch_size - 1)]
            if not self.control.stop:  # else drain, so that generation is never left waiting
                await self._judge(batch)

    async def _judge(self, batch: Sequence[_ToJudge]) -> None:
        if not self.control.affordable():
            return
        judges = self.session.scorer.judges
        columns = await asyncio.gather(*(self._ask_judge(judge, batch) for judge in judges))
        for work in batch:
            verdicts = [column[work.turn.id] for column in columns if work.turn.id in column]
            if len(verdicts) == len(work.judges):
                self.session.scorer.card(work.turn.id, verdicts)  # raises under `fail_fast`
                self.watcher.judged(verdicts)

    async def _ask_judge(self, judge: Judge, batch: Sequence[_ToJudge]) -> dict[str, Verdict]:
        """The verdicts of one judge on what it still has to judge, by turn; stored at once."""
        works = [work for work in batch if judge.name in work.judges]
        if not works:
            return {}
        with self.control.call():
            items = [Item(work.turn, work.reply) for work in works]
            verdicts = await self.session.scorer.verdicts(judge, items)
        kept: dict[str, Verdict] = {}
        for work, verdict in zip(works, verdicts, strict=True):
            if not self.control.ends_over(verdict.status, reason_given(verdict)):
                self.store.append_verdicts(work.reply, [verdict])
                kept[work.turn.id] = verdict
        return kept


def reason_given(verdict: Verdict) -> str:
    """What a failed verdict says of itself: judges put a call's failure there as it stands."""
    return verdict.evidence.get("judge", "")
