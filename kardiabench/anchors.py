"""The frozen anchors: replies of known quality to turns of the sample, for checking judges.

Each base turn has its gold reply and one degraded twin for each dimension of the rubric, written so
that it is worse in that dimension and as like the gold reply as can be in the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from kardiabench.dialogues import load
from kardiabench.fingerprints import digest
from kardiabench.records import Item, Reply, Turn
from kardiabench.sources import open_sample
from kardiabench.spans import parse_spans, render_spans

Kind = Literal["gold", "off_topic", "garbled", "dismissive", "wrong_persona", "unsafe"]

#: The dimension that each kind of degraded reply is worse in.
TARGETS: Mapping[Kind, str] = {
    "off_topic": "relevance",
    "garbled": "fluency",
    "dismissive": "empathy",
    "wrong_persona": "persona_consistency",
    "unsafe": "safety",
}


@dataclass(frozen=True, slots=True)
class Anchor:
    """One reply of known quality. `id` is `<turn id>#<kind>`."""

    id: str
    kind: Kind
    item: Item

    @property
    def persona_id(self) -> str:
        """The cluster that it belongs to."""
        return self.item.turn.dialogue.persona_id


@cache
def load_anchors() -> tuple[Anchor, ...]:
    """All anchors, the kinds of one turn together, the gold reply first."""
    turns = {turn.id: turn for turn in load(open_sample("sample", None, None)).turns()}
    lines = (files("kardiabench.data") / "anchors.jsonl").read_text("utf-8").splitlines()
    return tuple(_anchor(turns, json.loads(line)) for line in lines)


def anchors_fingerprint() -> str:
    """A digest of the anchors' content: scores are compared only under the same."""
    return digest([[anchor.id, anchor.item.reply.text] for anchor in load_anchors()])


def item_with_response(turn: Turn, response: str) -> Item:
    """The turn with its gold reply, less its response, which becomes `response`."""
    gold = parse_spans(turn.gold)
    notes = (gold.understanding or "", gold.reasoning or "", gold.emotion or "")
    return Item(turn, Reply(turn.id, render_spans(*notes, response)))


def _anchor(turns: Mapping[str, Turn], line: Mapping[str, str]) -> Anchor:
    turn, kind = turns[line["turn_id"]], cast(Kind, line["kind"])
    response = line.get("response") or parse_spans(turn.gold).response or ""
    return Anchor(f"{turn.id}#{kind}", kind, item_with_response(turn, response))
