"""The calibration file, and what runs make of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_process import Cli, Result
from hypothesis import given
from hypothesis import strategies as st
from rundata import StubJudge, make_manifest, make_run, make_turn, say

from kardiabench.calibration import (
    calibrated_columns,
    calibrated_means,
    check_calibration,
    keep_calibration,
    kept_calibration,
    make_calibration,
    read_calibration,
)
from kardiabench.curves import apply_curve, fit_curve
from kardiabench.errors import ConfigError
from kardiabench.files import write_json
from kardiabench.fingerprints import fingerprint
from kardiabench.frames import load_run
from kardiabench.records import Dimension, Reply, Verdict
from kardiabench.results import read_results
from kardiabench.stats import estimate
from kardiabench.store import discard
from kardiabench.summary import summarise

PLUGIN = '''
import os

from kardiabench.fingerprints import fingerprint
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Verdict

KARDIABENCH_API = 1


class Counting:
    """Scores by the turn's place in its dialogue."""

    name = "counting"
    dimensions = (Dimension("warmth", 1.0, 5.0, "warm"), Dimension("depth", 1.0, 5.0, "deep"))

    def __init__(self, version):
        self.identity = {"judge": "counting", "version": version}

    async def judge(self, items):
        return [self.verdict(item.turn) for item in items]

    def verdict(self, turn):
        scores = {"warmth": float(1 + turn.index % 5), "depth": 3.0}
        return Verdict(turn.id, self.name, fingerprint(self.identity), scores)


@hookimpl
def register_judges(register):
    register("counting", lambda options, context: Counting(os.environ.get("VERSION", "1")))
