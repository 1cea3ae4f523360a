"""Which turns are compared, and what two runs have to show for each."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rundata import make_turn, say

from kardiabench.cases import Place, draw, draw_turns, make_case
from kardiabench.dialogues import load
from kardiabench.records import Reply
from kardiabench.sources import open_sample

PLACES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9)), unique=True, max_size=60
).map(lambda keys: [Place(f"d{p}-{d}/{t}", f"d{p}-{d}", f"p{p}") for p, d, t in keys])


@given(PLACES, st.integers(1, 70), st.integers())
def test_a_sample_is_the_beginning_of_every_larger_one_whatever_the_order(places, number, seed):
    everything = draw(places, None, seed)
    assert sorted(everything) == sorted(places)
    assert draw(places, number, seed) == everything[:number]
    assert draw(places[::-1], None, seed) == everything


@given(PLACES, st.integers(1, 60), st.integers())
def test_personas_share_the_sample_and_so_do_the_dialogues_of_one(places, number, seed):
    drawn = draw(places, number, seed)
    shares_are_even(drawn, places, lambda place: place.persona_id)
    for persona in {place.persona_id for place in places}:
        own = [place for place in places if place.persona_id == persona]
        shares_are_even([p for p in drawn if p in own], own, lambda place: place.dialogue_id)


def shares_are_even(drawn, places, group):
    """No group that has some left has fewer by two than another."""
    there, taken = Counter(map(group, places)), Counter(map(group, drawn))
    short = [taken[name] for name in there if taken[name] < there[name]]
    assert not short or max(taken.values(), default=0) <= min(short) + 1


def test_another_seed_draws_other_turns():
    dialogues = load(open_sample("sample", None, None))
    one, two = (draw_turns(dialogues, 16, seed) for seed in (0, 1))
    assert [turn.id for turn in one] != [turn.id for turn in two]
    assert Counter(turn.dialogue.persona_id for turn in one).most_common(1)[0][1] == 2
    order = [turn.id for turn in dialogues.turns()]
    assert [turn.id for turn in one] == [t for t in order if t in {turn.id for turn in one}]


def test_the_rival_stands_where_the_gold_reply_was():
    turn = make_turn()
    ours, theirs = Reply(turn.id, say(response="One two.")), Reply(turn.id, say(response="Three."))
    case = make_case(turn, ours, theirs)
    assert case.item.reply is ours
    assert case.item.turn.gold == theirs.text
    assert case.item.turn.history == turn.history
    assert (case.words, case.words_apart, case.missing) == ((2, 1), 1.0, None)


@pytest.mark.parametrize("text", ["no spans at all", "<|response_begin|>cut off", say(response="")])
def test_a_side_without_a_response_has_no_length_to_tell(text):
    turn = make_turn()
    case = make_case(turn, Reply(turn.id, say()), Reply(turn.id, text))
    assert case.words == (3, 0)
    assert case.words_apart == 0.0
    assert case.item is not None


TIMED_OUT = {"text": "", "status": "error", "detail": "timeout: in 5 s"}
ODD = {"text": "", "status": "error", "detail": "<b>Secret words</b>: x"}


@pytest.mark.parametrize(
    ("a", "b", "missing"),
    [
        (None, {"text": say()}, "A no reply"),
        ({"text": say()}, TIMED_OUT, "B error: timeout"),
        (TIMED_OUT, None, "A error: timeout; B no reply"),
        (ODD, {"text": say()}, "A error"),
    ],
)
def test_a_turn_that_a_side_did_not_answer_has_a_reason_and_nothing_to_judge(a, b, missing):
    turn = make_turn()
    replies = [None if values is None else Reply(turn.id, **values) for values in (a, b)]
    case = make_case(turn, *replies)
    assert (case.item, case.words, case.missing) == (None, None, missing)


@pytest.mark.parametrize("status", ["truncated", "refused"])
def test_a_models_own_failure_is_compared(status):
    turn = make_turn()
    assert make_case(turn, Reply(turn.id, "", status), Reply(turn.id, say())).missing is None
