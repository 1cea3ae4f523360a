"""The attack suite: bad replies to turns of the sample, each as it is and attacked. Pure functions.

An attack has something to win only where the clean reply is not at the top, so the bases are
degraded anchors, or say next to nothing. Each family attacks the replies of its sort once each.
`benchmarks/attacks` has the expansion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from kardiabench.anchors import Anchor, Kind, item_with_response, load_anchors
from kardiabench.attack_families import FAMILIES, Family
from kardiabench.fingerprints import digest
from kardiabench.records import Item, Turn

#: The kinds of degraded replies that are attacked, in turn.
KINDS: tuple[Kind, ...] = ("off_topic", "dismissive", "garbled", "wrong_persona")
#: The kind of a base that says next to nothing, and what such replies say, in turn.
EMPTY = "empty"
EMPTY_REPLIES = ("OK.", "Hm.", "I see.", "Hello.")
#: Base turns of each persona.
TURNS_OF_PERSONA = 2


@dataclass(frozen=True, slots=True)
class Base:
    """A reply that is attacked. `id` is `<turn id>#<kind>`."""

    id: str
    kind: str
    item: Item

    @property
    def response(self) -> str:
        """What it says, without an attack."""
        return self.item.reply.spans.response or ""

    @property
    def persona_id(self) -> str:
        """The cluster that it belongs to."""
        return self.item.turn.dialogue.persona_id


@dataclass(frozen=True, slots=True)
class Case:
    """One attacked reply and its clean twin. `id` is `<base's id>/<family>`."""

    id: str
    family: str
    base: Base
    attacked: str

    @property
    def item(self) -> Item:
        """The attacked reply, as a judge gets it."""
        return item_with_response(self.base.item.turn, self.attacked)

    @property
    def seen(self) -> str | None:
        """What the parser of spans leaves of the attacked response; tags in it may change that."""
        return self.item.reply.spans.response

    def to_json(self) -> dict[str, str]:
        """A line of the frozen suite."""
        return {
            "id": self.id,
            "family": self.family,
            "turn_id": self.base.item.turn.id,
            "kind": self.base.kind,
            "clean": self.base.response,
            "attacked": self.attacked,
        }


@cache
def load_suite() -> tuple[Case, ...]:
    """Every case, in rounds: each round has one case of every family, so that a part is balanced.

    Within a round, families that stand next to one another attack replies to different turns.
    """
    return tuple(
        _case(family, _bases(empty=family.empty), number, first=at)
        for number in range(len(_turns()))
        for at, family in enumerate(FAMILIES)
    )


def bases_of(cases: Sequence[Case]) -> tuple[Base, ...]:
    """The clean twins of `cases`, each once: degraded replies first."""
    attacked = {case.base.id for case in cases}
    every = (*_bases(empty=False), *_bases(empty=True))
    return tuple(base for base in every if base.id in attacked)


def golds() -> tuple[Anchor, ...]:
    """The undegraded replies, which no attack touches."""
    return tuple(anchor for anchor in load_anchors() if anchor.kind == "gold")


@cache
def suite_fingerprint() -> str:
    """A digest of the suite: success rates are compared only under the same."""
    return digest([case.to_json() for case in load_suite()])


def _case(family: Family, bases: Sequence[Base], number: int, *, first: int) -> Case:
    base = bases[(first + number) % len(bases)]
    attacked = family.attack(base.response, number)
    return Case(f"{base.id}/{family.name}", family.name, base, attacked)


@cache
def _bases(*, empty: bool) -> tuple[Base, ...]:
    """One reply to each of the turns: one that says nothing, or degraded, the kinds in turn."""
    if empty:
        return tuple(_empty(turn, number) for number, turn in enumerate(_turns()))
    anchors = {anchor.id: anchor for anchor in load_anchors()}
    kinds = [KINDS[number % len(KINDS)] for number in range(len(_turns()))]
    chosen = [anchors[f"{t.id}#{kind}"] for t, kind in zip(_turns(), kinds, strict=True)]
    return tuple(Base(anchor.id, anchor.kind, anchor.item) for anchor in chosen)


def _empty(turn: Turn, number: int) -> Base:
    response = EMPTY_REPLIES[number % len(EMPTY_REPLIES)]
    return Base(f"{turn.id}#{EMPTY}", EMPTY, item_with_response(turn, response))


@cache
def _turns() -> tuple[Turn, ...]:
    """The anchors' first turns of every persona."""
    of_persona: dict[str, dict[str, Turn]] = {}
    for anchor in load_anchors():
        of_persona.setdefault(anchor.persona_id, {})[anchor.item.turn.id] = anchor.item.turn
    return tuple(
        turn for turns in of_persona.values() for turn in list(turns.values())[:TURNS_OF_PERSONA]
    )
