"""Rows: what is accepted, what is refused and in which words, ids, turns."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rowdata import exchange, gold, make_row, message

from kardiabench.contracts import RawRow
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import DataError
from kardiabench.rows import BadRow, persona_id, read_row, turns_of
from kardiabench.spans import SPAN_NAMES

SYSTEM = message("system", "You are kind.")
USER = message("user", "Hello.")
ASSISTANT = message("assistant", "I am here.")


def read(value: object):
    return read_row(RawRow("test.jsonl", 7, value))


def refusal(value: object) -> BadRow:
    with pytest.raises(BadRow) as caught:
        read(value)
    return caught.value


def with_gold(text: str):
    return make_row(messages=exchange(assistant=text))


def broken(old: str, new: str):
    text = gold()
    assert old in text
    return with_gold(text.replace(old, new))


def test_a_good_row_becomes_a_dialogue():
    dialogue = read(make_row())
    assert (dialogue.mbti, dialogue.emotion) == ("INFJ", "anxious")
    assert dialogue.system == "You are kind."
    assert [m.role for m in dialogue.messages] == ["system"] + ["user", "assistant"] * 2
    assert len(dialogue.id) == 17
    assert len(dialogue.persona_id) == 13


@pytest.mark.parametrize(
    "row",
    [
        make_row(messages=exchange()),
        make_row(extra={"a": 1}, messages=[{**USER, "name": "x"}, {**ASSISTANT, "id": 3}]),
        {key: value for key, value in make_row().items() if key != "anon_username"},
        make_row(anon_username=None),
        make_row(emotion=" Anxious. "),
        make_row(messages=[USER, ASSISTANT]),
        with_gold("".join(f"<{name}>sad</{name}>" for name in SPAN_NAMES)),
        with_gold(gold(response="x" * 1_000_000)),
        make_row(messages=exchange(user="y" * 1_000_000)),
        make_row(messages=[SYSTEM, message("user", "  😀 \u202eok"), ASSISTANT], situation=""),
    ],
    ids=[
        "no system prompt", "extra fields", "no username", "null username", "emotion spelling",
        "no tags", "xml tags", "1 MB reply", "1 MB message", "odd characters",
    ],
)  # fmt: skip
def test_unusual_rows_are_accepted(row):
    assert turns_of(read(row))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ([1], ": is a list, not an object"),
        (None, ": is null, not an object"),
        ({**make_row(), "person": 3}, ", field person: is a number, not text"),
        ({**make_row(), "mbti": None}, ", field mbti: is null, not text"),
        ({k: v for k, v in make_row().items() if k != "situation"},
         ", field situation: is missing"),
        ({**make_row(), "anon_username": ["a"]}, ", field anon_username: is a list, not text"),
        ({**make_row(), "messages": {}}, ", field messages: is an object, not a list"),
        ({**make_row(), "messages": []}, ", field messages: is empty"),
        ({**make_row(), "messages": ["hi"]}, ", field messages[0]: is text, not an object"),
        (make_row(messages=[{"role": "user"}]), ", field messages[0].content: is missing"),
        (make_row(messages=[USER, {**ASSISTANT, "content": True}]),
         ", field messages[1].content: is true, not text"),
        (make_row(messages=[SYSTEM, USER, ASSISTANT, message("tool", "x")]),
         ", field messages[3].role: is 'tool', not 'system', 'user' or 'assistant'"),
        (make_row(messages=[message("\x1b[31m", "x")]),
         r", field messages[0].role: is '\x1b[31m', not 'system', 'user' or 'assistant'"),
        (make_row(messages=[USER, USER, ASSISTANT]),
         ", field messages[1].role: is 'user' for the second time in a row"),
        (make_row(messages=[USER, ASSISTANT, ASSISTANT]),
         ", field messages[2].role: is 'assistant' for the second time in a row"),
        (make_row(messages=[SYSTEM, ASSISTANT, USER, ASSISTANT]),
         ", field messages[1].role: is 'assistant', but the user speaks first"),
        (make_row(messages=[USER, SYSTEM, ASSISTANT]),
         ", field messages[1].role: is 'system', which may only be the first message"),
        (make_row(messages=[SYSTEM, USER, ASSISTANT, USER]),
         ", field messages: ends with a user message that has no reply"),
        (make_row(messages=[SYSTEM]), ", field messages: has a system prompt and nothing else"),
        (make_row(messages=[message("user", " \n"), ASSISTANT]),
         ", field messages[0].content: is empty"),
        (make_row(emotion="anxiouss"),
         ", field emotion: emotion 'anxiouss' is none of the 32 labels: did you mean 'anxious'?"),
        (make_row(emotion="?"), ", field emotion: emotion '?' is none of the 32 labels"),
        (make_row(situation="a\0b"), ", field situation: has a NUL character"),
        (make_row(messages=[USER, message("assistant", "a\0")]),
         ", field messages[1].content: has a NUL character"),
        (make_row(situation="\ud800"),
         ", field situation: has a lone surrogate, which is not a character"),
        (make_row(messages=[message("user", "\udfff"), ASSISTANT]),
         ", field messages[0].content: has a lone surrogate, which is not a character"),
        (broken("<|response_end|>", ""),
         ", field messages[1].content: the response span is not closed"),
        (broken("They are worried.<|understanding_end|><|reasoning_begin|>",
                "<|reasoning_begin|>They are worried.<|understanding_end|>"),
         ", field messages[1].content: the understanding span has another span inside"),
        (broken("<|response_begin|>", ""),
         ", field messages[1].content: the response span ends without having begun"),
        (with_gold(gold() + "<|response_begin|>b<|response_end|>"),
         ", field messages[1].content: the response span is there twice"),
        (broken("Take the time you need.", " "),
         ", field messages[1].content: the response span is empty"),
        (broken("<|emotion_begin|>anxious<|emotion_end|>", ""),
         ", field messages[1].content: the emotion span is missing"),
        (with_gold("".join(f"<|{n}_begin|>sad<|{n}_end|>" for n in reversed(SPAN_NAMES))),
         ", field messages[1].content: the spans are out of order"),
        (with_gold(gold(emotion="blue")),
         ", field messages[1].content: emotion 'blue' is none of the 32 labels"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_in_one_sentence_that_names_the_field(row, sentence):
    error = refusal(row)
    assert str(error) == f"test.jsonl line 7{sentence}"
    assert (error.file, error.line) == ("test.jsonl", 7)
    assert str(error).endswith(error.reason)
    assert error.field in sentence
    assert isinstance(error, DataError)


def test_what_the_source_could_not_read_is_a_bad_row():
    raw = RawRow("Jhcircle/KardiaBench test", 3, problem="is not UTF-8", counted="row")
    with pytest.raises(BadRow, match=r"^Jhcircle/KardiaBench test, row 3: is not UTF-8$"):
        read_row(raw)


def test_a_hint_ends_the_sentence():
    assert str(refusal([]).hinted("do this")).endswith("not an object (do this)")


def test_turns_have_the_history_and_the_gold_reply():
    first, second = turns_of(read(make_row()))
    assert (first.index, first.end, second.index, second.end) == (0, 2, 1, 4)
    assert [m.content for m in second.history] == ["I have an exam.", gold(), "Still here."]
    assert second.gold == gold()
    assert second.id == f"{second.dialogue.id}/1"


def test_the_gold_emotion_is_the_turns_own_where_it_has_one():
    messages = [*exchange(assistant=gold("Hopeful.")), *exchange(assistant="No tags.")]
    own, fallback = turns_of(read(make_row(messages=messages)))
    assert (own.gold_emotion, own.gold_source) == ("hopeful", "span")
    assert (fallback.gold_emotion, fallback.gold_source) == ("anxious", "dialogue")


def test_ids_are_the_same_in_every_version_of_the_program():
    dialogue = read(make_row())
    assert (dialogue.id, dialogue.persona_id) == ("d4bf8f1db8f1b3078", "pbfead89fe83b")


def test_ids_ignore_key_order_extra_fields_and_spelling_of_the_label():
    row = make_row()
    turned = dict(reversed(list(row.items()))) | {"emotion": "ANXIOUS", "anon_username": "other"}
    turned["messages"] = [{"content": m["content"], "role": m["role"]} for m in row["messages"]]
    assert read(turned).id == read(row).id


@pytest.mark.parametrize("field", ["person", "situation"])
def test_other_content_has_another_id(field):
    assert read(make_row(**{field: "other"})).id != read(make_row()).id


def test_a_persona_is_its_profile_whatever_the_white_space():
    assert persona_id("About:  me\n\nyou ") == persona_id(" About: me you")
    assert persona_id("About: me") != persona_id("About: us")


TEXT = st.text(max_size=30)
FILLED = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and "\0" not in text)


@given(
    person=FILLED,
    situation=FILLED,
    emotion=st.sampled_from(EMOTIONS),
    talk=st.lists(FILLED, min_size=1),
)
def test_any_text_survives_a_trip_through_json_with_its_id(person, situation, emotion, talk):
    messages = [m for text in talk for m in exchange(text, "I am here.")]
    row = make_row(person=person, situation=situation, emotion=emotion, messages=messages)
    again = json.loads(json.dumps(row))
    assert read(again) == read(row)
    assert [turn.history[-1].content for turn in turns_of(read(row))] == talk


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from(
    [("person",), ("mbti",), ("emotion",), ("situation",), ("messages",), ("messages", 1),
     ("messages", 1, "role"), ("messages", 2, "content")]
)  # fmt: skip


@given(place=PLACES, junk=JSON)
def test_junk_anywhere_is_accepted_or_refused_in_one_line_and_nothing_else(place, junk):
    row = copy.deepcopy(make_row())
    inner = row
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = junk
    try:
        read(row)
    except BadRow as error:
        assert "\n" not in str(error)
