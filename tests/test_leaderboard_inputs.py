"""What a site takes in: hostile and broken inputs are named, and nothing private goes out."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bundle_run import members, rewrite
from site_runs import Made, write_run

from kardiabench.bundle import read_bundle
from kardiabench.bundle_archive import TURNS, dump_json, dump_line
from kardiabench.bundle_cards import public_card
from kardiabench.bundle_check import verify_bundle
from kardiabench.bundle_packing import pack_run
from kardiabench.cli.options import yaml_values
from kardiabench.errors import RunError
from kardiabench.fingerprints import digest, fingerprint
from kardiabench.manifests import MANIFEST
from kardiabench.settings import RunSettings
from kardiabench.store import SUMMARY
from leaderboard import inputs, texts
from leaderboard.extraction import extract_input
from leaderboard.reproduction import command_of
from leaderboard.site import Plan, build_site
from leaderboard.views import RunView, SiteView

Change = Callable[[dict[str, Any]], object]

GOOD = Made("a/good", 4.0, 0.5, seed=1)
OTHER = Made("b/other", 3.0, 0.3, seed=2, created="2026-11-03T12:00:00+00:00")


def build(runs: Path | Sequence[Path], out: Path, **plan: Any) -> SiteView:
    paths = [runs] if isinstance(runs, Path) else list(runs)
    plan = {"cache": out.parent / "cache", "workers": 1} | plan
    return build_site(paths, out, Plan(**plan))


def by_name(site: SiteView) -> dict[str, RunView]:
    return {run.name: run for board in site.boards for run in (*board.runs, *board.unranked)}


def everywhere(site: Path) -> str:
    files = [file for file in site.rglob("*") if file.is_file() and file.suffix != ".parquet"]
    return "\n".join(file.read_text("utf-8") for file in files)


def edit(run: Path, change: Change) -> Path:
    """Change the manifest of a run, and its protocol's id with it."""
    path = run / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["protocol_id"] = digest(manifest["protocol"])
    path.write_text(json.dumps(manifest))
    return run


def edit_lines(run: Path, change: Change, log: str = "replies.jsonl") -> Path:
    lines = [json.loads(line) for line in (run / log).read_text().splitlines()]
    for line in lines:
        change(line)
    (run / log).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def on_other_data(run: Path, dataset: dict[str, Any]) -> Path:
    """Make a run on the sample one on a dataset with other dialogues."""
    for log in ("replies.jsonl", "verdicts.jsonl"):
        text = (run / log).read_text()
        (run / log).write_text(re.sub(r'"d([0-9a-f]{16})/', r'"e\1/', text))
    replies = (run / "replies.jsonl").read_text()
    mark = digest(sorted(set(re.findall(r'"(e[0-9a-f]{16})/', replies))))

    def change(manifest: dict[str, Any]) -> None:
        manifest["protocol"]["dataset"]["fingerprint"] = mark
        manifest["dataset"] = dataset

    return edit(run, change)


