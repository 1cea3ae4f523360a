"""What an engine of vLLM counts of itself: prefix-cache hits, tokens, seconds at work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass
class EngineStats:
    """Sums since the engine was first started, restarts included.

    `queried_tokens` are tokens of prompts, `hit_tokens` those of them that the prefix cache had;
    `busy` is in seconds, from one report of the engine to the next while it had requests.
    """

    queried_tokens: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    busy: float = 0.0
    _since: float | None = None

    @property
    def hit_rate(self) -> float | None:
        """Hits over queries; None before the first prompt."""
        return self.hit_tokens / self.queried_tokens if self.queried_tokens else None

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens over the busy seconds; None before there are any."""
        return self.generated_tokens / self.busy if self.busy else None

    def copy(self) -> EngineStats:
        """The sums as they are now."""
        return EngineStats(
            self.queried_tokens,
            self.hit_tokens,
            self.prompt_tokens,
            self.generated_tokens,
            self.busy,
        )

    def note(self, scheduler: Any, iteration: Any) -> None:
        """Add what one step of the engine reports: its `SchedulerStats` and `IterationStats`."""
        now = time.perf_counter()
        if self._since is not None:
            self.busy += now - self._since
        if scheduler is not None:
            self.queried_tokens += scheduler.prefix_cache_stats.queries
            self.hit_tokens += scheduler.prefix_cache_stats.hits
            waiting = scheduler.num_running_reqs or scheduler.num_waiting_reqs
            self._since = now if waiting else None
        if iteration is not None:
            self.prompt_tokens += iteration.num_prompt_tokens
            self.generated_tokens += iteration.num_generation_tokens


class StatLogger:
    """A stat logger of vLLM's (`StatLoggerBase`, not imported here) that reports to `stats`."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Take what one step of the engine reports."""
        self._stats.note(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing is logged."""

    def log(self) -> None:
        """Nothing is logged."""

    def record_sleep_state(self, *_: Any, **__: Any) -> None:
        """An engine of ours never sleeps."""
