"""`submit verify`: every figure is recomputed, and what differs is named."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_run import a_bundle, edit_json, edit_row, members, rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kardiabench import bundle_check
from kardiabench.bundle_archive import INDEX, TEXTS, TURNS
from kardiabench.bundle_check import ABSENT, Difference, compare, find_bundles, verify_bundle
from kardiabench.errors import ConfigError, RunError
from kardiabench.store import SUMMARY

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_bundle(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_bundle(tmp_path_factory.mktemp("full"), include_replies=True)


@pytest.fixture
def bundle(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(bare, tmp_path / "b.kardia.zip"))


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(value: Any, path: Path_) -> Any:
    for step in path:
        value = value[step]
    return value


def named(path: Path_) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)


def other(value: Any) -> Any:
    """Something like `value` that is not it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value < 1 else value * (1 + 1e-9)
    return "else" if value is None else [] if isinstance(value, dict) else f"{value}x"


def test_a_bundle_holds(bare: Path, full: Path):
    assert verify_bundle(bare) == verify_bundle(full) == []


# --- figures --------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_figure_of_the_summary_that_was_changed_is_named(
    bare: Path, tmp_path: Path, data: st.DataObject
):
    summary = json.loads(members(bare)[SUMMARY])
    path = data.draw(st.sampled_from(sorted(leaves(summary), key=str)))
    bundle = Path(shutil.copy(bare, tmp_path / "b.kardia.zip"))

    def edit(value: Any) -> None:
        at(value, path[:-1])[path[-1]] = other(at(value, path))

    rewrite(bundle, SUMMARY, edit_json(edit))
    (found,) = verify_bundle(bundle)
    assert found == Difference(f"summary{named(path)}", other(at(summary, path)), at(summary, path))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_figure_that_was_taken_out_or_put_in_is_named(
    bare: Path, tmp_path: Path, data: st.DataObject
):
    summary = json.loads(members(bare)[SUMMARY])
    inside = [p[:-1] for p in leaves(summary) if isinstance(p[-1], str)]
    path = data.draw(st.sampled_from(sorted(set(inside), key=str)))
    key = data.draw(st.sampled_from([*sorted(at(summary, path)), "more"]))
    bundle = Path(shutil.copy(bare, tmp_path / "b.kardia.zip"))

    def edit(value: Any) -> None:
        place = at(value, path)
        if place.pop(key, None) is None:
            place[key] = 3

    rewrite(bundle, SUMMARY, edit_json(edit))
    found = verify_bundle(bundle)
    assert found
    assert all(one.where.startswith(f"summary{named((*path, key))}") for one in found)


def test_a_figure_that_a_later_version_added_is_no_difference(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    rewrite(bundle, SUMMARY, edit_json(lambda summary: summary.pop("skipped_rows")))
    assert verify_bundle(bundle) == [Difference("summary.skipped_rows", ABSENT, 1)]
    monkeypatch.setattr("kardiabench.__version__", "99.0")
    assert verify_bundle(bundle) == []
    rewrite(bundle, SUMMARY, edit_json(lambda summary: summary.update(complete=3)))
    assert [found.where for found in verify_bundle(bundle)] == ["summary.complete"]


@pytest.mark.parametrize(
    ("packed", "recomputed", "count"),
    [
        (1, 1.0, 0),
        (0.1 + 0.2, 0.3, 0),
        (1.0, 1.0 + 1e-11, 1),
        (0.0, 1e-300, 0),
        (True, 1, 1),
        (None, 0, 1),
        ("1", 1, 1),
        ([1, 2], [1], 1),
        ([], {}, 1),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, 1),
        ({}, {"a": None}, 1),
    ],
)
def test_values_are_compared_by_kind_and_numbers_to_their_last_digits(
    packed: Any, recomputed: Any, count: int
):
    assert len(list(compare("x", packed, recomputed))) == count
    assert len(list(compare("x", recomputed, packed))) == count


