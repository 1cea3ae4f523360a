"""A judge with a time limit, bounded retries and a circuit breaker, so that a step always ends.

What is left after that is a failed verdict, which the Scorer's policy for missing judgements
handles. The judge's identity is untouched: how often it is asked decides no score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kardiabench.contracts import Judge
from kardiabench.guards import FAULTS, GuardedJudge, NamedJudge, reason
from kardiabench.records import Item, Verdict, clean_text, missing_scores
from kardiabench.redaction import redact

#: Asked for again; a refusal would only be repeated.
_WORTH_ASKING = frozenset({"error", "unparsed"})
_FAILED = _WORTH_ASKING | {"refused"}


def _repeats_a_turn(items: Sequence[Item]) -> bool:
    return len({item.turn.id for item in items}) < len(items)


class PatientJudge(NamedJudge):
    """`judge` with limits. `warn` is told in one sentence when the breaker opens and closes.

    `timeout` is in seconds an attempt, of which there are `retries` + 1: of a whole batch, or of
    each item where the judge asks about one at a time (its `batch_size` is 1, as an API's is).
    After `failures` batches in a row without a judgement the next `rest` batches are not asked:
    their verdicts are `skipped`. `failures` None: there is no breaker.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        timeout: float,
        retries: int,
        failures: int | None,
        rest: int,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(judge, judge.name)
        #: The Scorer's own limit, behind ours.
        self.time_limit = (timeout + 1.0) * (retries + 1)
        self._timeout = timeout
        self._retries = retries
        self._failures = failures
        self._rest = rest
        self._warn = warn
        self._failed_in_a_row = 0
        self._resting = 0

    async def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; it never raises."""
        if self._resting:
            self._resting -= 1
            why = f"left alone after {self._failures} batches without a judgement"
            return [self._none(item, "skipped", why) for item in items]
        verdicts = await self._attempt(items)
        for _ in range(self._retries):
            again = [i for i, verdict in enumerate(verdicts) if verdict.status in _WORTH_ASKING]
            if not again:
                break
            fresh = await self._attempt([items[i] for i in again])
            for i, verdict in zip(again, fresh, strict=True):
                verdicts[i] = verdict
        self._note(verdicts)
        return verdicts

    async def _attempt(self, items: Sequence[Item]) -> list[Verdict]:
        if len(items) > 1 and getattr(self._judge, "batch_size", None) == 1:
            return await self._each(items)  # one slow call must not cost the others their verdict
        if isinstance(self._judge, GuardedJudge) and _repeats_a_turn(items):
            return await self._in_rounds(items)
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return list(await self._judge.judge(tuple(items)))
        except (*FAULTS, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if limit.expired():
                why = f"no verdict in {self._timeout:g} s"
                return [self._none(item, "error", why) for item in items]
            if len(items) > 1:  # one item must not take the others with it
                return await self._each(items)
            return [self._none(items[0], "error", reason(error))]

    async def _in_rounds(self, items: Sequence[Item]) -> list[Verdict]:
        """Ask a plugin's judge about several candidates of a turn in batches of one a turn.

        A judge that gives verdicts in another order is found out by their turn; candidates of one
        turn in one batch would hide it, and rewards would go to the wrong ones.
        """
        rounds: list[list[int]] = []
        seen: dict[str, int] = {}
        for place, item in enumerate(items):
            number = seen.get(item.turn.id, 0)
            seen[item.turn.id] = number + 1
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(place)
        answered = await asyncio.gather(
            *(self._attempt([items[place] for place in places]) for places in rounds)
        )
        found: dict[int, Verdict] = {}
        for places, verdicts in zip(rounds, answered, strict=True):
            found |= zip(places, verdicts, strict=True)
        return [found[place] for place in range(len(items))]

    async def _each(self, items: Sequence[Item]) -> list[Verdict]:
        alone = await asyncio.gather(*(self._attempt([item]) for item in items))
        return [verdict for (verdict,) in alone]

    def _note(self, verdicts: Sequence[Verdict]) -> None:
        """Count batches without a judgement, and open the breaker when they are too many."""
        if not verdicts:
            return
        if any(verdict.status not in _FAILED for verdict in verdicts):
            if self._failures is not None and self._failed_in_a_row >= self._failures:
                self._warn(f"judge {self.name} judges again")
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._failures is not None and self._failed_in_a_row >= self._failures:
            self._resting = self._rest
            last = " ".join(verdicts[-1].evidence.values()) or verdicts[-1].status
            self._warn(
                f"judge {self.name} failed on {self._failed_in_a_row} batches in a row "
                f"({last}); it is left alone for {self._rest} batches, then asked again"
            )

    def _none(self, item: Item, status: str, why: str) -> Verdict:
        return Verdict(
            turn_id=item.turn.id,
            judge=self.name,
            fingerprint="",  # the Scorer writes it
            scores=missing_scores(self.dimensions),
            status="skipped" if status == "skipped" else "error",
            evidence={"judge": clean_text(redact(why))},
        )
