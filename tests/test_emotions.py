"""How a model's word is matched to one of the 32 labels: exactly, after folding, no looser."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench import emotions
from kardiabench.emotions import EMOTIONS, match_emotion

label = st.sampled_from(EMOTIONS)
#: What may stand around a label without changing it.
frame = st.text(
    st.sampled_from(" \t\n.,;:!?*_`'\"()[]{}<>|#~-\u2013\u2014…«»“”🙂\u200b\ufeff\u00a0\ufe0f")
)


def test_there_are_the_32_labels_in_alphabetical_order():
    assert len(set(EMOTIONS)) == 32
    assert sorted(EMOTIONS) == list(EMOTIONS)


@pytest.mark.parametrize("name", EMOTIONS)
def test_a_label_names_itself_in_any_case(name):
    assert {match_emotion(form) for form in (name, name.upper(), name.title())} == {name}


@given(label, frame, frame)
def test_punctuation_and_space_around_a_label_do_not_count(name, before, after):
    assert match_emotion(before + name + after) == name


@pytest.mark.parametrize(
    "text",
    [
        " **Anxious.** ",
        "ANXIOUS!",
        "anxious 😟",
        "\uff41\uff4e\uff58\uff49\uff4f\uff55\uff53",
        "\U0001d41a\U0001d427\U0001d431\U0001d422\U0001d428\U0001d42e\U0001d42c",
        "anx\u00adious",
        "\u202eanxious\u202c",
    ],
)
def test_other_ways_to_write_a_label_are_folded(text):
    assert match_emotion(text) == "anxious"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "...", "anxiety", "very anxious", "anxious, sad", "anxious/sad", "anxious sad",
        "not anxious", "anxioux", "anx ious", "anx-ious", "joy", "joyfull", "1. sad", "sad1",
        "\u0455ad", "sád", "happy", "None", "emotion: sad",
    ],
)  # fmt: skip
def test_anything_looser_is_no_label(text):
    assert match_emotion(text) is None


@given(st.text())
def test_any_text_gives_a_label_or_none(text):
    assert match_emotion(text) in {None, *EMOTIONS}


@given(label, label, st.sampled_from([" ", ", ", " and ", "/", "\n"]))
def test_two_labels_are_none(first, second, between):
    assert match_emotion(first + between + second) is None


def test_lone_surrogates_and_nul_do_no_harm():
    assert match_emotion("\ud800sad\0") == "sad"


def test_a_long_text_is_no_label_and_is_not_kept_in_memory():
    emotions._match.cache_clear()
    texts = [f"sad {'.' * 10_000}{number}" for number in range(50)]
    assert {match_emotion(text) for text in texts} == {None}
    assert emotions._match.cache_info().currsize == 0
    assert sys.getrefcount(texts[0]) <= 3