# --- rows -----------------------------------------------------------------------------------------


def put(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        at(value, path[:-1])[path[-1]] = to

    return change


ROW_EDITS = {
    "persona": put("persona_id", to="p9"),
    "gold": put("gold_emotion", to="sad"),
    "source": put("gold_source", to="dialogue"),
    "status": put("status", to="truncated"),
    "predicted": put("predicted", to="sad"),
    "no prediction": put("predicted", to=None),
    "problems": put("problems", to=["order"]),
    "tokens": put("usage", "completion_tokens", to=999),
    "price": put("usage", "cost", to=0.25),
    "score": put("verdicts", "rubric", "scores", 0, to=4.5),
    "no score": put("verdicts", "rubric", "scores", 1, to=None),
    "judge's price": put("verdicts", "rubric", "usage", "cost", to=0.0),
    "sample": put("verdicts", "rubric", "parts", 0, 0, to=3.25),
    "verdict": put("verdicts", "rubric", "status", to="ok"),
    "emotion": put("verdicts", "emotion", "scores", 0, to=0.0),
    "format": put("verdicts", "format", "scores", 0, to=0.0),
    "left out": lambda row: row["verdicts"].pop("rubric"),
    "words": put("words", "emotion", to=None),
}


@pytest.mark.parametrize("name", ROW_EDITS)
def test_a_row_that_was_changed_shows_in_figures_or_against_itself(bundle: Path, name: str):
    rewrite(bundle, TURNS, edit_row(1, ROW_EDITS[name]))
    assert verify_bundle(bundle)


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("judge", ["emotion", "format"])
def test_judges_that_are_rules_are_judged_anew(bundle: Path, number: int, judge: str):
    """Even where the summary was made to fit."""
    row = json.loads(members(bundle)[TURNS].splitlines()[number])
    score = row["verdicts"][judge]["scores"][0]
    cheated = {"status": "ok", "scores": [1.0 if score is None else 1.0 - score]}
    rewrite(bundle, TURNS, edit_row(number, put("verdicts", judge, to=cheated)))
    wheres = {found.where for found in verify_bundle(bundle)}
    assert f"turns.{row['turn_id']}.verdicts.{judge}.scores[0]" in wheres


def test_a_rule_that_failed_is_missing_coverage_and_no_difference(bundle: Path):
    row = edit_row(1, put("verdicts", "format", to={"status": "error", "scores": [None]}))
    rewrite(bundle, TURNS, row)
    assert not [one for one in verify_bundle(bundle) if one.where.startswith("turns.")]


def test_a_row_that_was_left_out_shows(bundle: Path):
    rewrite(bundle, TURNS, lambda content: content[content.index(b"\n") + 1 :])
    assert "summary.turns.answered" in {found.where for found in verify_bundle(bundle)}


def test_a_mean_of_samples_is_checked_for_each_dimension(bundle: Path):
    rewrite(bundle, TURNS, edit_row(1, put("verdicts", "rubric", "parts", 1, 1, to=1.0)))
    assert [str(found) for found in verify_bundle(bundle)] == [
        "turns.d0/1.verdicts.rubric.clear is 5.0, its rows give 3.0"
    ]


# --- texts ----------------------------------------------------------------------------------------


TEXT_EDITS = {
    "another emotion": (1, put("spans", "emotion", to="joyful"), "turns.d0/1.predicted"),
    "a longer response": (1, put("spans", "response", to="a b c d e"), "turns.d0/1.words.response"),
    "a span less": (1, put("spans", "response", to=None), "turns.d0/1.problems[0]"),
    "another text": (3, put("raw", to="<response>x</response>"), "texts.d1/1.spans.response"),
    "no raw text": (3, put("raw", to=None), None),
    "a text of an error": (7, put("spans", "emotion", to="sad"), "turns.d3/1.predicted"),
}


@pytest.mark.parametrize("name", TEXT_EDITS)
def test_replies_are_read_again(full: Path, tmp_path: Path, name: str):
    number, change, where = TEXT_EDITS[name]
    bundle = Path(shutil.copy(full, tmp_path / "b.kardia.zip"))
    rewrite(bundle, TEXTS, edit_row(number, change))
    found = {one.where for one in verify_bundle(bundle)}
    assert found if where else not found  # four missing spans are four missing spans
    assert where is None or where in found


def test_replies_that_were_left_out_show(full: Path, tmp_path: Path):
    bundle = Path(shutil.copy(full, tmp_path / "b.kardia.zip"))
    rewrite(bundle, TEXTS, lambda content: content[content.index(b"\n") + 1 :])
    assert [found.where for found in verify_bundle(bundle)] == ["texts"]


# --- bundles --------------------------------------------------------------------------------------


def test_a_changed_member_is_an_error_and_no_list_of_differences(bundle: Path):
    rewrite(bundle, TURNS, edit_row(1, ROW_EDITS["score"]), fix=False)
    with pytest.raises(RunError, match=r"turns\.jsonl: it was changed since it was packed"):
        verify_bundle(bundle)


def test_bundles_are_found_in_folders_each_once(bare: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    first = Path(shutil.copy(bare, tmp_path / "b.kardia.zip"))
    second = Path(shutil.copy(bare, tmp_path / "in" / "a.kardia.zip"))
    (tmp_path / "in" / "notes.txt").write_text("")
    assert find_bundles([tmp_path, first]) == [first, second]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no bundle"):
        find_bundles([tmp_path / "empty"])


def test_copies_of_one_run_have_one_id(bare: Path, tmp_path: Path):
    copies = [Path(shutil.copy(bare, tmp_path / f"{n}.kardia.zip")) for n in "ab"]
    ids = {json.loads(members(path)[INDEX])["run_id"] for path in copies}
    assert len(ids) == 1


def test_a_long_value_is_cut_in_the_sentence():
    sentence = str(Difference("summary.model", "x" * 500, None))
    assert len(sentence) < 150
    assert sentence.endswith("its rows give None")
    assert copy.copy(bundle_check.EMOTION_RULE) != bundle_check.FORMAT_RULE


# --- the data -------------------------------------------------------------------------------------


def edit_turns(change: Callable[[dict[str, Any]], None], stop: int | None = None):
    """For `rewrite`: change every row, in place, and keep the first `stop`."""

    def edit(content: bytes) -> bytes:
        rows = [json.loads(line) for line in content.splitlines()][:stop]
        for row in rows:
            change(row)
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    return edit


def another_dialogue(row: dict[str, Any]) -> None:
    row["turn_id"] = row["turn_id"].replace("d5/", "invented/")


def another_persona(row: dict[str, Any]) -> None:
    row["persona_id"] = row["turn_id"].split("/")[0]


def two_personas(row: dict[str, Any]) -> None:
    row["persona_id"] = f"p{row['turn_id'][-1]}"


def another_source(row: dict[str, Any]) -> None:
    row["gold_source"] = "dialogue"


@pytest.mark.parametrize(
    ("change", "stop", "where"),
    [
        (another_dialogue, None, "manifest.protocol.dataset.fingerprint"),
        (another_persona, None, "manifest.protocol.dataset.personas"),
        (another_persona, 9, "manifest.protocol.dataset.personas"),
        (two_personas, None, "turns.d0/1.persona_id"),
        (another_source, None, "manifest.protocol.gold_emotion.span"),
        (another_source, 3, "manifest.protocol.gold_emotion.dialogue"),
    ],
)
def test_rows_that_are_not_of_the_protocols_data_are_named(
    bundle: Path, change: Any, stop: int | None, where: str
):
    rewrite(bundle, TURNS, edit_turns(change, stop))
    assert where in [found.where for found in verify_bundle(bundle)]
