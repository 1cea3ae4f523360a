"""`kardiabench submit pack` and `submit verify`, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundle_run import SAID, SECRET, a_run, edit_json, edit_row, members, rewrite
from cli_process import Cli

from kardiabench.bundle_archive import SUFFIX, TURNS
from kardiabench.files import lock_folder
from kardiabench.store import SUMMARY

RUN = ("run", "--dataset", "sample", "--limit", "3", "--model", "baseline/majority")


def packed(cli: Cli, *options: str) -> Path:
    a_run(cli.folder / "mine")
    done = cli.fast("submit", "pack", "mine", *options)
    assert (done.rc, done.out.count("\n")) == (0, 1), done.err
    return cli.folder / done.out.strip()


def test_a_run_of_the_sample_is_packed_with_its_replies_and_holds(cli: Cli) -> None:
    assert cli.fast(*RUN, "--no-rubric", "--out", "out").rc == 0
    done = cli("submit", "pack", "out")
    assert done.rc == 0, done.err
    path = cli.folder / done.out.strip()
    assert path.name.startswith("baseline-majority-sample-")
    assert path.name.endswith(SUFFIX)
    assert "they will be public" in done.err
    assert "left out: the dataset's text" in done.err
    assert cli.fast("submit", "verify", path).out == f"ok {path}\n"
    shown = cli.fast("show", "out", "--json").json()[0]
    assert json.loads(members(path)[SUMMARY]) == shown


def test_nothing_of_the_machine_is_in_a_bundle_of_a_real_run(cli: Cli) -> None:
    key = "a-key-that-nobody-may-see"
    script = cli.folder / "script.jsonl"
    script.write_text(json.dumps({"text": "no spans at all", "times": 100}) + "\n")
    rows = cli.folder / "test.jsonl"
    from rowdata import make_row, write_rows

    write_rows(rows, [make_row(person=f"{SECRET} is a person.", situation=f"{SECRET} happened.")])
    replies = cli.folder / "replies.jsonl"
    prompts = cli.fast("prompts", "--dataset", rows).out.splitlines()
    lines = [{"turn_id": json.loads(line)["turn_id"], "text": f"{SAID}!"} for line in prompts]
    replies.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ("run", "--model", f"replay/{replies}", "--dataset", rows, "--no-rubric")
    ran = cli.fast(*arguments, "--out", cli.folder / "out", OPENAI_API_KEY=key)
    assert ran.rc == 0, ran.err
    done = cli.fast("submit", "pack", "out", OPENAI_API_KEY=key)
    assert done.rc == 0, done.err
    for name, content in members(cli.folder / done.out.strip()).items():
        for marker in (SECRET, SAID, key, str(cli.folder), "speaks"):
            assert marker.encode() not in content, f"{marker} is in {name}"


def test_replies_go_in_when_asked_for(cli: Cli) -> None:
    assert "texts.jsonl" not in members(packed(cli))
    a_file = cli.fast("submit", "pack", "mine", "--include-replies", "-o", f"x{SUFFIX}")
    assert (a_file.rc, a_file.out) == (0, f"x{SUFFIX}\n")
    assert "they will be public" in a_file.err
    assert "texts.jsonl" in members(cli.folder / f"x{SUFFIX}")
    again = cli.fast("submit", "pack", "mine", "-o", f"x{SUFFIX}")
    assert again.rc == 2
    assert again.sentence.endswith("or --force to replace it")
    assert cli.fast("submit", "pack", "mine", "-o", f"x{SUFFIX}", "--force").rc == 0


def test_an_incomplete_run_is_packed_and_said_to_be(cli: Cli) -> None:
    a_run(cli.folder / "part", turns=3, planned=9)
    done = cli.fast("submit", "pack", "part")
    assert done.rc == 0
    assert "packed 3 of 9 turns" in done.err
    assert "warning: this run is not complete" in done.err


def test_what_is_no_run_is_one_sentence(cli: Cli) -> None:
    done = cli.fast("submit", "pack", "nowhere")
    assert (done.rc, done.out) == (2, "")
    assert "nowhere is not a run directory" in done.sentence
    assert len(done.err.splitlines()) == 1


def test_what_differs_is_named_and_the_rest_is_counted(cli: Cli) -> None:
    good = packed(cli)
    bad = cli.folder / f"bad{SUFFIX}"
    bad.write_bytes(good.read_bytes())
    rewrite(bad, SUMMARY, edit_json(lambda it: it["composite"].update(mean=0.99)))
    broken = cli.folder / f"broken{SUFFIX}"
    broken.write_bytes(good.read_bytes()[:2000])
    done = cli.fast("submit", "verify", ".")
    assert done.rc == 2
    assert done.sentence.startswith("2 of 3 bundles cannot be trusted")
    assert f"ok {good.name}" in done.out
    assert f"DIFFERS bad{SUFFIX}" in done.out
    assert "  summary.composite.mean is 0.99, its rows give 0." in done.out
    assert f"BROKEN broken{SUFFIX} is no bundle, or only a part of one" in done.out
    rewrite(bad, SUMMARY, edit_json(lambda it: it["emotion"]["confusion"].clear()))
    shown = cli.fast("submit", "verify", bad).out.splitlines()
    assert len(shown) == 22
    assert shown[-1] == "  and 13 more"


def test_verify_says_which_row_contradicts_itself(cli: Cli) -> None:
    bundle = packed(cli)
    cheat = edit_row(1, lambda row: row["verdicts"]["emotion"].update(scores=[0.0]))
    rewrite(bundle, TURNS, cheat)
    done = cli.fast("submit", "verify", bundle.name)
    assert "turns.d0/1.verdicts.emotion.scores[0] is 0.0, its rows give 1.0" in done.out


def test_a_run_that_is_being_written_gets_a_warning(cli: Cli) -> None:
    lock = lock_folder(a_run(cli.folder / "mine"))
    try:
        done = cli.fast("submit", "pack", "mine")
    finally:
        lock.release()
    assert done.rc == 0
    assert "it is being written just now: the bundle has what is there so far" in done.err


def test_what_cannot_be_packed_or_verified_is_one_sentence(cli: Cli) -> None:
    bundle = packed(cli)
    again = cli.fast("submit", "pack", bundle.name)
    assert (again.rc, again.out) == (2, "")
    assert "is a bundle already" in again.sentence
    empty = cli.fast("submit", "pack", "mine", "-o", "")
    assert (empty.rc, empty.out) == (2, "")
    assert "it is empty" in empty.sentence
    nope = cli.fast("submit", "verify", "nope")
    assert (nope.rc, nope.out) == (2, "")
    assert nope.sentence.startswith("there is no nope")


@pytest.mark.parametrize("arguments", [("nowhere.kardia.zip",), ("empty",), ()])
def test_nothing_to_verify_is_an_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    (cli.folder / "empty").mkdir()
    assert cli.fast("submit", "verify", *arguments).rc == 2


def test_help_names_what_goes_out(cli: Cli) -> None:
    assert "--include-replies" in cli.fast("submit", "pack", "--help").out
    group = cli.fast("submit", "--help").out
    assert "pack" in group
    assert "verify" in group
