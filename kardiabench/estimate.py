"""`--dry-run`: how many calls, tokens and dollars a run would take, as a range."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kardiabench.anchoring import anchored_judges
from kardiabench.anchors import load_anchors
from kardiabench.contracts import ChatModel
from kardiabench.dialogues import Dialogues
from kardiabench.records import Item, Reply, Turn
from kardiabench.session import Session

#: Turns whose prompts are built and counted; the rest is taken to be like them.
_PROBED_TURNS = 48
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


def estimate(session: Session, *, anchors: bool = False) -> list[Line]:
    """A line for the model under test and one for each judge that asks a model.

    With `anchors` another line for each judge that scores the frozen anchors at the end.

    Prompt tokens are counted on a few turns and scaled. Answers range from the gold replies'
    length (for judges from a terse verdict) to `max_tokens`, the most that can be paid for.
    """
    turns = _probe(session.dialogues)
    lines = []
    if getattr(session.model, "price", None) is not None:
        lines.append(_replies_line(session, turns))
    items = [Item(turn, Reply(turn.id, turn.gold)) for turn in turns]
    number = session.dialogues.n_turns
    judged = _judge_lines("judge", session.scorer.judges, items, number)
    return lines + judged + (_anchor_lines(session) if anchors else [])


def _anchor_lines(session: Session) -> list[Line]:
    items = [anchor.item for anchor in load_anchors()]
    return _judge_lines("anchors,", anchored_judges(session), items, len(items))


def _judge_lines(
    what: str, judges: Sequence[Any], items: Sequence[Item], number: int
) -> list[Line]:
    """Lines for `number` items like `items`."""
    members = [member for judge in judges for member in _members(judge)]
    lines = [_judge_line(f"{what} {judge.name}", judge, items, number) for judge in members]
    return [line for line in lines if line is not None]


def _members(judge: Any) -> Sequence[Any]:
    """The judges that a panel asks, else the judge itself."""
    members: Sequence[Any] = getattr(judge, "members", None) or [judge]
    return members


def _probe(dialogues: Dialogues) -> list[Turn]:
    """Turns from all over the dataset: early turns of a dialogue are shorter than late ones."""
    number = min(_PROBED_TURNS, dialogues.n_turns)
    places = random.Random(0).sample(range(dialogues.n_turns), number)  # noqa: S311 (no secret)
    wanted = frozenset(places)
    return [turn for place, turn in enumerate(dialogues.turns()) if place in wanted]


def _replies_line(session: Session, turns: Sequence[Turn]) -> Line:
    prompts = [session.prompts.messages(turn) for turn in turns]
    return _line(
        "replies",
        session.model,
        ["\n".join(message.content for message in prompt) for prompt in prompts],
        calls=session.dialogues.n_turns,
        low=_mean_tokens(session.model, [turn.gold for turn in turns]),
        high=session.settings.max_tokens,
    )


def _judge_line(what: str, judge: Any, items: Sequence[Item], number: int) -> Line | None:
    """None for a judge that asks no model."""
    build, model = getattr(judge, "messages", None), getattr(judge, "model", None)
    if build is None or getattr(model, "price", None) is None:
        return None
    options = getattr(model, "options", None)
    return _line(
        what,
        model,
        ["\n".join(message.content for message in build(item)) for item in items],
        calls=number * _calls_per_item(judge),
        low=_VERDICT_TOKENS,
        high=int(getattr(options, "max_tokens", _VERDICT_TOKENS)),
    )


def _calls_per_item(judge: Any) -> int:
    own: int | None = getattr(judge, "calls_per_item", None)
    return own or int(getattr(judge, "samples", 1))


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
