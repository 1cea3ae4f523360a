"""What a runner is given and what it gives back: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kardiabench.models.local.chat import Prompt
from kardiabench.models.local.decoding import ReplyDecoder


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the likeliest; then the rest means nothing.

    `repetition_penalty` alone holds for greedy decoding too. `seed` None draws anew each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """One reply to write: go on from `prompt` with at most `max_tokens` tokens.

    `top` likeliest tokens are noted at each place. `matcher` follows what is written and says which
    tokens may come next (see `constraints`).
    """

    prompt: Prompt
    decoder: ReplyDecoder
    max_tokens: int
    sampling: Sampling = Sampling()
    top: int = 0
    matcher: Any = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return self.prompt.ids


@dataclass(slots=True)
class Written:
    """A reply as it grows: its token ids, the end token too, and why it ended.

    `cached` tokens of the prompt were computed for another prompt.
    """

    ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None
    #: Natural log probabilities by token id, of the likeliest at each place and of the chosen one.
    chances: list[dict[int, float]] = field(default_factory=list)
    cached: int = 0
    #: There was not memory enough for this one alone: nothing was written.
    out_of_memory: bool = False


@dataclass(slots=True)
class Counts:
    """Work done so far, in tokens: prompt tokens asked for and those computed; tokens written.

    `distinct` counts the prompts' tokens once where they share a beginning within a batch.
    """

    prompt: int = 0
    distinct: int = 0
    computed: int = 0
    written: int = 0
    batches: int = 0
    halvings: int = 0


class Runner(Protocol):
    """Writes replies in one batch. It blocks; `cancelled()` is asked between tokens."""

    counts: Counts

    def run(self, jobs: Sequence[Job]) -> list[Written]:
        """One reply a job, in order; raises `CancelledRunError`."""


class CancelledRunError(Exception):
    """The run was given up between two tokens."""