'''


def a_curve(**changes: Any) -> dict[str, Any]:
    rectifier = {"mean": 0.25, "standard_error": 0.1, "df": 59, "clusters": 60}
    curve = {"x": [1.0, 5.0], "y": [1.0, 3.0], "low": 1.0, "high": 5.0, "items": 60}
    return curve | {"rectifier": rectifier} | changes


def a_calibration(mark: str | None = "f" * 16, **curves: Any) -> dict[str, Any]:
    about = {"sha256": "0" * 64, "raters": 3, "items": 60}
    return make_calibration("stub", mark, curves or {"d": a_curve()}, {}, about)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_calibration(path)
    return str(caught.value)


def test_what_is_written_is_what_is_read(tmp_path: Path):
    random = np.random.default_rng(0)
    judge = random.integers(1, 6, 80).astype(float)
    people = np.clip(judge - 1 + random.normal(0, 0.4, 80), 1, 5)
    curve = fit_curve(judge, people, None, 1.0, 5.0)
    flat = fit_curve(np.full(80, 4.0), people, None, 1.0, 5.0)
    assert (flat["note"], "note" in curve) == ("judge gives one score only", False)
    made = make_calibration("j", "f" * 16, {"d": curve, "e": flat}, {"g": "too few"}, {"raters": 3})
    write_json(tmp_path / "c.json", made)
    again = read_calibration(tmp_path / "c.json")
    assert again == made
    grid = np.linspace(0, 6, 30)
    for name in ("d", "e"):
        ours = apply_curve(again["dimensions"][name], grid)
        assert np.array_equal(ours, apply_curve(made["dimensions"][name], grid))


def test_a_calibration_that_is_not_there_says_how_one_is_made(tmp_path: Path):
    assert refusal(tmp_path / "no.json") == (
        f"{tmp_path / 'no.json'}: there is no such calibration; make one with: "
        "kardiabench judges calibrate --human FILE --out FILE"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "can't decode byte"),
        (b"[]", "valid dictionary"),
        (b'{"model": "x", "complete": true}', "Field required"),
        (b"[" * 200_000, "recursion"),
        (b'{"calibration_version": 1, "judge"', "Expecting"),
    ],
)
def test_files_of_other_kinds_are_refused_in_a_sentence(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "c.json").write_bytes(content)
    sentence = refusal(tmp_path / "c.json")
    assert "is no calibration that this version can use" in sentence
    assert why in sentence
    assert "make it again with: kardiabench judges calibrate" in sentence
    assert "\n" not in sentence


def test_a_folder_is_no_calibration(tmp_path: Path):
    assert "is no calibration that this version can use" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"x": [1.0, 5.0]', '"x": ["1", "5"]', "the curve of d holds what is no number"),
        ('"x": [1.0, 5.0]', '"x": [false, true]', "the curve of d holds what is no number"),
        ('"x": [1.0, 5.0]', '"x": [1.0, 1e999]', "the curve of d holds what is no number"),
        ('"mean": 0.25', '"mean": -1e400', "the curve of d holds what is no number"),
        ('"x": [1.0, 5.0]', '"x": [1.0, Infinity]', "holds Infinity, which is no number"),
        ('"x": [1.0, 5.0]', '"x": [5.0, 5.0]', "the curve of d is none"),
        ('"x": [1.0, 5.0]', '"x": [1.0, 2.0, 5.0]', "the curve of d is none"),
        ('"y": [1.0, 3.0]', '"y": [3.0, 1.0]', "the curve of d is none"),
        ('"y": [1.0, 3.0]', '"y": [0.5, 3.0]', "the curve of d is none"),
        ('"mean": 0.25', '"mean": null', "should be a valid number"),
        ('"standard_error": 0.1', '"standard_error": -0.1', "the rectifier of d is none"),
        ('"df": 59', '"df": 0', "the rectifier of d is none"),
        ('"calibration_version": 1', '"calibration_version": 2', "Input should be 1"),
    ],
)
def test_edited_files_are_refused_in_a_sentence(tmp_path: Path, old: str, new: str, why: str):
    text = json.dumps(a_calibration())
    assert text.count(old) == 1
    (tmp_path / "c.json").write_text(text)
    read_calibration(tmp_path / "c.json")
    (tmp_path / "c.json").write_text(text.replace(old, new))
    assert why in refusal(tmp_path / "c.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
PLACES = st.sampled_from(
    [(), ("judge",), ("judge", "fingerprint"), ("dimensions",), ("dimensions", "d")]
    + [("dimensions", "d", key) for key in a_curve()]
    + [("dimensions", "d", "rectifier", key) for key in a_curve()["rectifier"]]
)


@given(PLACES, JSON)
def test_a_file_with_anything_anywhere_is_refused_or_can_be_applied(tmp_path_factory, place, value):
    content: Any = {"": a_calibration()}
    inner = content
    path = ("", *place)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "anything.json"
    file.write_text(json.dumps(content[""]), "utf-8")
    try:
        read = read_calibration(file)
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    for curve in read["dimensions"].values():
        assert np.isfinite(apply_curve(curve, np.linspace(0, 6, 13))).all()


def judged(**identity: object) -> StubJudge:
    dimensions = (Dimension("d", 1.0, 5.0, "a number"), Dimension("e", 1.0, 5.0, "another"))
    return StubJudge(dimensions=dimensions, **identity)


def mark_of(judge: StubJudge) -> str:
    return fingerprint(judge.identity)


def test_a_calibration_of_another_judge_names_both_fingerprints():
    judge = judged()
    manifest = make_manifest([judge], 1)
    assert check_calibration(a_calibration(mark_of(judge)), manifest) == "stub"
    with pytest.raises(ConfigError) as caught:
        check_calibration(a_calibration("0" * 16), manifest)
    assert "0" * 16 in str(caught.value)
    assert mark_of(judge) in str(caught.value)


def test_a_calibration_of_stored_scores_cannot_be_applied():
    with pytest.raises(ConfigError, match="made from stored scores of 'stub'"):
        check_calibration(a_calibration(None), make_manifest([judged()], 1))


@pytest.mark.parametrize("curves", [{"d": a_curve(low=0.0)}, {"other": a_curve()}])
def test_a_curve_has_to_be_of_a_dimension_of_the_judge_and_on_its_scale(curves):
    judge = judged()
    with pytest.raises(ConfigError, match="has no such dimension"):
        check_calibration(a_calibration(mark_of(judge), **curves), make_manifest([judge], 1))


def a_run(path: Path, judge: StubJudge, d: list[float | None]) -> dict[str, Any]:
    """A run of one turn a persona; None is a failed judgement. Returns its manifest."""
    manifest = make_manifest([judge], len(d))
    lines = []
    for at, score in enumerate(d):
        turn = make_turn(f"d{at}", persona=f"p{at}")
        scores = {"d": score, "e": None if score is None else 5.0}
        status = "ok" if score is not None else "error"
        verdict = Verdict(turn.id, "stub", mark_of(judge), scores, status)
        lines.append((turn, Reply(turn.id, say()), [verdict]))
    make_run(path, manifest, lines)
    return manifest


def test_failed_judgements_stay_missing_and_show_as_coverage(tmp_path: Path):
    judge = judged()
    manifest = a_run(tmp_path / "run", judge, [1.0, 3.0, None, 5.0])
    calibration = a_calibration(mark_of(judge))
    results = read_results(tmp_path / "run", manifest)
    columns = calibrated_columns(results, calibration, manifest)
    assert columns["stub"].keys() == {"d"}
    np.testing.assert_array_equal(columns["stub"]["d"], [1.0, 2.0, np.nan, 3.0])
    found = calibrated_means(results, calibration, manifest, 4)["stub"]["d"]
    assert found["mean"] == pytest.approx(2.0 + 0.25)
    assert (found["scored"], found["total"], found["coverage"]) == (3, 4, 0.75)
    assert found["low"] < found["mean"] < found["high"]


def test_a_run_without_any_judgement_has_a_calibrated_mean_of_null(tmp_path: Path):
    judge = judged()
    manifest = a_run(tmp_path / "run", judge, [None, None])
    shown = summarise(tmp_path / "run", manifest, a_calibration(mark_of(judge)))
    found = shown["judges"]["stub"]["calibrated"]["d"]
    assert (found["mean"], found["low"], found["high"]) == (None, None, None)
    assert (found["scored"], found["coverage"]) == (0, 0.0)
    json.dumps(shown, allow_nan=False)


def test_a_calibration_adds_a_key_and_changes_nothing_else(tmp_path: Path):
    judge = judged()
    manifest = a_run(tmp_path / "run", judge, [1.0, 3.0, 4.0])
    raw = summarise(tmp_path / "run", manifest)
    assert "calibrated" not in raw["judges"]["stub"]
    given = summarise(tmp_path / "run", manifest, a_calibration(mark_of(judge)))
    less = copy.deepcopy(given)
    del less["judges"]["stub"]["calibrated"]
    assert less == raw
    assert summarise(tmp_path / "run", manifest) == raw  # it was not stored
    keep_calibration(tmp_path / "run", a_calibration(mark_of(judge)))
    assert summarise(tmp_path / "run", manifest) == given


def test_a_kept_calibration_of_a_judge_that_has_changed_is_left_out(tmp_path: Path):
    manifest = a_run(tmp_path / "run", judged(), [1.0, 3.0])
    keep_calibration(tmp_path / "run", a_calibration(mark_of(judged(version=2))))
    assert "calibrated" not in summarise(tmp_path / "run", manifest)["judges"]["stub"]
    assert load_run(tmp_path / "run").calibrated.columns.empty


def test_a_run_keeps_the_last_calibration_and_gives_it_up_with_the_rest(tmp_path: Path):
    path = tmp_path / "run"
    a_run(path, judged(), [1.0])
    assert kept_calibration(path) is None
    for mark in ("a" * 16, "b" * 16):
        keep_calibration(path, a_calibration(mark))
        kept = kept_calibration(path)
        assert kept is not None
        assert kept["judge"]["fingerprint"] == mark
    discard(path)
    assert not path.exists()


def test_calibrated_frames_have_a_row_a_turn(tmp_path: Path):
    judge = judged()
    a_run(tmp_path / "run", judge, [1.0, None, 5.0])
    empty = load_run(tmp_path / "run").calibrated
    assert empty.shape == (3, 0)
    keep_calibration(tmp_path / "run", a_calibration(mark_of(judge)))
    run = load_run(tmp_path / "run")
    assert list(run.calibrated.columns) == ["stub.d"]
    assert run.calibrated.index.equals(run.scores.index)
    np.testing.assert_array_equal(run.calibrated["stub.d"], [1.0, np.nan, 3.0])


RUN = ("run", "--model", "baseline/majority", "--dataset", "sample", "--no-rubric", "--quiet")
COUNTING = ("--plugin", "counting.py", "--judge", "counting")


@pytest.fixture
def counted(cli: Cli) -> Cli:
    """A command line with a judge of its own."""
    (cli.folder / "counting.py").write_text(PLUGIN)
    return cli


def done(result: Result) -> Result:
    assert result.rc == 0, result.err
    return result


def write_calibration(cli: Cli, version: str = "1", name: str = "c.json", **changes: Any) -> None:
    mark = fingerprint({"judge": "counting", "version": version})
    made = a_calibration(mark, warmth=a_curve(**changes))
    write_json(cli.folder / name, made)


def summary(cli: Cli) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((cli.folder / "out" / "summary.json").read_text())
    return loaded["judges"]["counting"]


def test_a_run_stores_its_calibration_and_show_recomputes_it(counted: Cli):
    write_calibration(counted)
    done(counted.fast(*RUN, *COUNTING, "--out", "out", "--calibration", "c.json"))
    stored = (counted.folder / "out" / "calibration.json").read_text()
    assert json.loads(stored) == json.loads((counted.folder / "c.json").read_text())
    (counted.folder / "c.json").unlink()
    found = summary(counted)["calibrated"]
    assert found.keys() == {"warmth"}
    run = load_run(counted.folder / "out")
    raw = run.scores["counting.warmth"]
    personas = np.unique(run.replies["persona_id"], return_inverse=True)[1]
    by_hand = estimate((1 + (raw - 1) / 2).to_numpy(), personas).mean
    assert by_hand is not None
    assert found["warmth"]["mean"] == pytest.approx(by_hand + 0.25)
    shown = done(counted.fast("show", "out", "--json")).json()[0]
    assert shown["judges"]["counting"]["calibrated"] == found
    table = done(counted.fast("show", "out")).out
    assert "counting: warmth (calibrated)" in table
    assert "counting: depth (calibrated)" not in table


def test_show_applies_a_calibration_without_storing_it(counted: Cli):
    done(counted.fast(*RUN, *COUNTING, "--out", "out"))
    write_calibration(counted)
    before = sorted(file.name for file in (counted.folder / "out").iterdir())
    shown = done(counted.fast("show", "out", "--calibration", "c.json", "--json")).json()[0]
    assert shown["judges"]["counting"]["calibrated"]["warmth"]["scored"] == 133
    assert sorted(file.name for file in (counted.folder / "out").iterdir()) == before
    assert "calibrated" not in summary(counted)


def test_score_replaces_the_calibration_and_a_changed_judge_goes_without(counted: Cli):
    write_calibration(counted)
    done(counted.fast(*RUN, *COUNTING, "--out", "out", "--calibration", "c.json"))
    first = summary(counted)["calibrated"]["warmth"]["mean"]
    write_calibration(counted, y=[2.0, 4.0])
    again = ("score", "out", "--quiet", *COUNTING)
    done(counted.fast(*again, "--calibration", "c.json"))
    assert summary(counted)["calibrated"]["warmth"]["mean"] == pytest.approx(first + 1)
    refused = counted.fast(*again, "--calibration", "c.json", VERSION="2")
    assert refused.rc == 2
    for version in ("1", "2"):
        assert fingerprint({"judge": "counting", "version": version}) in refused.sentence
    assert "calibrated" in summary(counted)
    done(counted.fast(*again, VERSION="2"))
    assert "calibrated" not in summary(counted)
    write_calibration(counted, "2")
    done(counted.fast(*again, "--calibration", "c.json", VERSION="2"))
    assert summary(counted)["calibrated"]["warmth"]["mean"] == first


def test_a_run_that_never_began_leaves_no_calibration_behind(counted: Cli):
    write_calibration(counted)
    model = ("run", "--model", "openai/gpt-4o", "--dataset", "sample", "--no-rubric", "--quiet")
    for _ in range(2):  # the same command can be given again
        failed = counted.fast(*model, *COUNTING, "--out", "out", "--calibration", "c.json")
        assert failed.rc == 2
        assert "OPENAI_API_KEY" in failed.sentence
        assert not (counted.folder / "out").exists()


def test_a_dry_run_checks_the_calibration_too(counted: Cli):
    write_calibration(counted, "2")
    command = (*RUN, *COUNTING, "--calibration", "c.json", "--dry-run")
    refused = counted.fast(*command)
    assert refused.rc == 2
    assert fingerprint({"judge": "counting", "version": "2"}) in refused.sentence
    write_calibration(counted)
    done(counted.fast(*command))


def test_a_judge_that_fails_its_preflight_leaves_the_old_calibration(counted: Cli):
    write_calibration(counted)
    done(counted.fast(*RUN, *COUNTING, "--out", "out", "--calibration", "c.json"))
    kept = counted.folder / "out" / "calibration.json"
    before = kept.read_bytes()
    write_calibration(counted, y=[2.0, 4.0])
    again = ("score", "out", *COUNTING, "--judge", "rubric:model=openai/gpt-4o", "--quiet")
    failed = counted.fast(*again, "--calibration", "c.json")
    assert failed.rc == 2
    assert "OPENAI_API_KEY" in failed.sentence
    assert kept.read_bytes() == before


def test_a_damaged_calibration_in_a_run_is_named(counted: Cli):
    write_calibration(counted)
    done(counted.fast(*RUN, *COUNTING, "--out", "out", "--calibration", "c.json"))
    (counted.folder / "out" / "calibration.json").write_text("{")
    shown = counted.fast("show", "out")
    assert shown.rc == 2
    assert "out/calibration.json is no calibration that this version can use" in shown.sentence