def own_dataset(run: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((run / MANIFEST).read_text())
    return dict(manifest["dataset"])


# --- text -----------------------------------------------------------------------------------------

GATED = {"name": "KardiaBench", "split": "test", "revision": "abc"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that are opened for their text."""
    names: list[str] = []
    read = texts._read

    def spy(name: str, wanted: Any) -> Any:
        names.append(name)
        return read(name, wanted) if name == "sample" else {}

    monkeypatch.setattr(texts, "_read", spy)
    return names


def test_a_run_that_claims_the_sample_opens_no_gated_dataset(tmp_path: Path, opened) -> None:
    evil = write_run(tmp_path / "evil", replace(OTHER, created="2000-01-01T00:00:00+00:00"))
    on_other_data(evil, own_dataset(evil))
    gated = on_other_data(write_run(tmp_path / "gated", GOOD), GATED)
    site = build([evil, gated], tmp_path / "site")
    assert opened == []
    assert [problem.name for problem in site.problems] == ["evil"]
    assert "none that the sample has" in site.problems[0].why
    assert [board.text for board in site.boards] == [False]


def test_text_of_a_protocol_is_shown_only_where_all_its_runs_are_open(tmp_path, opened) -> None:
    mine = write_run(tmp_path / "mine", GOOD)
    assert build(mine, tmp_path / "a").boards[0].text
    assert set(opened) == {"sample"}
    opened.clear()
    theirs = write_run(tmp_path / "theirs", OTHER)
    edit(theirs, lambda manifest: manifest.update(dataset=GATED))
    board = build([mine, theirs], tmp_path / "b").boards[0]
    assert not board.text
    assert opened == []
    assert "gated" in board.licence


def test_dialogues_that_the_sample_does_not_have_close_a_protocol(tmp_path: Path) -> None:
    extract = extract_input(write_run(tmp_path / "run", GOOD), tmp_path, include_text=False)
    assert texts.board_shows_text([extract], include_text=False)
    more = [*extract.dialogues, replace(extract.dialogues[0], id="e" + "0" * 16)]
    other = replace(extract, dialogues=more)
    assert not texts.board_shows_text([extract, other], include_text=False)
    assert texts.board_shows_text([other], include_text=True)


def test_a_file_that_is_called_sample_has_no_known_licence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GOOD)
    edit(run, lambda m: m.update(dataset={"name": "/data/sample", "sha256": "0" * 64}))
    assert build(run, tmp_path / "site").boards[0].licence == "not known to this program"


# --- what is private ------------------------------------------------------------------------------


def judged_by(run: Path, **identity: Any) -> Path:
    """Make the rubric judge of a run another."""
    marks: dict[str, str] = {}

    def change(manifest: dict[str, Any]) -> None:
        judge = manifest["protocol"]["scorer"]["judges"]["rubric"]
        judge["identity"] |= identity
        judge["fingerprint"] = marks["rubric"] = fingerprint(judge["identity"])

    def follow(line: dict[str, Any]) -> None:
        verdict = line["verdict"]
        verdict["fingerprint"] = marks.get(verdict["judge"], verdict["fingerprint"])

    edit(run, change)
    return edit_lines(run, follow, "verdicts.jsonl")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("hf//home/alice/judge", "--allow-protocol"),
        ("http://10.0.0.7:8000/v1", "--allow-protocol"),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz", "holds a key"),
        ("quite-plain-secret", "holds a key"),
    ],
)
def test_a_protocol_that_names_what_is_private_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", "quite-plain-secret")
    good = write_run(tmp_path / "good", GOOD)
    bad = judged_by(write_run(tmp_path / "bad", OTHER), model={"model": model})
    site = build([good, bad], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["bad"]
    assert said in site.problems[0].why
    shown = everywhere(tmp_path / "site")
    assert "bad" in shown
    for word in ("alice", "10.0.0.7", "sk-proj", "quite-plain-secret"):
        assert word not in shown


def test_a_bundle_that_may_name_a_path_is_shown_and_one_with_a_key_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged_by(write_run(tmp_path / "run", GOOD), model={"model": "hf//srv/the-judge"})
    bundle = pack_run(run, tmp_path / "b.kardia.zip", allow_protocol=True).path
    assert len(by_name(build(bundle, tmp_path / "a"))) == 1
    monkeypatch.setenv("MY_API_KEY", "the-judge")
    with pytest.raises(RunError, match="holds a key"):
        build(bundle, tmp_path / "b", cache=tmp_path / "other")


def test_keys_of_the_environment_are_cut_out_of_a_runs_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", replace(GOOD, name="openai/tuned-for-acme"))
    monkeypatch.setenv("ACME_TOKEN", "tuned-for-acme")
    build(run, tmp_path / "site")
    assert "tuned-for-acme" not in everywhere(tmp_path / "site")


def test_what_was_left_out_is_named_without_paths_on_the_page_and_in_full_to_who_builds(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a folder of mine"
    good, bad = write_run(folder / "good", GOOD), write_run(folder / "bad", OTHER)
    (bad / "replies.jsonl").write_text("garbage\n")
    site = build([good, bad], tmp_path / "site")
    assert f"{bad}/replies.jsonl, byte 0" in site.problems[0].why
    page = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "bad/replies.jsonl, byte 0" in page
    shown = everywhere(tmp_path / "site")
    for word in (str(tmp_path), "folder of mine", str(Path.cwd())):
        assert word not in shown


def test_what_a_server_said_with_an_error_is_on_no_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(GOOD, failed=0.1))

    def quote(line: dict[str, Any]) -> None:
        if line["reply"]["status"] == "error":
            line["reply"]["detail"] = "provider echoed: I lost my dog"

    def bare(line: dict[str, Any]) -> None:
        if line["reply"]["status"] == "error":
            line["reply"]["detail"] = "I lost my dog and nobody cares"

    for change in (quote, bare):
        edit_lines(run, change)
        view = next(iter(by_name(build(run, tmp_path / "site")).values()))
        kinds = {failure.what for failure in view.failures if failure.whose == "transport"}
        assert kinds == {"other"}
        shown = everywhere(tmp_path / "site")
        assert "lost my dog" not in shown
        assert "provider echoed" not in shown


CARD_WORDS = ("verbatim reply", "I grew up in Kent", "/home/alice")


def a_card(run: Path, **check: Any) -> dict[str, Any]:
    manifest = json.loads((run / MANIFEST).read_text())
    judge = manifest["protocol"]["scorer"]["judges"]["rubric"]
    retest = {
        "result": "found",
        "reason": None,
        "sentences": ["empathy: alpha 0.20"],
        "dimensions": {
            "empathy": {"alpha": 0.2, "sd": 0.5, "result": "found", "quote": "verbatim reply"}
        },
        "I grew up in Kent": 3,
    }
    section = {
        "items": 144,
        "checks": {"retest": retest},
        "findings": ["empathy: alpha 0.20, see /home/alice/x"],
        "measured": "2026-11-01T00:00:00+00:00",
        "example": "verbatim reply",
        "note": "I grew up in Kent",
    }
    return {
        "card_version": 1,
        "judge": "I grew up in Kent",
        "fingerprint": judge["fingerprint"],
        "identity": judge["identity"] | {"more": "verbatim reply"},
        "smoke_test": False,
        "dimensions": judge["dimensions"],
        "check": section | check,
        "calibration": {
            "halo": {"judge": {"value": 0.5, "low": 0.4, "high": None, "reason": "few items"}},
            "calibration": {
                "refused": {"empathy": "empathy: too few", "text": "verbatim reply"},
                "dimensions": {"hope": {"rectifier": {"mean": 0.1, "by_persona": {"alice": 1.0}}}},
            },
        },
        "extra": {"text": "verbatim reply"},
    }


def keep_card(run: Path, **check: Any) -> Path:
    (run / "cards").mkdir(exist_ok=True)
    (run / "cards" / "rubric.json").write_text(json.dumps(a_card(run, **check)))
    return run


@pytest.mark.parametrize("packed", [False, True])
def test_of_a_card_only_what_measurements_write_is_published(tmp_path: Path, packed: bool) -> None:
    source = keep_card(write_run(tmp_path / "run", GOOD))
    if packed:
        source = pack_run(source, tmp_path / "b.kardia.zip", include_replies=False).path
    site = build(source, tmp_path / "site")
    card = json.loads((tmp_path / "site" / site.cards[0].source).read_text())
    assert card["check"]["checks"]["retest"] == {
        "result": "found",
        "reason": None,
        "sentences": ["empathy: alpha 0.20"],
        "dimensions": {"empathy": {"alpha": 0.2, "sd": 0.5, "result": "found"}},
    }
    assert card["check"]["items"] == 144
    assert card["calibration"]["calibration"]["refused"] == {"empathy": "empathy: too few"}
    assert card["calibration"]["halo"]["judge"]["reason"] == "few items"
    assert "alpha 0.20" in site.cards[0].text
    rubric = next(j for j in next(iter(by_name(site).values())).judges if j.name == "rubric")
    assert rubric.findings == ["empathy: alpha 0.20, see [left out]"]
    shown = everywhere(tmp_path / "site")
    for words in (*CARD_WORDS, "alice"):
        assert words not in shown


def test_cards_of_real_measurements_stay_whole() -> None:
    dimensions = [{"name": "warm and clear", "low": 1.0, "high": 5.0, "description": "x"}]
    judge = {"fingerprint": "0" * 16, "identity": {"judge": "rubric"}, "dimensions": dimensions}
    usage = {"calls": 3, "cost": None}
    effect = {"mean": 0.1, "low": None, "p_holm": 0.2, "result": "clear", "reason": None}
    sections = {
        "check": {
            "anchors": "0" * 16,
            "usage": usage,
            "checks": {
                "sensitivity": {
                    "result": "clear",
                    "kinds": {"off_topic": {"target": "warm and clear", "passed": True,
                                            "drops": {"warm and clear": effect}}},
                },
                "self_preference": {"own_family": "gpt", "families": ["gpt", "qwen"], "turns": 9},
            },
            "unknown": ["order: the judge offers none"],
            "kardiabench": "0.1",
            "last_asked": "2026-11-01T00:00:00+00:00",
        },
        "attack": {
            "suite": "0" * 16,
            "families": {"chatml_tokens": {"cases": 9, "rate": 0.5, "undefended": {"rose": 1}}},
            "clean_shift": {"warm and clear": effect},
            "clean_shift_reason": "it has no twin",
            "verdict": "moved",
        },
        "anchors": {"scores": {"d1/4#gold": {"warm and clear": {"mean": 3.0, "n": 2}}}},
    }  # fmt: skip
    shown = public_card(sections, "rubric", judge)
    assert {name: shown[name] for name in sections} == sections


def test_runs_that_keep_different_cards_of_a_judge_link_to_their_own(tmp_path: Path) -> None:
    honest = keep_card(write_run(tmp_path / "honest", GOOD), findings=["weak at safety"])
    evil = keep_card(write_run(tmp_path / "evil", OTHER), findings=["a perfect judge"])
    runs = by_name(build([evil, honest], tmp_path / "site"))
    for name, said in ((GOOD.name, "weak at safety"), (OTHER.name, "a perfect judge")):
        card = next(judge.card for judge in runs[name].judges if judge.name == "rubric")
        assert re.fullmatch(r"judges/rubric-[0-9a-f]{16}-[0-9a-f]{8}\.html", str(card))
        assert said in (tmp_path / "site" / str(card)).read_text("utf-8")


# --- what would stop a build ----------------------------------------------------------------------


def no_folder(run: Path) -> None:
    (run / "replies.jsonl").unlink()
    (run / "replies.jsonl").mkdir()


def no_turns(run: Path) -> None:
    edit(run, lambda m: m["protocol"]["dataset"].update(turns=0))
    for log in ("replies.jsonl", "verdicts.jsonl"):
        (run / log).write_text("")


def a_pipe(run: Path) -> None:
    (run / "verdicts.jsonl").unlink()
    os.mkfifo(run / "verdicts.jsonl")


def evil_judge(run: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        judges = manifest["protocol"]["scorer"]["judges"]
        judges["../../evil"] = judges.pop("safety")

    edit(run, change)


def of(change: Change) -> Callable[[Path], object]:
    return lambda run: edit(run, change)


def first_line(change: Change, log: str = "replies.jsonl") -> Callable[[Path], object]:
    def of_run(run: Path) -> None:
        first, rest = (run / log).read_text().split("\n", 1)
        line = json.loads(first)
        change(line)
        (run / log).write_text(f"{json.dumps(line)}\n{rest}")

    return of_run


FAULTS: dict[str, Callable[[Path], object]] = {
    "no prompts": of(lambda m: m["protocol"].pop("prompts")),
    "no gold_emotion": of(lambda m: m["protocol"].pop("gold_emotion")),
    "no dialogues": of(lambda m: m["protocol"]["dataset"].pop("dialogues")),
    "no fingerprint": of(lambda m: m["protocol"]["dataset"].pop("fingerprint")),
    "no created": of(lambda m: m.pop("created")),
    "no time": of(lambda m: m.update(created="99T99:99:99+99:99Z-..")),
    "an empty time": of(lambda m: m.update(created="")),
    "no such day": of(lambda m: m.update(created="2026-02-30T00:00:00+00:00")),
    "no turns": no_turns,
    "an empty name": of(lambda m: m["model"].update(name="")),
    "a flat range": of(
        lambda m: m["protocol"]["scorer"]["judges"]["rubric"]["dimensions"][0].update(high=1.0)
    ),
    "a judge that is a path": evil_judge,
    "a folder for a log": no_folder,
    "a pipe for a log": a_pipe,
    "half a character": of(lambda m: m["model"].update(name="a\ud800b")),
    "words for a turn": first_line(lambda o: o["reply"].update(turn_id="My cat Zanzibar/0")),
    "a score out of range": first_line(
        lambda o: o["verdict"]["scores"].update(format=9.0), "verdicts.jsonl"
    ),
    "a smoke test that is said to be none": lambda run: judged_by(run, judge="smoke"),
    "emotions that are none": of(lambda m: m["config"].update(emotions=5)),
    "judges that are none": of(lambda m: m["config"].update(judges=5)),
    "weights of nothing": of(lambda m: m["protocol"]["scorer"].update(weights={})),
    "a negative cost": first_line(lambda o: o["reply"]["usage"].update(cost=-5)),
    "more tokens than there are": first_line(
        lambda o: o["reply"]["usage"].update(prompt_tokens=10**400)
    ),
    "a negative latency": first_line(lambda o: o["reply"].update(latency=-1.0)),
    "a judge's negative cost": first_line(
        lambda o: o["verdict"]["usage"].update(cost=-5), "verdicts.jsonl"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_broken_run_is_named_and_the_others_are_shown(tmp_path: Path, fault: str) -> None:
    good, bad = write_run(tmp_path / "good", GOOD), write_run(tmp_path / "bad", OTHER)
    keep_card(bad)
    FAULTS[fault](bad)
    site = build([good, bad], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["bad"]
    assert "Error" not in site.problems[0].why
    assert list(by_name(site)) == [GOOD.name]
    assert "Zanzibar" not in everywhere(tmp_path / "site")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"persona_id": "My cat Zanzibar"}, "an id of a turn or a persona is no id"),
        ({"persona_id": "p1"}, "persona"),
        ({"gold_emotion": "ashamed"}, "gold_emotion"),
    ],
)
def test_a_run_is_held_to_the_sample_where_there_is_no_other_run(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run = edit_lines(write_run(tmp_path / "run", GOOD), lambda line: line.update(change))
    with pytest.raises(RunError, match=r"run cannot be shown: .* was edited") as caught:
        build(run, tmp_path / "site")
    assert said in str(caught.value)


def test_a_full_disk_is_told_and_is_no_fault_of_the_run(tmp_path: Path, monkeypatch) -> None:
    run = write_run(tmp_path / "run", GOOD)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inputs, "read_results", full)
    with pytest.raises(OSError, match="No space left"):
        build(run, tmp_path / "site")


# --- bundles --------------------------------------------------------------------------------------


def forged(bundle: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    """Change rows of a bundle, and make its summary and checksums fit them."""
    rows = [json.loads(line) for line in members(bundle)[TURNS].splitlines()]
    change(rows)
    rows.sort(key=lambda row: (row["turn_id"].split("/")[0], int(row["turn_id"].split("/")[1])))
    rewrite(bundle, TURNS, lambda _: b"".join(map(dump_line, rows)))
    return rewrite(bundle, SUMMARY, lambda _: dump_json(read_bundle(bundle).summarise()))


def rename_one(rows: list[dict[str, Any]]) -> None:
    known = rows[0]["turn_id"].split("/")[0]
    for row in rows:
        row["turn_id"] = row["turn_id"].replace(known, "invented")


def a_persona_each(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["persona_id"] = "q" + row["turn_id"].split("/")[0]


def less_one(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Any], object]:
    def changed(rows: list[dict[str, Any]]) -> None:
        change(rows)
        rows.pop()

    return changed


@pytest.mark.parametrize("dataset", ["sample", "other"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_one, "fingerprint"),
        (a_persona_each, "personas"),
        (less_one(a_persona_each), "personas"),
    ],
)
def test_a_bundle_whose_rows_are_not_of_its_dataset_is_named_and_left_out(
    tmp_path: Path, dataset: str, change: Any, said: str
) -> None:
    good, other = write_run(tmp_path / "good", GOOD), write_run(tmp_path / "other", OTHER)
    if dataset == "other":
        for run in (good, other):
            on_other_data(run, GATED)
    bundle = forged(pack_run(other, tmp_path / "b.kardia.zip", include_replies=False).path, change)
    assert any(said in found.where for found in verify_bundle(bundle))
    site = build([good, bundle], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["b.kardia.zip"]
    assert "was edited" in site.problems[0].why
    assert list(by_name(site)) == [GOOD.name]


def test_an_unfinished_bundle_cannot_invent_dialogues_of_the_sample(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", GOOD)
    packed = pack_run(write_run(tmp_path / "other", OTHER), tmp_path, include_replies=False)
    bundle = forged(packed.path, less_one(rename_one))
    site = build([good, bundle], tmp_path / "site")
    assert "none that the sample has" in site.problems[0].why
    assert site.boards[0].text


# --- one run from several inputs ------------------------------------------------------------------


def test_of_a_run_and_a_part_of_it_the_whole_is_shown_whatever_it_is_called(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "runs" / "whole", GOOD)
    part = forged(
        pack_run(whole, tmp_path / "runs" / "aaa.kardia.zip", include_replies=False).path,
        lambda rows: rows.__delitem__(slice(20, None)),
    )
    site = build(tmp_path / "runs", tmp_path / "site")
    assert by_name(site)[GOOD.name].turns_answered == 133
    assert not by_name(site)[GOOD.name].packed
    assert [problem.name for problem in site.problems] == [part.name]
    assert site.problems[0].why == (
        "it is the same run as whole, which is shown; their figures differ"
    )


def test_of_equals_the_run_directory_is_shown_then_what_was_given_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GOOD)
    bundle = pack_run(run, tmp_path / "aaa.kardia.zip").path
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    site = build([bundle, copy, run], tmp_path / "site")
    assert not by_name(site)[GOOD.name].packed
    assert [(p.name, p.why) for p in site.problems] == [
        ("aaa.kardia.zip", "it is the same run as copy, which is shown"),
        ("run", "it is the same run as copy, which is shown"),
    ]


# --- figures --------------------------------------------------------------------------------------


def test_errors_are_no_answers_and_tokens_are_a_turn_that_was_answered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(GOOD, failed=0.1))
    errors = (run / "replies.jsonl").read_text().count('"status":"error"')
    assert errors > 5
    view = next(iter(by_name(build(run, tmp_path / "site")).values()))
    assert view.turns_answered == 133 - errors
    assert view.tokens_in_per_turn == pytest.approx(900)
    assert view.cost_per_turn == pytest.approx(0.0004)


@pytest.mark.parametrize(("log", "part"), [("replies", "reply"), ("verdicts", "verdict")])
def test_a_cost_of_which_a_part_is_not_known_is_not_known(tmp_path, log: str, part: str) -> None:
    run = write_run(tmp_path / "run", GOOD)

    def unpriced(line: dict[str, Any]) -> None:
        if line[part]["usage"]["calls"] and line[part]["turn_id"].endswith("/0"):
            line[part]["usage"]["cost"] = None

    edit_lines(run, unpriced, f"{log}.jsonl")
    view = next(iter(by_name(build(run, tmp_path / "site")).values()))
    assert (view.cost_per_turn is None) == (part == "reply")
    assert (view.judge_cost_per_turn is None) == (part == "verdict")


def test_questions_of_an_unfinished_run_cover_a_part_of_the_planned_turns(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(GOOD, stop_after=20))
    view = next(iter(by_name(build(run, tmp_path / "site")).values()))
    assert {flag.scored for flag in view.flags} == {20}
    assert {round(flag.coverage, 6) for flag in view.flags} == {round(20 / 133, 6)}


def test_a_bundle_whose_settings_are_none_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    good, other = write_run(tmp_path / "good", GOOD), write_run(tmp_path / "other", OTHER)
    bundle = pack_run(other, tmp_path / "bad.kardia.zip", include_replies=False).path
    manifest = json.loads(members(bundle)[MANIFEST])
    manifest["config"]["emotions"] = 5
    rewrite(bundle, MANIFEST, lambda _: dump_json(manifest))
    site = build([good, bundle], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["bad.kardia.zip"]
    assert "config.emotions" in site.problems[0].why
    assert list(by_name(site)) == [GOOD.name]


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_that_there_was_no_seed() -> None:
    manifest = {"model": {"name": "a/b"}, "config": {"seed": None, "temperature": 0.5}}
    command = command_of(manifest)
    assert "--seed" not in command
    assert command.endswith("  # without a seed")
    assert "#" not in command_of({"model": {"name": "a/b"}, "config": {"seed": 7}})


def test_the_commands_options_for_a_model_read_back_as_they_were() -> None:
    given = {"extra": {"top_k": 3, "on": True}, "stop": ["a", None], "user": "5", "effort": "high"}
    words = shlex.split(command_of({"model": {"name": "a/b"}, "config": {"model_args": given}}))
    pairs = [word for before, word in pairwise(words) if before == "--model-arg"]
    assert yaml_values("--model-arg", pairs) == given
    assert "effort=high" in pairs


ODD: list[Any] = [5, "x y", [1], [["a"]], {"a b": {}}, True, False, 1.5, "$(id)", [None], 10**20]


@pytest.mark.parametrize("name", [setting.name for setting in fields(RunSettings)])
@pytest.mark.parametrize("value", ODD, ids=json.dumps)
def test_the_command_has_a_word_for_every_value(name: str, value: Any) -> None:
    command = command_of({"model": {"name": "a/b"}, "config": {name: value}})
    words = shlex.split(command)
    assert words[:4] == ["kardiabench", "run", "--model", "a/b"]
    assert shlex.join(words) == command


def test_the_command_shows_what_is_no_option_as_json() -> None:
    config = {"emotions": 5, "judges": [["a"], None], "temperature": {"a": {"b": [1]}}}
    words = shlex.split(command_of({"model": {"name": "a/b"}, "config": config}))
    assert words[4:6] == ["--emotions", "5"]
    assert words[6:10] == ["--judge", '["a"]', "--judge", "null"]
    assert words[10:] == ["--temperature", 'a={"b": [1]}']
    assert command_of({"model": {"name": "a/b"}, "config": 5}) == "kardiabench run --model a/b"
