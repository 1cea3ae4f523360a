"""Test data in training data: shared ids are refused, near-duplicates are found."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rowdata import in_memory, make_row

from kardiabench.dialogues import Dialogues, load
from kardiabench.errors import DataError
from kardiabench.plugins import load_registry
from kardiabench.rows import persona_id
from trainer.leakage import check_leakage

Row = dict[str, Any]
PROFILE = (
    "MBTI: ISTP\nAbout: I repair clocks above a bakery, and I have kept bees since the winter my "
    "father sold his boat; I swim in the harbour before anyone is up."
)


@cache
def sample_lines(split: str) -> tuple[str, ...]:
    source = load_registry().open_dataset("sample", split)
    return tuple(json.dumps(raw.value) for raw in source.rows())


def sample(split: str) -> list[Row]:
    return [json.loads(line) for line in sample_lines(split)]


def opened(rows: list[Row], name: str = "mem") -> Dialogues:
    return load(in_memory(list(rows), {"name": name, "split": "all"}))


def row_id(row: Row) -> str:
    return opened([row]).entries[0].id


def edited(text: str, rng: random.Random, share: float) -> str:
    """`text` with that share of its words lost, doubled or replaced."""
    words = text.split(" ")
    for at in rng.sample(range(len(words)), int(len(words) * share)):
        words[at] = rng.choice(["", f"{words[at]} {words[at]}", "otherwise"])
    return " ".join(words)


def lightly_edited(row: Row, rng: random.Random, share: float) -> Row:
    """A copy for another person, with changes in all that the user says."""
    copy: Row = json.loads(json.dumps(row))
    copy |= {"person": PROFILE, "situation": edited(row["situation"], rng, share)}
    for message in copy["messages"]:
        if message["role"] == "user":
            message["content"] = edited(message["content"], rng, share)
    return copy


def test_a_shared_dialogue_is_refused_by_id_and_never_by_text() -> None:
    train, test = [make_row(n) for n in range(5)], [make_row(3), make_row(4), make_row(9)]
    first = min(row_id(make_row(3)), row_id(make_row(4)))
    with pytest.raises(DataError) as caught:
        check_leakage(opened(train), opened(test))
    assert str(caught.value).startswith("2 of the 3 dialogues of the test data are in the training")
    assert first in str(caught.value)
    assert "Exam" not in str(caught.value)


def test_a_shared_persona_is_refused_although_its_dialogues_differ() -> None:
    with pytest.raises(DataError) as caught:
        check_leakage(opened([make_row(0), make_row(1)]), opened([make_row(4), make_row(2)]))
    assert "1 of the 2 personas of the test data" in str(caught.value)
    assert persona_id(make_row(0)["person"]) in str(caught.value)


def test_the_parts_of_the_sample_have_nothing_in_common() -> None:
    assert check_leakage(opened(sample("train")), opened(sample("test"))) == ()


@settings(max_examples=15)
@given(
    at=st.integers(0, len(sample_lines("test")) - 1),
    seed=st.integers(0, 2**32),
    share=st.floats(0, 0.1),
)
def test_a_lightly_edited_copy_of_another_person_is_found(at: int, seed: int, share: float) -> None:
    test = sample("test")
    copy = lightly_edited(test[at], random.Random(seed), share)
    notes = check_leakage(opened([*sample("train"), copy]), opened(test))
    assert f"near-duplicates of dialogues: 1 of {len(test)} in" in notes[0]
    assert f"{row_id(test[at])} and {row_id(copy)}" in notes[0]
    assert "profiles" not in " ".join(notes)


def test_a_text_is_not_quoted_in_a_note() -> None:
    test = sample("test")
    notes = check_leakage(opened([test[0] | {"person": PROFILE}]), opened(test[:1]))
    assert "(1.00)" in notes[0]
    assert test[0]["situation"][:20] not in " ".join(notes)


def test_an_edited_profile_under_another_id_is_found_once_for_all_its_dialogues() -> None:
    test = make_row(0, person=PROFILE)
    train = [make_row(n, person=PROFILE.replace("bakery", "chemist")) for n in (1, 2, 3)]
    notes = [n for n in check_leakage(opened(train), opened([test])) if "profiles" in n]
    assert len(notes) == 1
    assert "profiles: 1 of 1 in the test data have one in the training data (1 pairs;" in notes[0]
    assert f"{persona_id(PROFILE)} and {persona_id(train[0]['person'])}" in notes[0]


def test_the_same_situation_in_another_conversation_is_found() -> None:
    """Not what is said around it: the two dialogues have nothing else in common."""
    train, test = sample("train"), sample("test")
    train[0]["situation"] = test[0]["situation"]
    (note,) = check_leakage(opened(train), opened(test))
    assert note.startswith(f"near-duplicates of situations: 1 of {len(test)} in")


def test_the_three_likest_pairs_are_named_and_all_are_counted() -> None:
    test = sample("test")
    rng = random.Random(0)
    shares = (0.0, 0.02, 0.04, 0.1, 0.12)
    train = [
        lightly_edited(test[0], rng, share) | {"person": f"{PROFILE} {share}"} for share in shares
    ]
    note = check_leakage(opened(train), opened(test))[0]
    assert "(5 pairs;" in note
    places = [note.index(row_id(row)) for row in train[:3]]
    assert places == sorted(places)
    assert not any(row_id(row) in note for row in train[3:])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    test = sample("test")
    rng = random.Random(1)
    copies = [lightly_edited(row, rng, 0.05) for row in test]
    train, known = opened([*sample("train"), *copies]), opened(test)
    whole = check_leakage(train, known)
    monkeypatch.setattr("trainer.leakage._BLOCK", 3)
    assert check_leakage(train, known) == whole
    assert f"{len(test)} of {len(test)} in" in whole[0]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "我昨天在车站把母亲留给我的旧手表弄丢了今天一整天都在找它可是没有人看见"
    rows = [
        make_row(0, person=PROFILE, situation=text),
        make_row(1, situation=text.replace("母亲", "父亲")),
    ]
    notes = check_leakage(opened(rows[:1]), opened(rows[1:]))
    assert any(note.startswith("near-duplicates of situations: 1 of 1") for note in notes)


def test_texts_too_short_to_compare_are_no_trouble() -> None:
    rows = [make_row(n, person=f"P{n}", situation="Sad.") for n in range(2)]
    notes = check_leakage(opened(rows[:1]), opened(rows[1:]))
    assert not any("situations" in note or "profiles" in note for note in notes)


def test_without_texts_ids_alone_are_checked() -> None:
    test = sample("test")
    copy = test[0] | {"person": PROFILE}
    assert check_leakage(opened([copy]), opened(test), ()) == ()
    with pytest.raises(DataError):
        check_leakage(opened(test[:1]), opened(test), ())
