"""Plain data that everything else passes around. See the vocabulary in the README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import pstdev
from typing import Literal, NamedTuple

from kardiabench.spans import Spans, parse_spans

Role = Literal["system", "user", "assistant"]
GoldSource = Literal["span", "dialogue"]
ReplyStatus = Literal["ok", "truncated", "refused", "error"]
VerdictStatus = Literal["ok", "partial", "unparsed", "refused", "error", "skipped"]
TextSource = Literal["server", "token_ids", "file"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message.

    The first `shared` characters of `content` are a beginning that other requests have too: where
    a provider wants to be told what to cache, it is told so.
    """

    role: Role
    content: str
    shared: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dataset row. `id` and `persona_id` are derived from content, so they are stable."""

    id: str
    persona_id: str
    profile: str
    mbti: str
    emotion: str
    situation: str
    messages: tuple[Message, ...]

    @property
    def system(self) -> str | None:
        """The row's own system prompt, where it has one."""
        first = self.messages[0]
        return first.content if first.role == "system" else None


@dataclass(frozen=True, slots=True)
class Turn:
    """One point where a model has to answer; the unit of generation and of scoring.

    `dialogue.messages[:end]` are the messages up to and including the user's; `gold` is the
    reply that the dataset has at `dialogue.messages[end]`.
    """

    dialogue: Dialogue
    index: int
    end: int
    gold: str
    gold_emotion: str
    gold_source: GoldSource

    @property
    def id(self) -> str:
        """`<dialogue_id>/<index>`."""
        return f"{self.dialogue.id}/{self.index}"

    @property
    def history(self) -> tuple[Message, ...]:
        """The user's and the gold assistant's messages so far, without a system prompt."""
        start = 0 if self.dialogue.system is None else 1
        return self.dialogue.messages[start : self.end]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of one or more calls; `cost` in US dollars, None when no price is known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = None

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """The sum; its cost is None only when no part has one."""
        parts = list(usages)
        costs = [part.cost for part in parts if part.cost is not None]
        return Usage(
            calls=sum(part.calls for part in parts),
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
            reasoning_tokens=sum(part.reasoning_tokens for part in parts),
            cached_tokens=sum(part.cached_tokens for part in parts),
            cost=sum(costs) if costs else None,
        )


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a backend is asked. It carries no gold data: a model cannot see what it is scored on.

    `json_schema` asks for an answer constrained to that JSON schema where the backend can.
    `sample` tells repeated requests with the same messages apart (it shifts the seed).
    `top_logprobs` asks for so many alternatives to every token, where the backend has them.
    `guided_spans` asks for an answer constrained to the four spans and the 32 labels; only a
    backend that has `takes_guided_spans` is asked so.
    """

    messages: tuple[Message, ...]
    turn_id: str = ""
    persona_id: str = ""
    sample: int = 0
    json_schema: Mapping[str, object] | None = None
    top_logprobs: int = 0
    guided_spans: bool = False


class TokenChances(NamedTuple):
    """One generated token and the likeliest at its place, each with its natural log probability."""

    token: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend answered.

    `text` keeps special tokens. `reasoning` is thinking that came apart from the text. `status` is
    `error` when nothing was generated for reasons outside the model; `detail` then starts with the
    kind: `rate_limit`, `timeout`, `connection`, `server`, `auth`, `quota`, `not_found`, `install`,
    `context`, `memory`, `template`, `engine`, `replica`, `bad_request`, `history`, `missing`,
    `changed` or `internal`; for `refused` it is `content_filter` or `refusal`. `latency` is in
    seconds. `chances` are those of the tokens that `text` is made of, in order, where they were
    asked for and the backend gave them; else empty.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    status: ReplyStatus = "ok"
    detail: str = ""
    usage: Usage = Usage()
    latency: float = 0.0
    text_source: TextSource = "server"
    chances: tuple[TokenChances, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a model said for a turn, as it is stored and judged. Fields as in `Completion`."""

    turn_id: str
    text: str
    status: ReplyStatus = "ok"
    detail: str = ""
    finish_reason: str | None = None
    reasoning: str = ""
    usage: Usage = Usage()
    latency: float = 0.0
    text_source: TextSource = "server"

    @cached_property
    def spans(self) -> Spans:
        """The four spans of `text`."""
        return parse_spans(self.text)

    @staticmethod
    def of(turn_id: str, completion: Completion) -> Reply:
        """The reply that `completion` is for the turn, its texts and numbers fit to be stored."""
        return Reply(
            turn_id=turn_id,
            text=clean_text(completion.text),
            status=completion.status,
            detail=clean_text(completion.detail),
            finish_reason=completion.finish_reason,
            reasoning=clean_text(completion.reasoning),
            usage=completion.usage,
            latency=completion.latency if math.isfinite(completion.latency) else 0.0,
            text_source=completion.text_source,
        )


class Item(NamedTuple):
    """What a judge scores: a turn and the reply to it."""

    turn: Turn
    reply: Reply


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing a judge scores, on the closed range `low`..`high`; higher is better.

    `flag` marks a yes/no question whose lowest score is worth looking at, turn by turn.
    """

    name: str
    low: float
    high: float
    description: str
    flag: bool = False

    def scaled(self, score: float) -> float:
        """`score` mapped to [0, 1]."""
        return (score - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judge on one reply.

    `scores` has every dimension of the judge: a number within its range, or None where there is no
    judgement. `status` is `ok` when the judge did its work (a None among the scores of an `ok`
    verdict is a dimension that this judge does not measure), and `partial` when a part of the work
    failed: a dimension without a score, or a member of a panel that said nothing. With any other
    status every score is None. `evidence` is short text per dimension or under the key `judge`.
    `parts` are the scores of what the verdict was put together from, by sample or by member.
    """

    turn_id: str
    judge: str
    fingerprint: str
    scores: Mapping[str, float | None]
    status: VerdictStatus = "ok"
    evidence: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = Usage()
    parts: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def spread(self, dimension: str) -> float | None:
        """The standard deviation of the parts' scores (of the population); None for fewer than two.

        In the dimension's own unit.
        """
        found = [part[dimension] for part in self.parts.values() if dimension in part]
        scores = [score for score in found if score is not None]
        return pstdev(scores) if len(scores) > 1 else None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """All verdicts on one reply and the composite in [0, 1], None when a required part is None."""

    turn_id: str
    verdicts: tuple[Verdict, ...]
    composite: float | None


def missing_scores(dimensions: Sequence[Dimension]) -> dict[str, float | None]:
    """The scores of a judgement that failed: None for every dimension."""
    return {dimension.name: None for dimension in dimensions}


def clean_text(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD, so that it can be written as UTF-8.

    JSON may carry one as an escape; such a string breaks every later encoder.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
