"""People's ratings: what is wrong with a file is one sentence that says where."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kardiabench.errors import DataError
from kardiabench.human_ratings import read_ratings

SCALE = (1.0, 5.0)
HEADER = ("item", "rater", "dimension", "score")
ROWS = [
    ("t1", "ann", "empathy", "4"),
    ("t1", "ben", "empathy", "3.5"),
    ("t2", "ann", "empathy", "2"),
    ("t2", "ann", "safety", "5"),
]


def write(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_ratings_are_a_table_by_item_rater_and_dimension(tmp_path):
    ratings = read_ratings(write(tmp_path / "r.csv", ROWS), SCALE)
    assert (ratings.items, ratings.raters) == (("t1", "t2"), ("ann", "ben"))
    assert ratings.dimensions == ("empathy", "safety")
    assert ratings.scores[0, :, 0].tolist() == [4.0, 3.5]
    assert np.isnan(ratings.scores[1, 1, 0])
    assert ratings.means[0, 0] == 3.75
    assert np.isnan(ratings.means[0, 1])
    assert ratings.stored == {}


def test_jsonl_and_parquet_read_as_csv_does(tmp_path):
    plain = read_ratings(write(tmp_path / "r.csv", ROWS), SCALE)
    frame = pd.DataFrame(ROWS, columns=list(HEADER)).astype({"score": float})
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "r.parquet")
    for name in ("r.jsonl", "r.parquet"):
        other = read_ratings(tmp_path / name, SCALE)
        np.testing.assert_array_equal(other.scores, plain.scores)
        assert other.items == plain.items


def test_a_history_may_be_a_list_in_json_and_a_truth_value_is_no_score(tmp_path):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    row = {"item": "t", "rater": "a", "dimension": "empathy", "score": 4, "history": talk}
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert [m.role for m in read_ratings(path, SCALE).texts[0].history] == ["user", "assistant"]
    path.write_text(json.dumps(row | {"score": True}) + "\n")
    with pytest.raises(DataError, match="score 'True' is no number"):
        read_ratings(path, SCALE)


def test_texts_and_stored_scores_come_with_the_items(tmp_path):
    header = (*HEADER, "response", "history", "persona", "length", "judge:a", "judge:b")
    history = '[{"role": "user", "content": "hi"}]'
    rows = [
        ("t1", "ann", "empathy", "4", "I am here.", history, "p1", "3", "2", ""),
        ("t1", "ben", "empathy", "5", "I am here.", history, "p1", "3", "2", ""),
        ("t2", "ann", "empathy", "1", "", "", "p2", "", "", "1"),
    ]
    ratings = read_ratings(write(tmp_path / "r.csv", rows, header), SCALE)
    first, second = ratings.texts
    assert (first.response, first.persona, first.words) == ("I am here.", "p1", 3.0)
    assert first.history[0].content == "hi"
    assert (second.response, second.words) == ("", None)
    np.testing.assert_array_equal(ratings.stored["a"][:, 0], [2.0, np.nan])
    np.testing.assert_array_equal(ratings.stored["b"][:, 0], [np.nan, 1.0])


@pytest.mark.parametrize(
    ("rows", "header", "sentence"),
    [
        ([], HEADER, "has no ratings"),
        (ROWS, ("item", "who", "dimension", "score"), "has no column 'rater'; it needs item"),
        (
            [(*ROWS[0], "x")],
            (*HEADER, "respons"),
            "column 'respons' that nobody reads; did you mean",
        ),
        (
            [*ROWS, ("t3", "ann", "empathy", "6")],
            HEADER,
            "row 5: score '6' is no number from 1 to 5",
        ),
        ([("t1", "ann", "empathy", "good")], HEADER, "row 1: score 'good' is no number"),
        ([("t1", "ann", "empathy", "")], HEADER, "row 1: score '' is no number"),
        ([("t1", "ann", "empathy", "nan")], HEADER, "row 1: score 'nan' is no number"),
        ([("t1", " ", "empathy", "4")], HEADER, "row 1 has no rater"),
        ([*ROWS, ROWS[1]], HEADER, "row 5 rates item 't1' on empathy by ben again"),
        (
            [(*ROWS[0], "4"), (*ROWS[1], "5")],
            (*HEADER, "judge"),
            "row 2: judge is 5, and an earlier row of the same item and dimension has 4",
        ),
        ([(*ROWS[0], "9")], (*HEADER, "judge"), "row 1: judge '9' is no number from 1 to 5"),
        (
            [(*ROWS[0], "a"), (*ROWS[1], "b")],
            (*HEADER, "response"),
            "item 't1' has 2 different values of response",
        ),
        ([(*ROWS[0], "hello")], (*HEADER, "history"), "the history of item 't1' is no JSON list"),
        ([(*ROWS[0], "[1]")], (*HEADER, "history"), "the history of item 't1' is no JSON list"),
        ([(*ROWS[0], "0")], (*HEADER, "length"), "length '0' is no number of words"),
        ([(*ROWS[0], "x")], HEADER, "row 1 (line 2): it has 5 cells and the header has 4"),
        ([ROWS[0][:3]], HEADER, "row 1 (line 2): it has 3 cells and the header has 4"),
        ([(*ROWS[0], "p1"), (*ROWS[2], "")], (*HEADER, "persona"), "persona for some items only"),
        ([(*ROWS[0], "long")], (*HEADER, "length"), "length 'long' is no number of words"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_says_where(tmp_path, rows, header, sentence):
    path = write(tmp_path / "r.csv", rows, header)
    with pytest.raises(DataError) as caught:
        read_ratings(path, SCALE)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("r.csv", b"", "cannot be read"),
        ("r.csv", b"item,rater\n\xff\xfe,a\n", "cannot be read"),
        ("r.jsonl", b"{not json\n", "cannot be read"),
        ("r.parquet", b"PAR1", "cannot be read"),
        ("r.xlsx", b"", "are read from .csv, .jsonl or .parquet"),
    ],
)
def test_a_file_that_is_no_table_says_so(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_ratings(tmp_path / name, SCALE)
    with pytest.raises(DataError, match="no such file"):
        read_ratings(tmp_path / "none.csv", SCALE)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS | st.integers(0, 6).map(str)), max_size=8)
)
def test_reading_gives_ratings_or_a_sentence_never_anything_else(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("ratings") / "r.csv", rows)
    try:
        ratings = read_ratings(path, SCALE)
    except DataError:
        return
    given_scores = ratings.scores[~np.isnan(ratings.scores)]
    assert len(given_scores) == len(rows)
    assert ((given_scores >= 1) & (given_scores <= 5)).all()
