"""Parts of a run: made on their own, merged into the run that one machine would have made."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli, until
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai_server import Behaviour, OpenAIServer
from rowdata import in_memory, make_row, write_rows

from kardiabench import anchoring
from kardiabench.dialogues import Dialogues, load
from kardiabench.drift import LEAST_TURNS
from kardiabench.errors import ConfigError
from kardiabench.sampling import Selection
from kardiabench.session import make_manifest, open_session
from kardiabench.settings import RunSettings, parse_shard

OFFLINE = ("run", "--model", "baseline/majority", "--dataset", "sample", "--judge", "smoke")
SMALL = ("--limit", "10", "--quiet")
#: What two machines may differ in.
OWN = ("created", "environment")


def make_parts(cli: Cli, command: Sequence[str], number: int, name: str = "part") -> list[str]:
    """Run each part of `command`; their directories."""
    names = [f"{name}{index}" for index in range(1, number + 1)]
    for index, out in enumerate(names, 1):
        done = cli.fast(*command, "--shard", f"{index}/{number}", "--out", out)
        assert done.rc == 0, done.err
    return names


def manifest(cli: Cli, run: str) -> dict[str, Any]:
    return json.loads((cli.folder / run / "manifest.json").read_text())


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in OWN}


def turns_of(cli: Cli, run: str) -> list[str]:
    return [line["reply"]["turn_id"] for line in cli.lines("replies.jsonl", run)]


# --- which dialogues a part has ------------------------------------------------------------------


def _many(number: int, selection: Selection | None = None) -> Dialogues:
    return load(in_memory([make_row(index) for index in range(number)]), selection)


@given(st.integers(1, 25), st.integers(1, 30), st.none() | st.integers(1, 25))
@hypothesis_settings(max_examples=40)
def test_the_parts_have_every_dialogue_once_in_the_datasets_order(size, parts, limit):
    whole = _many(size, Selection(limit))
    ids = [dialogue.id for dialogue in whole]
    for index in range(1, parts + 1):
        if index > len(ids):
            with pytest.raises(ConfigError, match=f"part {index} would be empty"):
                whole.shard(index, parts)
            continue
        part = whole.shard(index, parts)
        assert [dialogue.id for dialogue in part] == ids[index - 1 :: parts]
        assert (part.fingerprint, part.whole) == (whole.fingerprint, whole.whole)
        assert part.n_dialogues == len(list(part))
        assert part.n_turns == len(list(part.turns())) == sum(part.gold_sources.values())
        assert part.n_personas == len({dialogue.persona_id for dialogue in part})


def test_the_numbers_of_the_parts_add_up_to_those_of_the_whole():
    whole = _many(11)
    parts = [whole.shard(index, 4) for index in range(1, 5)]
    assert [part.n_dialogues for part in parts] == [3, 3, 3, 2]
    assert sum(part.n_turns for part in parts) == whole.n_turns
    assert sum(part.characters.prompt for part in parts) == whole.characters.prompt
    for source, number in whole.gold_sources.items():
        assert sum(part.gold_sources[source] for part in parts) == number


@pytest.mark.parametrize(
    "text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3", "", "1/9999999"]
)
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="write i/n"):
        parse_shard(text)


def test_a_part_scores_no_frozen_anchors():
    number = LEAST_TURNS  # a turn a dialogue at least, in each half too
    dataset = in_memory([make_row(index) for index in range(2 * number)])

    class Asking:
        name = "asking"

    def judges(dialogues: Dialogues) -> list[Any]:
        session: Any = type("S", (), {})()
        session.dialogues = dialogues
        session.scorer = type("J", (), {"judges": [Asking()]})
        return anchoring.anchored_judges(session)

    whole = load(dataset)
    part = whole.shard(1, 2)
    assert part.n_turns >= LEAST_TURNS
    assert len(judges(whole)) == 1
    assert judges(part) == []


# --- the same run as from one machine -------------------------------------------------------------


@pytest.mark.parametrize("history", ["gold", "free"])
@pytest.mark.parametrize("number", [1, 3])
def test_merged_parts_are_the_run_of_one_machine(cli: Cli, history: str, number: int) -> None:
    command = (*OFFLINE, *SMALL, "--history", history)
    assert cli.fast(*command, "--out", "whole").rc == 0
    parts = make_parts(cli, command, number)
    merged = cli.fast("merge", *reversed(parts), "--out", "merged", "--quiet")
    assert (merged.rc, merged.err) == (0, "")
    assert cli.summary("merged") == cli.summary("whole")
    assert comparable(manifest(cli, "merged")) == comparable(manifest(cli, "whole"))
    turns = turns_of(cli, "merged")
    assert turns == [turn for part in parts for turn in turns_of(cli, part)]
    assert sorted(turns) == sorted(turns_of(cli, "whole"))
    assert set(Counter(turns).values()) == {1}
    names = {file.name for file in (cli.folder / "merged").iterdir()}
    assert names == {file.name for file in (cli.folder / "whole").iterdir()}
    assert not [file for file in cli.folder.iterdir() if file.name.endswith(".merging")]


def test_the_command_prints_what_run_prints(cli: Cli) -> None:
    command = (*OFFLINE, "--limit", "10")
    whole = cli.fast(*command, "--out", "whole")
    parts = make_parts(cli, (*command, "--quiet"), 2)
    merged = cli.fast("merge", *parts, "--out", "merged")
    assert merged.out == whole.out.replace("run: whole", "run: merged")
    again = cli.fast("merge", *parts, "--out", "again", "--json")
    assert again.json() == json.loads((cli.folder / "again" / "summary.json").read_text())


def test_each_part_and_the_merged_run_have_a_directory_of_their_own(cli: Cli) -> None:
    command = (*OFFLINE, *SMALL)
    assert cli.fast(*command).rc == 0
    (whole,) = sorted((cli.folder / "runs").iterdir())
    expected = cli.summary(whole)
    for index in (1, 2):
        assert cli.fast(*command, "--shard", f"{index}/2").rc == 0
    found = sorted(run.name for run in (cli.folder / "runs").iterdir())
    assert found == [whole.name, f"{whole.name}-shard-1-of-2", f"{whole.name}-shard-2-of-2"]
    shutil.rmtree(whole)
    assert cli.fast("merge", *(f"runs/{name}" for name in found[1:]), "--quiet").rc == 0
    assert cli.summary(whole) == expected


def test_a_merged_run_is_an_ordinary_run(cli: Cli) -> None:
    command = (*OFFLINE[:-2], "--no-rubric", *SMALL)
    assert cli.fast(*OFFLINE, *SMALL, "--out", "whole").rc == 0
    parts = make_parts(cli, command, 2)
    assert cli.fast("merge", *parts, "--out", "merged", "--quiet").rc == 0
    before = cli.lines("replies.jsonl", "merged")
    assert cli.fast("resume", "merged", "--quiet").rc == 0
    assert cli.fast("score", "merged", "--judge", "smoke", "--quiet").rc == 0
    assert cli.lines("replies.jsonl", "merged") == before
    shown, expected = (cli.fast("show", run, "--json").json()[0] for run in ("merged", "whole"))
    for figures in (shown, expected):
        del figures["timing"], figures["protocol"]  # `rubric` was left out by another option
    assert shown == expected
    assert cli.fast("submit", "pack", "merged").rc == 0
    built = cli.fast("leaderboard", "build", "merged", "--out", "site")
    assert (built.rc, "left out" in built.err) == (0, False)


def test_judges_may_be_added_to_the_parts(cli: Cli) -> None:
    parts = make_parts(cli, (*OFFLINE[:-2], "--no-rubric", *SMALL), 2)
    for part in parts:
        assert cli.fast("score", part, "--judge", "smoke", "--quiet").rc == 0
    assert cli.fast("merge", *parts, "--out", "merged", "--quiet").rc == 0
    assert json.loads(cli.summary("merged"))["judges"]["smoke"]["coverage"] == 1.0


# --- a part on its own ----------------------------------------------------------------------------


def test_a_part_says_which_one_it_is_and_counts_its_own_turns(cli: Cli, parts: list[str]) -> None:
    number = len(cli.lines("replies.jsonl", "part2"))
    summary = json.loads(cli.summary("part2"))
    assert summary["complete"]
    assert summary["turns"]["planned"] == number
    assert summary["judges"]["smoke"]["coverage"] == 1.0
    assert summary["shard"] == {"index": 2, "of": 3, "dialogues": 3, "turns": number}
    shown = cli.fast("show", "part2")
    assert f"Only part 2 of 3, {number} turns of 3 dialogues" in " ".join(shown.out.split())


def test_a_part_that_was_broken_off_goes_on(cli: Cli, parts: list[str]) -> None:
    expected = cli.summary("part2")
    log = cli.folder / "part2" / "replies.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    assert cli.fast("resume", "part2", "--quiet").rc == 0
    assert cli.summary("part2") == expected


def test_an_estimate_is_of_the_part(cli: Cli, server: OpenAIServer, api: list[str]) -> None:
    half = cli.fast(*api, "--limit", "8", "--dry-run", "--json", "--shard", "1/2").json()
    whole = cli.fast(*api, "--limit", "8", "--dry-run", "--json").json()
    assert 0 < half[0]["calls"] < whole[0]["calls"]


@pytest.mark.parametrize(
    ("other", "key"), [("1/3", "shard.index: 2 -> 1"), ("2/4", "shard.of: 3 -> 4")]
)
def test_another_part_is_another_configuration(cli: Cli, other: str, key: str) -> None:
    assert cli.fast(*OFFLINE, *SMALL, "--shard", "2/3", "--out", "out").rc == 0
    refused = cli.fast(*OFFLINE, *SMALL, "--shard", other, "--out", "out")
    assert (refused.rc, refused.err.count("\n")) == (2, 1)
    assert key in refused.sentence


def test_parts_that_start_together_in_one_directory_do_not_mix(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.delay = 0.1
    command = (*api, "--limit", "4", "--out", "out", "--no-cache")
    started = [cli.start(*command, "--shard", f"{index}/2") for index in (1, 2)]
    ended = [one.wait() for one in started]
    assert sorted(one.rc for one in ended) == [0, 2]
    refused = next(one for one in ended if one.rc == 2)
    assert refused.err.count("\n") == 1
    found = manifest(cli, "out")["shard"]
    assert len(turns_of(cli, "out")) == found["turns"]


@pytest.mark.parametrize(
    "command", [("submit", "pack", "part1"), ("compare", "part1", "part2", "--judge", "smoke")]
)
def test_a_part_is_not_handed_in_nor_compared(
    cli: Cli, parts: list[str], command: Sequence[str]
) -> None:
    refused = cli.fast(*command)
    assert (refused.rc, refused.err.count("\n")) == (2, 1)
    assert refused.sentence == (
        "part1 is part 1 of 3 of a run; merge the parts first: kardiabench merge PART... --out RUN"
    )


def test_a_part_is_left_out_of_a_leaderboard(cli: Cli, parts: list[str]) -> None:
    assert cli.fast(*OFFLINE, *SMALL, "--out", "whole").rc == 0
    built = cli.fast("leaderboard", "build", "whole", "part1", "--out", "site")
    assert built.rc == 0
    assert "left out part1: part1 is part 1 of 3 of a run" in built.err
    assert "index.html: 1 run" in built.out


def test_a_part_of_nothing_is_refused_before_anything_is_made(cli: Cli) -> None:
    refused = cli.fast(*OFFLINE, "--limit", "2", "--shard", "3/4")
    assert (refused.rc, refused.err.count("\n")) == (2, 1)
    assert "only 2 dialogues are chosen" in refused.sentence
    assert not (cli.folder / "runs").exists()


# --- what cannot be merged ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    maker = Cli.in_folder(tmp_path_factory.mktemp("parts"))
    make_parts(maker, (*OFFLINE, *SMALL), 3)
    return maker.folder


@pytest.fixture
def parts(cli: Cli, _parts: Path) -> list[str]:
    """Three parts of a small run, with the user."""
    names = ["part1", "part2", "part3"]
    for name in names:
        shutil.copytree(_parts / name, cli.folder / name)
    return names


def refused(cli: Cli, *args: object) -> str:
    """The sentence with which a merge is refused, and nothing made."""
    before = sorted(file.name for file in cli.folder.iterdir() if file.name[:7] != ".output")
    done = cli.fast("merge", *args)
    assert (done.rc, done.err.count("\n"), done.out) == (2, 1, "")
    after = sorted(file.name for file in cli.folder.iterdir() if file.name[:7] != ".output")
    assert after == before
    return done.sentence


def test_parts_that_are_missing_are_named(cli: Cli, parts: list[str]) -> None:
    assert refused(cli, "part2", "--out", "m").startswith("parts 1, 3 of 3 are missing")
    assert refused(cli, "part1", "part2", "--out", "m").startswith("part 3 of 3 is missing")


def test_parts_that_are_there_twice_are_named(cli: Cli, parts: list[str]) -> None:
    shutil.copytree(cli.folder / "part2", cli.folder / "copy")
    for second in ("copy", "part2"):
        sentence = refused(cli, *parts, second, "--out", "m")
        assert sentence == f"part 2 of 3 is there twice: part2 and {second}; give each part once"


def test_what_is_no_part_is_named(cli: Cli, parts: list[str]) -> None:
    assert cli.fast(*OFFLINE, *SMALL, "--out", "whole").rc == 0
    assert refused(cli, *parts, "whole", "--out", "m").startswith("whole is a whole run")
    assert "nowhere is not a run directory" in refused(cli, *parts, "nowhere", "--out", "m")


@pytest.mark.parametrize(
    ("option", "key"),
    [
        (("--weight", "smoke=2"), "protocol.scorer.weights.smoke: (absent) -> 2.0"),
        (("--limit", "9"), "protocol.dataset.dialogues: 10 -> 9"),
        (("--history", "free"), "protocol.prompts.history: 'gold' -> 'free'"),
        (("--model", "baseline/tfidf"), "model.name"),
    ],
)
def test_parts_of_different_runs_are_refused_and_the_keys_named(
    cli: Cli, option: Sequence[str], key: str
) -> None:
    command = (*OFFLINE, *SMALL)
    assert cli.fast(*command, "--shard", "1/2", "--out", "part1").rc == 0
    assert cli.fast(*command, *option, "--shard", "2/2", "--out", "part2").rc == 0
    sentence = refused(cli, "part1", "part2", "--out", "m")
    assert sentence.startswith("part2 is of another run than part1 (")
    assert key in sentence


def test_parts_of_another_division_are_refused(cli: Cli, parts: list[str]) -> None:
    assert cli.fast(*OFFLINE, *SMALL, "--shard", "3/4", "--out", "quarter").rc == 0
    sentence = refused(cli, "part1", "part2", "quarter", "--out", "m")
    assert "it is part 3 of 4, the other part 1 of 3" in sentence


def test_a_place_that_is_taken_is_left_alone(cli: Cli, parts: list[str]) -> None:
    assert cli.fast(*OFFLINE, *SMALL, "--out", "whole").rc == 0
    before = cli.summary("whole")
    assert "whole is there already" in refused(cli, *parts, "--out", "whole")
    assert cli.summary("whole") == before
    (cli.folder / "empty").mkdir()
    assert cli.fast("merge", *parts, "--out", "empty", "--quiet").rc == 0


def test_a_part_that_is_in_use_is_waited_for(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = (*api, "--limit", "4", "--no-cache")
    assert cli.fast(*command, "--shard", "1/2", "--out", "part1").rc == 0
    server.delay = 0.2
    running = cli.start(*command, "--shard", "2/2", "--out", "part2")
    until((cli.folder / "part2" / "replies.jsonl").exists)
    assert "part2 is in use by another kardiabench" in refused(cli, "part1", "part2", "--out", "m")
    running.kill()
    done = cli.fast("merge", "part1", "part2", "--out", "m", "--quiet")
    assert done.rc == 3
    assert "go on with: kardiabench resume m" in done.sentence
    server.delay = 0.0
    assert cli.fast("resume", "m", "--quiet").rc == 0
    assert cli.fast(*command, "--out", "whole", "--quiet").rc == 0
    assert cli.summary("m") == cli.summary("whole")


def test_a_turn_in_two_parts_is_refused(cli: Cli) -> None:
    data = write_rows(cli.folder / "data.jsonl", [make_row(number) for number in range(4)])
    command = (*OFFLINE, "--dataset", str(data), "--model-arg", "train=sample", "--quiet")
    assert cli.fast(*command, "--shard", "1/2", "--out", "part1").rc == 0
    rows = data.read_text().splitlines()
    data.write_text("\n".join(rows[1:] + rows[:1]) + "\n")
    assert cli.fast(*command, "--shard", "2/2", "--out", "part2").rc == 0
    sentence = refused(cli, "part1", "part2", "--out", "m")
    assert "is both in part1 and in part2" in sentence


def test_logs_that_hold_more_than_their_part_are_refused(cli: Cli, parts: list[str]) -> None:
    log = cli.folder / "part2" / "replies.jsonl"
    log.write_bytes(log.read_bytes() + (cli.folder / "part3" / "replies.jsonl").read_bytes())
    assert "part2 holds replies to" in refused(cli, *parts, "--out", "m")


@pytest.mark.parametrize(
    "shard", [{"index": 4}, {"index": 0}, {"of": "3"}, {"turns": "12"}, {"turns": None}]
)
def test_a_manifest_that_was_edited_is_refused(
    cli: Cli, parts: list[str], shard: dict[str, Any]
) -> None:
    found = manifest(cli, "part2")
    found["shard"] |= shard
    (cli.folder / "part2" / "manifest.json").write_text(json.dumps(found))
    assert "part2/manifest.json" in refused(cli, *parts, "--out", "m")


# --- logs of parts that were not smooth -----------------------------------------------------------


def test_only_the_lines_that_count_are_kept(cli: Cli, parts: list[str]) -> None:
    assert cli.fast("merge", *parts, "--out", "clean", "--quiet").rc == 0
    for name in ("replies.jsonl", "verdicts.jsonl"):
        log = cli.folder / "part2" / name
        lines = log.read_bytes().splitlines(keepends=True)
        stale = lines[0].replace(b'"reply_digest":"', b'"reply_digest":"x')
        log.write_bytes(b"".join([stale, *lines, lines[-1], b'{"torn']))
    assert cli.fast("merge", *parts, "--out", "merged", "--quiet").rc == 0
    assert cli.summary("merged") == cli.summary("clean")
    for name in ("replies.jsonl", "verdicts.jsonl"):
        kept, expected = (
            sorted((cli.folder / run / name).read_bytes().splitlines())
            for run in ("merged", "clean")
        )
        assert kept == expected


def test_failed_turns_of_a_part_are_told_and_retried(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    command = (*api, "--limit", "4", "--no-cache", "--quiet")
    assert cli.fast(*command, "--shard", "1/2", "--out", "part1").rc == 0
    server.default = Behaviour(status=500)
    assert cli.fast(*command, "--skip-preflight", "--shard", "2/2", "--out", "part2").rc == 3
    server.default = Behaviour()
    done = cli.fast("merge", "part1", "part2", "--out", "m", "--quiet")
    assert done.rc == 3
    assert "retry them with: kardiabench resume m --retry-errors" in done.sentence
    assert cli.fast("resume", "m", "--retry-errors", "--quiet").rc == 0
    assert cli.fast(*command, "--out", "whole").rc == 0
    assert cli.summary("m") == cli.summary("whole")


def test_parts_that_received_nothing_leave_the_rest_to_resume(cli: Cli, parts: list[str]) -> None:
    for name in ("replies.jsonl", "verdicts.jsonl"):
        (cli.folder / "part3" / name).unlink()
    done = cli.fast("merge", *parts, "--out", "m", "--quiet")
    assert done.rc == 3
    assert "go on with: kardiabench resume m" in done.sentence
    assert cli.fast("resume", "m", "--quiet").rc == 0
    assert cli.fast(*OFFLINE, *SMALL, "--out", "whole").rc == 0
    assert cli.summary("m") == cli.summary("whole")


# --- kills, cards, versions -----------------------------------------------------------------------


def test_what_a_killed_merge_left_is_cleared_away(cli: Cli, parts: list[str]) -> None:
    left = cli.folder / ".m.merging"
    (left / "cards").mkdir(parents=True)
    for name in ("replies.jsonl", "cards/old.json", ".summary.json.99"):
        (left / name).write_text("half a li")
    assert cli.fast("merge", *parts, "--out", "m", "--quiet").rc == 0
    assert not left.exists()
    names = sorted(file.name for file in (cli.folder / "m").iterdir())
    assert names == [".lock", "manifest.json", "replies.jsonl", "summary.json", "verdicts.jsonl"]


def test_a_merge_killed_at_any_time_leaves_no_half_run(cli: Cli, parts: list[str]) -> None:
    assert cli.fast("merge", *parts, "--out", "whole", "--quiet").rc == 0
    for seconds in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        started = cli.start("merge", *parts, "--out", "m", "--quiet")
        started.process.join(seconds)
        started.kill()
        if (cli.folder / "m").exists():
            assert cli.summary("m") == cli.summary("whole")
            shutil.rmtree(cli.folder / "m")
    assert cli.fast("merge", *parts, "--out", "m", "--quiet").rc == 0
    assert cli.summary("m") == cli.summary("whole")


def test_a_card_goes_along_where_the_parts_agree(cli: Cli, parts: list[str]) -> None:
    card = {"card_version": 1, "judge": "smoke", "fingerprint": "0" * 16}
    for part, measured in (("part1", "a"), ("part2", "a")):
        _write_card(cli.folder / part, card | {"measured": measured})
    assert cli.fast("merge", *parts, "--out", "agreed", "--quiet").err == ""
    assert (cli.folder / "agreed" / "cards" / "smoke.json").exists()
    _write_card(cli.folder / "part2", card | {"measured": "b"})
    other = cli.fast("merge", *parts, "--out", "other", "--quiet")
    assert (other.rc, other.sentence) == (
        0,
        "note: cards/smoke.json is not the same in all parts: left out",
    )
    assert not (cli.folder / "other" / "cards").exists()


def _write_card(run: Path, card: dict[str, Any]) -> None:
    (run / "cards").mkdir(exist_ok=True)
    (run / "cards" / "smoke.json").write_text(json.dumps(card))


def test_parts_of_different_versions_are_told(cli: Cli, parts: list[str]) -> None:
    found = manifest(cli, "part2")
    found["environment"]["packages"]["numpy"] = "0.1"
    (cli.folder / "part2" / "manifest.json").write_text(json.dumps(found))
    done = cli.fast("merge", *parts, "--out", "m", "--quiet")
    assert done.rc == 0
    assert "note: the parts were made with different versions of numpy: " in done.err


def test_parts_that_may_only_be_read_can_be_merged(cli: Cli, parts: list[str]) -> None:
    """As root, who may write everywhere, it only shows that merging them works."""
    for part in parts:
        (cli.folder / part).chmod(0o555)
    try:
        assert cli.fast("merge", *parts, "--out", "m", "--quiet").rc == 0
    finally:
        for part in parts:
            (cli.folder / part).chmod(0o755)


def test_a_session_of_a_part_has_the_protocol_of_the_whole():
    def made(shard: str | None) -> dict[str, Any]:
        settings = RunSettings(
            "baseline/majority", dataset="sample", judges=["smoke"], cache=False, shard=shard
        )
        session = open_session(settings)
        try:
            return make_manifest(session)
        finally:
            asyncio.run(session.aclose())

    whole, part = made(None), made("2/5")
    assert (part["protocol"], part["protocol_id"]) == (whole["protocol"], whole["protocol_id"])
    assert "shard" not in whole
    assert part["shard"]["index"] == 2
