"""Loading a dataset: selection, bad rows, counts, fingerprints, streaming."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rowdata import exchange, gold, in_memory, make_row, write_rows

from kardiabench.dialogues import load
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError, DataError
from kardiabench.rows import BadRow
from kardiabench.sampling import Candidate, Selection, choose
from kardiabench.sources import open_path

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        persona_id=st.sampled_from("pqrst"),
        emotion=st.sampled_from(EMOTIONS[:6]),
    ),
    unique_by=lambda candidate: candidate.id,
    max_size=40,
)


def grid(personas: int, emotions: int, each: int) -> list[Candidate]:
    return [
        Candidate(f"{p * 31 + e * 17 + n * 7919:08x}{p}-{e}-{n}", f"p{p}", EMOTIONS[e])
        for p in range(personas)
        for e in range(emotions)
        for n in range(each)
    ]


def rows(n: int) -> list[object]:
    return [make_row(number, emotion=EMOTIONS[number % 5]) for number in range(n)]


# --- the sample of N ----------------------------------------------------------------------------


@given(CANDIDATES, st.randoms(use_true_random=False), st.integers(1, 45), st.integers(1, 6))
def test_a_sample_does_not_depend_on_the_order_of_the_rows(candidates, shuffler, limit, personas):
    shuffled = list(candidates)
    shuffler.shuffle(shuffled)
    selection = Selection(limit=limit, limit_personas=personas)
    assert choose(shuffled, selection) == choose(candidates, selection)


@given(CANDIDATES, st.integers(1, 20), st.integers(0, 20))
def test_a_small_sample_is_inside_every_larger_one(candidates, small, more):
    larger = choose(candidates, Selection(limit=small + more))
    assert choose(candidates, Selection(limit=small)) == larger[:small]
    assert len(larger) == min(small + more, len(candidates))


@given(CANDIDATES, st.integers(1, 40))
def test_personas_have_equal_shares_while_they_last(candidates, limit):
    chosen = set(choose(candidates, Selection(limit=limit)))
    shares = Counter(c.persona_id for c in candidates if c.id in chosen)
    sizes = Counter(c.persona_id for c in candidates)
    most = max(shares.values(), default=0)
    assert all(shares[p] >= min(most - 1, sizes[p]) for p in sizes)


@pytest.mark.parametrize("limit", [6, 12, 24, 31])
def test_emotions_are_spread_evenly(limit):
    candidates = grid(personas=4, emotions=6, each=3)
    chosen = set(choose(candidates, Selection(limit=limit)))
    shares = Counter(c.emotion for c in candidates if c.id in chosen)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert len(shares) == 6


def test_a_sample_is_not_the_first_n():
    found = load(in_memory(rows(40)), Selection(limit=8))
    assert {d.situation for d in found} != {row["situation"] for row in rows(8)}


def test_a_sample_is_the_same_under_every_hash_seed():
    code = (
        "from kardiabench.sampling import *\n"
        "c = [Candidate(str(n * 7919 % 997), f'p{n % 7}', f'e{n % 5}') for n in range(300)]\n"
        "print(choose(c, Selection(limit=40, limit_personas=5)))"
    )
    answers = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("0", "1", "2")
    }
    assert len(answers) == 1


def test_fewer_personas_are_inside_more():
    candidates = grid(personas=5, emotions=2, each=2)
    two, four = (set(choose(candidates, Selection(limit_personas=n))) for n in (2, 4))
    assert two < four
    assert len(two) == 2 * 4


def test_twenty_thousand_rows_are_sampled_at_once():
    shuffled = grid(personas=639, emotions=32, each=1)
    random.Random(1).shuffle(shuffled)
    assert len(choose(shuffled, Selection(limit=19_533))) == 19_533


def test_the_emotion_filter_takes_any_spelling():
    found = load(in_memory(rows(20)), Selection(emotions=(" Afraid", "ANGRY")))
    assert {d.emotion for d in found} == {"afraid", "angry"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"emotions": ("anxiouss",)}, "did you mean 'anxious'?"),
        ({"limit": 0}, "--limit is 0"),
        ({"limit_personas": -1}, "--limit-personas is -1"),
    ],
)
def test_an_impossible_selection_is_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?")):
        Selection(**options)


# --- loading ------------------------------------------------------------------------------------


def test_dialogues_stream_in_the_datasets_order_again_and_again():
    found = load(in_memory(rows(10)))
    situations = [row["situation"] for row in rows(10)]
    assert [d.situation for d in found] == [d.situation for d in found] == situations
    assert (found.n_dialogues, found.n_turns, found.n_personas) == (10, 20, 4)


def test_turns_come_dialogue_by_dialogue():
    found = load(in_memory(rows(3)))
    assert [turn.id for turn in found.turns()] == [f"{d.id}/{at}" for d in found for at in (0, 1)]


def test_the_fingerprint_is_of_the_chosen_content_alone():
    source, turned = in_memory(rows(10)), in_memory(rows(10)[::-1], {"name": "other"})
    assert load(source).fingerprint == load(turned).fingerprint
    assert len(load(source).fingerprint) == 16
    assert load(source, Selection(limit=3)).fingerprint != load(source).fingerprint
    changed = [*rows(9), make_row(9, situation="another")]
    assert load(in_memory(changed)).fingerprint != load(source).fingerprint


def test_gold_sources_are_counted_by_turn():
    mixed = make_row(messages=[*exchange(), *exchange("b", "No tags."), *exchange("c", "None.")])
    assert load(in_memory([mixed])).gold_sources == {"span": 1, "dialogue": 2}


def test_characters_are_those_of_every_prompt_and_every_gold_reply():
    row = make_row(messages=[{"role": "system", "content": "12345"}, *exchange("123", "1234567"),
                             *exchange("12", "1")])  # fmt: skip
    assert load(in_memory([row])).characters == ((5 + 3) + (5 + 3 + 7 + 2), 7 + 1)


def test_the_first_bad_row_stops_and_says_how_to_go_on():
    with pytest.raises(BadRow, match=r"^mem\.jsonl line 3, field mbti: is a number, not text \("):
        load(in_memory([*rows(2), make_row(2, mbti=4)]))


def test_a_repeated_row_names_the_first():
    again = make_row(0, emotion=EMOTIONS[0], anon_username="else")
    with pytest.raises(BadRow, match=r"line 4: is the same dialogue as line 1 \("):
        load(in_memory([*rows(3), again]))


def test_a_row_repeated_in_another_file_names_that_file(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write_rows(tmp_path / name, rows(1))
    with pytest.raises(BadRow, match=r"b\.jsonl line 1: is the same dialogue as .*a\.jsonl line 1"):
        load(open_path(str(tmp_path), None, None))


def test_skipped_rows_are_counted_and_the_first_twenty_told():
    bad = [make_row(number, mbti=None) for number in range(30)]
    found = load(in_memory([*bad, *rows(4), rows(1)[0]]), on_bad_row="skip")
    assert (found.rows_read, found.n_skipped, found.n_dialogues) == (35, 31, 4)
    assert len(found.skipped) == 20
    assert found.skipped[0] == "mem.jsonl line 1, field mbti: is null, not text"
    assert len(list(found)) == 4


@pytest.mark.parametrize(
    ("content", "selection", "sentence"),
    [
        ([], None, r"mem \(all\) has no rows"),
        ([{}, []], None, r"no usable row: all 2 were skipped.*line 1, field person: is missing"),
        (
            rows(3),
            Selection(emotions=("sad", "proud")),
            "--emotions proud,sad leaves none of the 3",
        ),
    ],
)
def test_nothing_to_use_is_an_error_that_says_why(content, selection, sentence):
    with pytest.raises(DataError, match=sentence):
        load(in_memory(content), selection, "skip")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop(),
        lambda content: content.append(make_row(99)),
        lambda content: content.reverse(),
        lambda content: content.__setitem__(1, {}),
        lambda content: content.__setitem__(1, make_row(1, situation="edited")),
    ],
    ids=["shorter", "longer", "reordered", "broken", "edited"],
)
def test_a_dataset_that_changes_between_passes_is_an_error(change):
    content = rows(4)
    found = load(in_memory(content))
    change(content)
    with pytest.raises(DataError, match="changed while the dataset was in use"):
        list(found)


def peak_of_loading(path) -> int:
    tracemalloc.start()
    try:
        assert sum(1 for _ in load(open_path(str(path), None, None)).turns()) > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_text(tmp_path):
    list(load(in_memory(rows(1))))
    path = tmp_path / "big.jsonl"
    big = "x" * 100_000
    write_rows(path, (make_row(n, messages=exchange(big, gold(response=big))) for n in range(150)))
    assert path.stat().st_size > 30_000_000
    assert peak_of_loading(path) < 3_000_000
