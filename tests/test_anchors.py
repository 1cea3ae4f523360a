"""The frozen anchors: complete, spread over the sample, written one by one, and unchanged."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations
from typing import get_args

import pytest

from judges.format import FormatJudge
from judges.rubric import DIMENSIONS
from kardiabench.anchors import TARGETS, Kind, anchors_fingerprint, load_anchors
from kardiabench.dialogues import load
from kardiabench.sources import open_sample
from kardiabench.spans import parse_spans

#: Judge cards compare scores under the same anchors: change a text only on purpose, together with
#: this constant, and know that no older card can be compared any more.
FROZEN = "bae0fd96c053eca1"

KINDS = ("gold", *TARGETS)
ANCHORS = load_anchors()
BASES = [
    dict(zip(KINDS, ANCHORS[start : start + len(KINDS)], strict=True))
    for start in range(0, len(ANCHORS), len(KINDS))
]
DEGRADED = [anchor for anchor in ANCHORS if anchor.kind != "gold"]
LINES = [
    json.loads(line)
    for line in (files("kardiabench.data") / "anchors.jsonl").read_text("utf-8").splitlines()
]
#: In which dialogues risk is voiced, and from which turn on.
RISK_FROM = {"devastated": 3, "lonely": 1, "afraid": 1}


def response(anchor) -> str:
    return anchor.item.reply.spans.response


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.casefold())


def content_words(text: str) -> set[str]:
    """Words of four letters and more: those that carry a chat reply's matter."""
    return {word for word in words(text) if len(word) >= 4}


def trigrams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + 3]) for at in range(len(found) - 2)}


# --- shape ----------------------------------------------------------------------------------------


def test_the_anchors_are_frozen():
    assert anchors_fingerprint() == FROZEN


def test_every_base_has_its_gold_reply_and_five_twins_in_order():
    assert len(ANCHORS) == 144
    assert len(BASES) == 24
    for base in BASES:
        assert tuple(anchor.kind for anchor in base.values()) == KINDS
        assert len({anchor.item.turn.id for anchor in base.values()}) == 1
    assert len({anchor.id for anchor in ANCHORS}) == 144


def test_kinds_are_those_of_the_type_and_their_targets_are_the_rubrics_dimensions():
    assert set(get_args(Kind)) == set(KINDS)
    assert Counter(TARGETS.values()) == Counter(dimension.name for dimension in DIMENSIONS)


def test_lines_hold_nothing_else_and_gold_lines_no_text():
    for line in LINES:
        expected = (
            {"turn_id", "kind"} if line["kind"] == "gold" else {"turn_id", "kind", "response"}
        )
        assert set(line) == expected
        assert line.get("response", "x") == line.get("response", "x").strip() != ""


def test_every_turn_is_one_of_the_sample():
    known = {turn.id for turn in load(open_sample("sample", None, None)).turns()}
    assert {line["turn_id"] for line in LINES} <= known


def test_bases_are_three_for_each_persona_from_dialogues_of_their_own():
    golds = [base["gold"] for base in BASES]
    assert sorted(Counter(anchor.persona_id for anchor in golds).values()) == [3] * 8
    assert len({anchor.item.turn.dialogue.id for anchor in golds}) == 24


def test_bases_stand_at_every_position_of_a_dialogue():
    positions = Counter(base["gold"].item.turn.index for base in BASES)
    assert set(positions) == {0, 1, 2, 3, 4}
    assert max(positions.values()) <= 8


def test_three_bases_have_risk_voiced():
    turns = [base["gold"].item.turn for base in BASES]
    voiced = {
        turn.dialogue.emotion
        for turn in turns
        if turn.index >= RISK_FROM.get(turn.dialogue.emotion, len(turns))
    }
    assert voiced == set(RISK_FROM)


# --- texts ----------------------------------------------------------------------------------------


def test_gold_anchors_are_the_samples_own_replies():
    for base in BASES:
        gold = parse_spans(base["gold"].item.turn.gold)
        assert base["gold"].item.reply.spans == gold


def test_twins_differ_from_the_gold_reply_in_the_response_alone():
    for base in BASES:
        gold = base["gold"].item.reply.spans
        for kind in TARGETS:
            spans = base[kind].item.reply.spans
            notes = (spans.understanding, spans.reasoning, spans.emotion)
            assert notes == (gold.understanding, gold.reasoning, gold.emotion)
            assert spans.response != gold.response


def test_all_responses_are_different():
    assert len({response(anchor) for anchor in ANCHORS}) == 144


def test_every_reply_is_well_formed():
    verdicts = asyncio.run(FormatJudge().judge([anchor.item for anchor in ANCHORS]))
    assert [verdict.scores for verdict in verdicts] == [{"format": 1.0}] * 144


@pytest.mark.parametrize("kind", TARGETS)
def test_twins_are_about_as_long_as_the_gold_reply(kind):
    ratios = [
        len(response(base[kind]).split()) / len(response(base["gold"]).split()) for base in BASES
    ]
    assert min(ratios) >= 0.6
    assert max(ratios) <= 1.4


def test_garbled_twins_keep_the_gold_replys_content_words_out_of_order():
    for base in BASES:
        gold, garbled = response(base["gold"]), response(base["garbled"])
        expected = content_words(gold)
        assert len(expected & content_words(garbled)) >= len(expected) / 2, base["garbled"].id
        kept = trigrams(gold) & trigrams(garbled)
        assert len(kept) <= len(trigrams(gold)) / 4, base["garbled"].id


@pytest.mark.parametrize("kind", TARGETS)
def test_twins_of_a_kind_were_not_filled_from_a_template(kind):
    texts = [response(base[kind]) for base in BASES]
    for one, other in combinations(texts, 2):
        shared = trigrams(one) & trigrams(other)
        assert len(shared) <= len(trigrams(one) | trigrams(other)) / 10, (one, other)
    openings = Counter(tuple(words(text)[:3]) for text in texts)
    assert max(openings.values()) == 1


def test_texts_name_neither_scores_nor_dimensions():
    told = re.compile(r"\b(scores?|ratings?|rubric|relevance|fluency|empathy|persona|safety)\b")
    assert [anchor.id for anchor in DEGRADED if told.search(response(anchor).casefold())] == []


def test_where_risk_was_voiced_every_twin_but_the_unsafe_one_keeps_a_step_towards_safety():
    steps = [{"emergency", "services"}, {"send", "help"}]
    for base in BASES:
        if base["gold"].item.turn.dialogue.emotion in RISK_FROM:
            taken = {
                kind for kind in KINDS for step in steps if step <= set(words(response(base[kind])))
            }
            assert taken == set(KINDS) - {"unsafe"}
