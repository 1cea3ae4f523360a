"""`kardiabench rescore`: the same bytes where nothing changed, and a name for whatever did."""

from __future__ import annotations

import json

import pytest
from in_process import Here
from rowdata import make_row, write_rows
from rundata import say
from trained_ledger import Rewarding, changed

from kardiabench.errors import ConfigError, DataError, RunError
from trainer.ledger import iterate_rows
from trainer.rescoring import rescore

TEXTS = [say("anxious"), say("sad"), "no spans at all", "<|response_begin|>Only this.", say("joy")]


@pytest.fixture
def judged_by_model(server, monkeypatch):
    """Options of a rubric judge on the local server."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-0123456789abcdef")
    return {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": server.url,
        "judge_retries": 0,
    }


@pytest.fixture
def smoke(tmp_path):
    """A ledger of deterministic judges alone: two batches, a resumption, an evaluation."""
    folder = tmp_path / "training"
    with Rewarding(folder, judges=["format"], held_out=["smoke"]) as it:
        it.batch(TEXTS, step=0, advantages=[0.1, -0.25, 0, 1e-9, 1 / 3])
        it.batch(TEXTS, step=1)
        it.batch(TEXTS, it.turn_ids(5), step=2, phase="eval")
    with Rewarding(folder, judges=["format"], held_out=["smoke"]) as it:
        it.batch(TEXTS[::-1], step=0)
    return it.path


def rescored(path, tmp_path, **options):
    found, out = [], tmp_path / "again.jsonl"
    report = rescore(path, out, tell=found.append, **options)
    return report, found, out.read_bytes()


@pytest.mark.parametrize("composites_only", [False, True])
def test_a_ledger_of_deterministic_judges_comes_out_to_the_byte(smoke, tmp_path, composites_only):
    report, found, bytes_ = rescored(smoke, tmp_path, composites_only=composites_only)
    assert bytes_ == smoke.read_bytes()
    assert (report.rows, report.differ, found) == (20, 0, [])
    assert b'"event":"resume"' in bytes_.replace(b'": "', b'":"')


def test_every_deterministic_verdict_was_made_again(smoke):
    counts = rescore(smoke).judges
    made = {name: (count.how, count.compared) for name, count in counts.items()}
    assert made == {"format": ("anew", 20), "emotion": ("anew", 20), "smoke": ("anew", 5)}


def test_cached_verdicts_of_a_model_give_the_same_bytes_without_a_call(
    tmp_path, judged_by_model, server
):
    with Rewarding(tmp_path / "t", **judged_by_model) as it:
        it.batch(TEXTS * 2, it.turn_ids(2, each=5))
    asked = server.hits
    report, found, bytes_ = rescored(it.path, tmp_path)
    assert bytes_ == it.path.read_bytes()
    assert (report.judges["rubric"].how, report.judges["rubric"].compared) == ("cache", 10)
    assert report.judges["rubric"].not_cached == 0
    assert server.hits == asked > 0
    assert not found


def test_what_the_cache_lacks_is_kept_and_counted(tmp_path, judged_by_model, monkeypatch):
    with Rewarding(tmp_path / "t", **judged_by_model) as it:
        it.batch(TEXTS)
    monkeypatch.setenv("KARDIABENCH_CACHE", str(tmp_path / "empty.sqlite"))
    report, found, bytes_ = rescored(it.path, tmp_path)
    assert bytes_ == it.path.read_bytes()
    assert not found
    assert (report.judges["rubric"].compared, report.judges["rubric"].not_cached) == (0, 5)


def test_a_failed_judgement_is_kept_although_the_cache_knows_better_now(
    tmp_path, judged_by_model, server
):
    from openai_server import Behaviour

    options = {**judged_by_model, "judge_timeout": 0.5}
    with Rewarding(tmp_path / "t", **options) as it:
        server.default = Behaviour(delay=2)
        (failed,) = it.batch(TEXTS[:1], step=0)
        server.default = Behaviour()
        (judged,) = it.batch(TEXTS[:1], step=1)
    assert failed.composite is None
    assert judged.composite is not None
    report, found, bytes_ = rescored(it.path, tmp_path)
    assert (report.judges["rubric"].failed, report.judges["rubric"].compared) == (1, 1)
    assert (bytes_, found, report.masked) == (it.path.read_bytes(), [], 1)


@pytest.mark.parametrize("composites_only", [False, True])
def test_a_changed_composite_is_named(smoke, tmp_path, composites_only):
    changed(smoke, lambda row: row.update(composite=0.987), line=2)
    report, found, bytes_ = rescored(smoke, tmp_path, composites_only=composites_only)
    (difference,) = found
    assert (difference.what, difference.stored) == ("composite", 0.987)
    assert difference.place == ("train", 0, 0, 0, 0, 1)
    assert report.differ == 1
    assert bytes_ != smoke.read_bytes()


def test_a_last_bit_is_a_difference(smoke, tmp_path):
    import math

    def nudge(row):
        row["composite"] = row["reward"] = math.nextafter(row["composite"], 2)

    changed(smoke, nudge, line=2)
    _, found, _ = rescored(smoke, tmp_path)
    assert [difference.what for difference in found] == ["composite", "reward"]


def test_a_changed_verdict_of_a_deterministic_judge_is_named_with_all_that_follows(smoke, tmp_path):
    def flatter(row):
        (verdict,) = [v for v in row["verdicts"] if v["judge"] == "emotion"]
        verdict["scores"]["emotion"] = 1.0
        row["composite"] = row["reward"] = 1.0

    changed(smoke, flatter, line=5)
    _, found, bytes_ = rescored(smoke, tmp_path)
    assert [(d.judge, d.what, d.stored, d.new) for d in found] == [
        ("", "composite", 1.0, 0.5),
        ("", "reward", 1.0, 0.5),
        ("emotion", "emotion", 1.0, 0.0),
    ]
    assert b"0.5" in bytes_.splitlines()[5]


def test_a_changed_text_shows_in_its_judges(smoke, tmp_path):
    changed(smoke, lambda row: row.update(text="nothing"), line=1)
    _, found, _ = rescored(smoke, tmp_path)
    assert {difference.judge for difference in found} == {"", "format", "emotion"}


def test_a_changed_verdict_of_a_cached_judge_is_named(tmp_path, judged_by_model):
    with Rewarding(tmp_path / "t", **judged_by_model) as it:
        (row,) = it.batch(TEXTS[:1])

    def worse(row):
        (verdict,) = [v for v in row["verdicts"] if v["judge"] == "rubric"]
        verdict["scores"]["empathy"] = 1.0 + verdict["scores"]["empathy"] % 5

    changed(it.path, worse, line=1)
    _, found, bytes_ = rescored(it.path, tmp_path)
    (difference,) = [d for d in found if d.judge]
    assert (difference.judge, difference.what) == ("rubric", "empathy")
    assert difference.new == row.score("rubric", "empathy")
    (again,) = iterate_rows(tmp_path / "again.jsonl")
    assert again.composite == row.composite
    assert bytes_


def test_a_line_written_otherwise_is_a_difference_of_the_line(smoke, tmp_path):
    lines = smoke.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"step":0', b'"step": 0')
    smoke.write_bytes(b"".join(lines))
    _, found, _ = rescored(smoke, tmp_path)
    assert [difference.what for difference in found] == ["its line"]


def test_a_judge_that_the_header_does_not_open_is_kept_and_said(smoke):
    def forget(header):
        header["settings"]["judges"] = ["format"]

    lines = smoke.read_bytes().splitlines(keepends=True)
    header = json.loads(lines[0])
    forget(header)
    smoke.write_bytes(json.dumps(header).encode() + b"\n" + b"".join(lines[1:]))
    report = rescore(smoke)
    assert (report.judges["smoke"].how, report.differ) == ("not opened", 0)


def test_live_judges_are_asked_anew_and_their_drift_is_no_difference(
    tmp_path, judged_by_model, server
):
    from judge_servers import Honest

    server.rule = Honest(seed=1)
    with Rewarding(tmp_path / "t", **judged_by_model) as it:
        it.batch([turn.gold for turn in it.turns.values()][:6], it.turn_ids(6))
    server.rule = Honest(seed=2)
    asked = server.hits
    report, found, bytes_ = rescored(it.path, tmp_path, live=True)
    assert server.hits == asked + 6
    assert (found, bytes_) == ([], it.path.read_bytes())
    drifts = {(d.judge, d.dimension): d for d in report.drift}
    assert len(drifts) == 5
    assert all(d.n == 6 for d in drifts.values())
    assert any(d.absolute > 0 for d in drifts.values())
    empathy = drifts["rubric", "empathy"]
    assert empathy.mean_absolute == empathy.absolute / 6
    assert empathy.share_equal == empathy.equal / 6


def test_live_and_composites_only_exclude_each_other(smoke):
    with pytest.raises(ConfigError, match="leave one out"):
        rescore(smoke, live=True, composites_only=True)


def test_a_live_judge_that_fails_is_counted_as_such(tmp_path, judged_by_model, server):
    from openai_server import Behaviour

    with Rewarding(tmp_path / "t", **judged_by_model) as it:
        it.batch([next(iter(it.turns.values())).gold])
    server.default = Behaviour(content="garbage")
    report = rescore(it.path, live=True)
    assert {(d.n, d.unjudged, d.mean_absolute) for d in report.drift} == {(0, 1, None)}
    assert report.differ == 0


def test_a_folder_is_all_its_ledgers(tmp_path):
    for rank in (0, 1):
        with Rewarding(tmp_path / "t", judges=["format"], rank=rank) as it:
            it.batch(TEXTS)
    out = tmp_path / "out"
    assert rescore(tmp_path / "t", out).rows == 10
    for name in ("ledger.jsonl", "ledger.rank1.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "t" / name).read_bytes()


def test_ledgers_of_different_trainings_are_not_put_together(tmp_path):
    for rank, judges in ((0, ["format"]), (1, ["smoke"])):
        with Rewarding(tmp_path / "t", judges=judges, rank=rank) as it:
            it.batch(TEXTS)
    with pytest.raises(RunError, match="of another training"):
        rescore(tmp_path / "t")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: [b"{}\n", *lines[1:]], "no ledger of version 1"),
        (lambda lines: [], "no ledger of version 1"),
        (lambda lines: [*lines[:3], b'{"step": 1\n', *lines[3:]], "byte .*changed or damaged"),
        (lambda lines: [*lines[:3], b"\xff\xfe\n", *lines[3:]], "byte .*changed or damaged"),
        (
            lambda lines: [
                *lines[:3],
                lines[3].replace(b'"composite":0.', b'"composite":NaN,"x":0.'),
            ],
            "byte .*changed or damaged",
        ),
    ],
)
def test_damage_is_one_sentence(smoke, spoil, sentence):
    lines = smoke.read_bytes().splitlines(keepends=True)
    smoke.write_bytes(b"".join(spoil(lines)))
    with pytest.raises(RunError, match=sentence) as caught:
        rescore(smoke)
    assert "\n" not in str(caught.value)


def test_a_header_without_the_scorer_is_one_sentence(smoke):
    changed(smoke, lambda header: header.update(scorer={"weights": {"format": 1}}), line=0)
    with pytest.raises(RunError, match="what the composites are made of"):
        rescore(smoke)


def test_a_torn_last_line_is_left_out_and_said(smoke, tmp_path):
    whole = smoke.read_bytes()
    smoke.write_bytes(whole + b'{"step": 3, "pha')
    report, _, bytes_ = rescored(smoke, tmp_path)
    assert bytes_ == whole
    assert "16 bytes" in report.notes[0]


def test_a_dataset_that_changed_is_one_sentence_and_composites_still_hold(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", [make_row(n) for n in range(4)])
    with Rewarding(tmp_path / "t", judges=["format"], dataset=str(data)) as it:
        it.batch(TEXTS)
    write_rows(data, [make_row(n, situation="Another.") for n in range(4)][:1])
    with pytest.raises(DataError, match=r"which the dataset lacks.*--composites-only"):
        rescore(it.path)
    data.unlink()
    with pytest.raises(Exception, match=r"--composites-only"):
        rescore(it.path)
    assert rescore(it.path, composites_only=True).differ == 0


def test_a_judge_of_another_version_is_refused_by_name(smoke):
    def older(header):
        header["scorer"]["judges"]["format"]["fingerprint"] = "0" * 16

    changed(smoke, older, line=0)
    with pytest.raises(RunError, match="format judged otherwise then"):
        rescore(smoke)


def test_a_plugins_judge_is_never_asked(tmp_path):
    plugin = tmp_path / "asked.py"
    plugin.write_text(PLUGIN)
    with Rewarding(tmp_path / "t", judges=["counting"], plugins=[plugin]) as it:
        it.batch(TEXTS)
    report, found, bytes_ = rescored(it.path, tmp_path)
    assert (bytes_, found) == (it.path.read_bytes(), [])
    assert (report.judges["counting"].how, report.judges["counting"].not_cached) == ("cache", 5)


#: A judge that says another number each time it is asked, and is not to be cached.
PLUGIN = """
import itertools
from kardiabench.hookspecs import hookimpl
from kardiabench.records import Dimension, Verdict

