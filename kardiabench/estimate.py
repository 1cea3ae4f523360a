"""`--dry-run`: how many calls, tokens and dollars a run would take, as a range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kardiabench.contracts import ChatModel
from kardiabench.records import Item, Reply
from kardiabench.session import Session

#: Turns whose prompts are built and counted; the rest is taken to be like them.
_PROBED_TURNS = 24
_CHARACTERS_PER_TOKEN = 4.0
#: Tokens of a judge's answer: a quote of a few words and a score, five times, with its JSON.
_VERDICT_TOKENS = 250


@dataclass(frozen=True)
class Line:
    """What one model would be asked. Prices in US dollars, None where no price is known."""

    what: str
    model: str
    calls: int
    prompt_tokens: int
    answer_tokens_low: int
    answer_tokens_high: int
    price_low: float | None
    price_high: float | None


def estimate(session: Session) -> list[Line]:
    """A line for the model under test and one for each judge that asks a model.

    Prompt tokens are counted on a few turns and scaled. Answers range from the gold replies'
    length (for judges from a terse verdict) to `max_tokens`, the most that can be paid for.
    """
    turns = list(islice(session.dialogues.turns(), _PROBED_TURNS))
    items = [Item(turn, Reply(turn.id, turn.gold)) for turn in turns]
    prompts = [session.prompts.messages(turn, turn.history) for turn in turns]
    total = session.dialogues.n_turns
    gold = _mean_tokens(session.model, [turn.gold for turn in turns])
    lines = []
    if getattr(session.model, "price", None) is not None:
        texts = ["\n".join(m.content for m in prompt) for prompt in prompts]
        lines.append(
            _line(
                "replies",
                session.model,
                texts,
                calls=total,
                low=gold,
                high=session.settings.max_tokens,
            )
        )
    for judge in session.scorer.judges:
        build: Any = getattr(judge, "messages", None)
        model: Any = getattr(judge, "model", None)
        if build is None or model is None:
            continue
        texts = ["\n".join(m.content for m in build(item)) for item in items]
        calls = total * int(getattr(judge, "samples", 1))
        ceiling = int(getattr(getattr(model, "options", None), "max_tokens", _VERDICT_TOKENS))
        lines.append(
            _line(
                f"judge {judge.name}", model, texts, calls=calls, low=_VERDICT_TOKENS, high=ceiling
            )
        )
    return lines


def _line(
    what: str, model: Any, texts: Sequence[str], *, calls: int, low: float, high: float
) -> Line:
    prompt = int(_mean_tokens(model, texts) * calls)
    answer_low, answer_high = int(low * calls), int(high * calls)
    return Line(
        what=what,
        model=model.name,
        calls=calls,
        prompt_tokens=prompt,
        answer_tokens_low=answer_low,
        answer_tokens_high=max(answer_low, answer_high),
        price_low=_price(model, prompt, answer_low),
        price_high=_price(model, prompt, max(answer_low, answer_high)),
    )


def _mean_tokens(model: ChatModel, texts: Sequence[str]) -> float:
    count: Any = getattr(model, "count_tokens", None)
    if count is None:
        return sum(map(len, texts)) / len(texts) / _CHARACTERS_PER_TOKEN
    return float(sum(map(count, texts))) / len(texts)


def _price(model: Any, prompt: int, answer: int) -> float | None:
    price: Any = getattr(model, "price", None)
    return None if price is None else price(prompt, answer)
