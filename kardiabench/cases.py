"""The cases of a comparison: which turns, and what two runs have to show for each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kardiabench.dialogues import Dialogues
from kardiabench.fingerprints import digest
from kardiabench.records import Item, Reply, Turn
from kardiabench.spans import parse_spans

_KIND = re.compile(r"[a-z_]{1,20}")


class Place(NamedTuple):
    """A turn by its ids."""

    turn_id: str
    dialogue_id: str
    persona_id: str


def draw(places: Iterable[Place], number: int | None, seed: int) -> list[Place]:
    """A sample of `number` turns, balanced over personas and, within each, over dialogues.

    Personas take turns, and so do the dialogues of one, in an order that comes from the seed and
    the ids alone: any two runs of a dataset are compared on the same cases, and the sample of n
    is the beginning of every larger one. None means all.
    """
    mixed = sorted(places, key=lambda place: digest([seed, place.turn_id]))
    by_dialogue = _in_turns(mixed, lambda place: place.dialogue_id, seed)
    return _in_turns(by_dialogue, lambda place: place.persona_id, seed)[:number]


def _in_turns(places: Iterable[Place], group: Callable[[Place], str], seed: int) -> list[Place]:
    """`places` so that their groups take turns; within a group the order stays."""
    met: Counter[str] = Counter()
    ranked = []
    for place in places:
        name = group(place)
        ranked.append((met[name], digest([seed, name]), place))
        met[name] += 1
    return [place for *_, place in sorted(ranked, key=lambda one: one[:2])]


@dataclass(frozen=True)
class Case:
    """One turn in a comparison of two runs, A and B.

    `item` is what the judge reads: A's reply, and B's in the place of the turn's gold reply.
    `words` are those of each response, separated by white space; 0 where there is none. Both are
    None where a side has no reply to compare, and `missing` says why.
    """

    turn: Turn
    item: Item | None
    words: tuple[int, int] | None
    missing: str | None

    @property
    def persona_id(self) -> str:
        """The cluster that it belongs to."""
        return self.turn.dialogue.persona_id

    @property
    def words_apart(self) -> float:
        """The words of A's response less those of B's.

        0 where a side has no response: that decides the case then, not length.
        """
        a, b = self.words or (0, 0)
        return float(a - b) if a and b else 0.0


def make_case(turn: Turn, a: Reply | None, b: Reply | None) -> Case:
    """The case of a turn with the replies of both runs, None where a run has none."""
    reasons = [f"{name} {why}" for name, why in (("A", _why(a)), ("B", _why(b))) if why]
    if a is None or b is None or reasons:
        return Case(turn, None, None, "; ".join(reasons))
    item = Item(replace(turn, gold=b.text), a)
    return Case(turn, item, (_words(a.text), _words(b.text)), None)


def draw_turns(dialogues: Dialogues, number: int | None, seed: int) -> list[Turn]:
    """The turns that `draw` draws, in the order of the dataset."""
    places = (Place(t.id, t.dialogue.id, t.dialogue.persona_id) for t in dialogues.turns())
    drawn = {place.turn_id for place in draw(places, number, seed)}
    return [turn for turn in dialogues.turns() if turn.id in drawn]


def _words(text: str) -> int:
    return len((parse_spans(text).response or "").split())


def _why(reply: Reply | None) -> str | None:
    """Why there is nothing to compare: `error: timeout`. A kind that is none is not repeated."""
    if reply is None:
        return "no reply"
    if reply.status != "error":
        return None
    kind = reply.detail.partition(":")[0]
    return f"error: {kind}" if _KIND.fullmatch(kind) else "error"