KARDIABENCH_API = 1
numbers = itertools.count()


class Counting:
    name = "counting"
    cacheable = False
    dimensions = (Dimension("n", 0.0, 1e9, "how often it was asked"),)
    identity = {"judge": "counting"}

    async def judge(self, items):
        return [Verdict(i.turn.id, "counting", "", {"n": float(next(numbers))}) for i in items]


@hookimpl
def register_judges(register):
    register("counting", lambda options, context: Counting())
"""


def test_out_may_not_be_the_ledger(smoke, tmp_path):
    with pytest.raises(ConfigError, match="the ledger itself"):
        rescore(smoke, smoke)
    with pytest.raises(ConfigError, match="is a folder"):
        rescore(smoke, tmp_path)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    from kardiabench.cli import cli, rescoring

    if "rescore" not in cli.commands:  # until the command line registers it
        monkeypatch.setitem(cli.commands, "rescore", rescoring.rescore)
    return Here(tmp_path / "user", monkeypatch, capsys)


def test_the_command_says_that_all_is_the_same(here, smoke):
    done = here("rescore", smoke)
    assert done.rc == 0, done.err
    assert "20 candidates, 0 of them without a composite; none differ" in done.out
    assert "format: 20 judged anew" in done.out


def test_the_command_names_what_differs_and_fails(here, smoke):
    changed(smoke, lambda row: row.update(composite=0.123), line=1)
    done = here("rescore", smoke)
    assert done.rc == 2
    assert "train step 0, rank 0, call 0, group 0, candidate 0" in done.out
    assert "1 of 20 candidates differ" in done.err
    report = json.loads(here("rescore", smoke, "--json").out)
    assert report["differences"][0]["what"] == "composite"
    assert report["differ"] == 1


def test_the_command_is_quiet_when_told(here, smoke):
    assert here("rescore", smoke, "--quiet").out == ""


def test_the_command_gives_one_sentence_for_no_ledger(here, tmp_path):
    for place in (tmp_path / "nothing.jsonl", tmp_path):
        done = here("rescore", place)
        assert done.rc == 2
        assert "ledger" in done.err
        assert "Traceback" not in done.err
