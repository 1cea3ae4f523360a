"""`split`: pass rates of a model's own samples, and a manifest that nothing paid for is lost on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from openai_server import Behaviour, unauthorized
from rowdata import gold, make_row, write_rows

from kardiabench.errors import ConfigError, KardiaBenchError, RunError, ScoringError
from kardiabench.plugins import load_registry
from trainer.config import Split
from trainer.split import model_name, run_split
from trainer.split_manifest import SplitDialogue, SplitManifest, read_split, write_split

BAD = "I do not know."
HALF = gold("joyful")  # well formed, and the emotion is wrong
JUDGES = {"judges": ["format", "emotion"], "cache": False}


def quiet(_: str) -> None:
    """For who says nothing."""


def rows(number: int) -> list[dict[str, Any]]:
    """Dialogues of two turns each, told apart by their system prompts."""
    made = [make_row(n) for n in range(number)]
    for n, row in enumerate(made):
        row["messages"][0]["content"] = f"This is talk {n}."
    return made


def script(folder: Path, *entries: dict[str, Any]) -> str:
    path = folder / "script.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return f"scripted/{path}"


def stage_of(folder: Path, model: str, number: int = 3, **changes: Any) -> Split:
    """A split of `number` dialogues, two samples a turn, judged by the deterministic judges."""
    data = write_rows(folder / "rows.jsonl", rows(number))
    given = {
        "model": model,
        "output": folder / "out",
        "data": {"dataset": str(data), "split": None},
        "judging": JUDGES,
        "samples": 2,
        "concurrency": 2,
    }
    return Split(**(given | changes))


def found(path: Path) -> dict[str, SplitDialogue]:
    """The manifest's dialogues by the number in their system prompt."""
    known = {d.id: d for d in read_split(path).dialogues}
    from kardiabench.dialogues import load
    from kardiabench.sources import open_path

    dialogues = load(open_path(str(path.parent.parent / "rows.jsonl"), None, None))
    return {(d.system or "").split()[-1].rstrip("."): known[d.id] for d in dialogues}


def asked_samples(server: Any) -> Counter[tuple[str, int]]:
    """How often each (prompt, seed) was asked for of the model under test."""
    return Counter(
        (json.dumps(r.body["messages"]), r.body["seed"])
        for r in server.requests
        if "This is talk" in json.dumps(r.body) and r.body["model"] == "policy"
    )


def different(body: dict[str, Any]) -> Behaviour | None:
    """The model under test says something else for every seed; None: the judge's own answer."""
    if "This is talk" not in json.dumps(body):
        return None
    return Behaviour(content=gold(response=f"Take your time, {body['seed']} hours."))


# --- what is easy ---------------------------------------------------------------------------------


def test_a_dialogue_is_easy_when_enough_of_its_judged_samples_pass(tmp_path):
    good, half = {"text": gold(), "repeat": True}, {"text": HALF, "repeat": True}
    model = script(
        tmp_path,
        {**good, "match": "This is talk 0."},
        {**half, "match": "This is talk 1."},
        # Of the four samples of talk 2 one fails.
        {"text": BAD, "match": "This is talk 2."},
        *({"text": gold(), "match": "This is talk 2."} for _ in range(3)),
    )
    said: list[str] = []
    path = run_split(stage_of(tmp_path, model, concurrency=1), said.append)
    talks = found(path)
    assert {name: (d.pass_rate, d.easy) for name, d in talks.items()} == {
        "0": (1.0, True),
        "1": (0.0, False),
        "2": (0.75, True),
    }
    assert {d.n_judged for d in talks.values()} == {4}
    assert said == [f"{path}: 2 easy, 1 hard and 0 unjudged of 3 dialogues"]


def test_the_marks_are_thresholds_of_what_was_measured(tmp_path):
    model = script(tmp_path, {"text": HALF, "repeat": True})
    stage = stage_of(tmp_path, model, pass_mark=0.5)
    assert read_split(run_split(stage, quiet)).counts["easy"] == 3
    # Another line through the same scores: nothing is drawn or judged again.
    before = (tmp_path / "out/samples.jsonl").read_bytes()
    path = run_split(stage.model_copy(update={"pass_mark": 0.51}), quiet)
    assert read_split(path).counts["easy"] == 0
    assert (tmp_path / "out/samples.jsonl").read_bytes() == before


def test_a_composite_on_the_mark_passes_whatever_its_last_bit(tmp_path):
    model = script(tmp_path, {"text": HALF, "repeat": True})
    weights = {"format": 0.3, "emotion": 0.1}
    assert 0.3 / (0.1 + 0.3) < 0.75  # the composite, as floats have it
    stage = stage_of(tmp_path, model, pass_mark=0.75, judging={**JUDGES, "weights": weights})
    assert read_split(run_split(stage, quiet)).counts["easy"] == 3


def test_samples_that_failed_count_for_nothing_and_are_asked_for_again(tmp_path, server, keyed):
    def answer(body):
        text = json.dumps(body["messages"])
        if "talk 1." in text or ("talk 2." in text and body["seed"] == 1):
            return Behaviour(status=400, error={"message": "no", "type": "invalid", "code": "no"})
        return Behaviour(content=gold())

    server.rule = answer
    said: list[str] = []
    stage = stage_of(tmp_path, "openai/policy")
    talks = found(run_split(stage, said.append))
    assert (talks["1"].pass_rate, talks["1"].easy, talks["1"].n_judged) == (None, None, 0)
    assert (talks["2"].pass_rate, talks["2"].n_judged, talks["2"].n_samples) == (1.0, 2, 4)
    assert "2 easy, 0 hard and 1 unjudged" in said[-1]
    assert "6 samples have no score (6 by bad_request)" in said[-1]

    manifest = read_split(tmp_path / "out")
    assert talks["1"].id not in manifest.ids("easy") | manifest.ids("hard")
    assert talks["1"].id in manifest.ids("all")

    server.requests.clear()
    server.rule = lambda body: Behaviour(content=gold())
    talks = found(run_split(stage, said.append))
    assert sum(asked_samples(server).values()) == 6
    assert {(d.n_judged, d.easy) for d in talks.values()} == {(4, True)}
    assert "no score" not in said[-1]


# --- prompts and seeds ----------------------------------------------------------------------------


def test_prompts_are_those_of_a_run_and_samples_differ_in_the_seed(tmp_path, server, keyed):
    from kardiabench.dialogues import load
    from kardiabench.prompts import PromptPlan
    from kardiabench.sources import open_path

    data = {"dataset": str(tmp_path / "rows.jsonl"), "split": None, "history_content": "response"}
    stage = stage_of(tmp_path, "openai/policy", data=data, seed=7, temperature=0.9, max_tokens=99)
    server.rule = lambda body: Behaviour(content=gold())
    run_split(stage, quiet)
    plan = PromptPlan(content="response")
    turns = load(open_path(str(tmp_path / "rows.jsonl"), None, None)).turns()
    wanted = {
        (json.dumps([{"role": m.role, "content": m.content} for m in plan.messages(turn)]), seed)
        for turn in turns
        for seed in (7, 8)
    }
    assert set(asked_samples(server)) == wanted
    assert {(r.body["temperature"], r.body["max_tokens"]) for r in _policy(server)} == {(0.9, 99)}


def _policy(server: Any) -> list[Any]:
    return [r for r in server.requests if "This is talk" in json.dumps(r.body)]


def test_a_local_model_draws_different_samples_for_whole_dialogues(tmp_path):
    import torch

    torch.set_num_threads(1)
    folder = tiny_models.build(tmp_path / "model", layers=2)
    stage = stage_of(tmp_path, str(folder), number=2, samples=3, max_tokens=8)
    path = run_split(stage, quiet)
    manifest = read_split(path)
    assert manifest.model["name"] == f"hf/{folder}"
    assert [d.n_judged for d in manifest.dialogues] == [6, 6]
    texts: dict[str, set[str]] = {}
    for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()[1:]:
        reply = json.loads(line)["reply"]
        texts.setdefault(reply["turn_id"], set()).add(reply["text"])
    assert all(len(said) == 3 for said in texts.values())


def test_names_of_models(tmp_path, monkeypatch):
    registry = load_registry([])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai/mine").mkdir()
    for given, named in {
        "Qwen/Qwen2.5-7B-Instruct": "hf/Qwen/Qwen2.5-7B-Instruct",
        "gpt2": "hf/gpt2",
        "vllm/Qwen/Qwen2.5-7B": "vllm/Qwen/Qwen2.5-7B",
        "hf/gpt2": "hf/gpt2",
        "scripted/x.jsonl": "scripted/x.jsonl",
        "openai/gpt-4o": "openai/gpt-4o",
        "openai/mine": "hf/openai/mine",  # a folder that is there
        str(tmp_path): f"hf/{tmp_path}",
    }.items():
        assert model_name(given, registry) == named


# --- going on -------------------------------------------------------------------------------------

_CHILD = """
import sys
from trainer.config import Split
from trainer.split import run_split
run_split(Split.model_validate_json(sys.stdin.read()), print)
"""


def test_after_kill_9_nothing_that_was_paid_for_is_asked_again(tmp_path, server, keyed):
    judging = {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": server.url,
        "cache": False,
        "concurrency": 2,
    }
    stage = stage_of(tmp_path, "openai/policy", number=6, judging=judging)
    server.delay, server.rule = 0.05, different
    child = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, text=True)
    assert child.stdin is not None
    child.stdin.write(stage.model_dump_json())
    child.stdin.close()
    verdicts = tmp_path / "out/verdicts.jsonl"
    _wait_for(lambda: verdicts.exists() and verdicts.read_bytes().count(b"\n") > 9, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.3)  # what was in flight comes in at the server
    with verdicts.open("ab") as file:
        file.write(b'{"sample":0,"verd')  # as a kill within a write leaves it

    kept_samples, kept_verdicts = _stored(tmp_path / "out")
    assert 0 < len(kept_samples) < 24
    server.delay, server.requests[:] = 0.0, []
    manifest = read_split(run_split(stage, quiet))
    asked = asked_samples(server)
    assert set(asked.values()) == {1}
    assert sum(asked.values()) == 24 - len(kept_samples)
    rubric = {key for key in kept_verdicts if key[2] == "rubric"}
    assert _rubric_requests(server) == 24 - len(rubric)
    assert sum(d.n_judged for d in manifest.dialogues) == 24


def _rubric_requests(server: Any) -> int:
    return sum("response begins" in json.dumps(r.body) for r in server.requests) - 1  # preflight


def _stored(folder: Path) -> tuple[set[tuple[str, int]], set[tuple[str, int, str]]]:
    samples = {
        (line["reply"]["turn_id"], line["sample"])
        for line in map(json.loads, (folder / "samples.jsonl").read_bytes().splitlines()[1:])
    }
    verdicts = set()
    for raw in (folder / "verdicts.jsonl").read_bytes().split(b"\n")[:-1]:
        line = json.loads(raw)
        verdicts.add((line["verdict"]["turn_id"], line["sample"], line["verdict"]["judge"]))
    return samples, verdicts


def _wait_for(condition: Any, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.02)


def test_verdicts_that_failed_are_asked_for_again_alone(tmp_path, server, keyed):
    broken = {"on": True}

    def rule(body):
        text = json.dumps(body)
        if broken["on"] and "response begins" in text and "Exam number 1 " in text:
            return Behaviour(content="no verdict")
        return different(body)

    server.rule = rule
    judging = {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": server.url,
        "judge_retries": 0,
        "cache": False,
    }
    stage = stage_of(tmp_path, "openai/policy", judging=judging, pass_mark=0.0)
    said: list[str] = []
    assert found(run_split(stage, said.append))["1"].easy is None
    assert "have no score (4 by judge rubric unparsed)" in said[-1]
    broken["on"] = False
    server.requests.clear()
    assert read_split(run_split(stage, said.append)).counts["unjudged"] == 0
    assert not asked_samples(server)
    assert _rubric_requests(server) == 4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"samples": 3}, r"protocol\.sampling\.samples: 2 -> 3"),
        ({"temperature": 0.5}, r"protocol\.sampling\.temperature: 1\.0 -> 0\.5"),
        (
            {"judging": {**JUDGES, "weights": {"format": 1.0}}},
            r"protocol\.scorer\.weights\.emotion: 1\.0 -> \(absent\)",
        ),
        (
            {"judging": {**JUDGES, "judges": ["format", "smoke"]}},
            r"protocol\.scorer\.judges\.smoke",
        ),
    ],
    ids=["samples", "temperature", "weights", "judge"],
)
def test_another_recipe_is_refused_naming_what_changed(tmp_path, changed, named):
    stage = stage_of(tmp_path, script(tmp_path, {"text": HALF, "repeat": True}))
    run_split(stage, quiet)
    before = (tmp_path / "out/split.json").read_bytes()
    with pytest.raises(RunError, match=named):
        run_split(Split(**(dict(stage) | changed)), quiet)
    assert (tmp_path / "out/split.json").read_bytes() == before


def test_another_model_and_other_data_are_refused(tmp_path):
    stage = stage_of(tmp_path, script(tmp_path, {"text": HALF, "repeat": True}))
    run_split(stage, quiet)
    script(tmp_path, {"text": BAD, "repeat": True})
    with pytest.raises(RunError, match=r"model\.identity\.script"):
        run_split(stage, quiet)
    script(tmp_path, {"text": HALF, "repeat": True})
    write_rows(tmp_path / "rows.jsonl", rows(4))
    with pytest.raises(RunError, match=r"protocol\.dataset\.fingerprint"):
        run_split(stage, quiet)


def test_a_damaged_line_and_a_foreign_file_are_named(tmp_path):
    stage = stage_of(tmp_path, script(tmp_path, {"text": HALF, "repeat": True}))
    run_split(stage, quiet)
    log = tmp_path / "out/verdicts.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"sample":0', b'"sample":9', 1))
    with pytest.raises(RunError, match=r"verdicts\.jsonl, byte 0"):
        run_split(stage, quiet)
    log.write_bytes(whole)
    (tmp_path / "out/samples.jsonl").write_text('{"hello": 1}\n')
    with pytest.raises(RunError, match="not written by"):
        run_split(stage, quiet)


# --- what stops it --------------------------------------------------------------------------------


def test_a_key_that_is_refused_midway_ends_it_and_the_rest_is_kept(tmp_path, server, keyed):
    left = [5]

    def rule(body):
        if "This is talk" not in json.dumps(body):
            return None
        left[0] -= 1
        return Behaviour(content=gold()) if left[0] >= 0 else unauthorized()

    server.rule = rule
    stage = stage_of(tmp_path, "openai/policy", concurrency=1)
    with pytest.raises(RunError, match=r"stopped: auth.*same command again"):
        run_split(stage, quiet)
    assert not (tmp_path / "out/split.json").exists()
    server.requests.clear()
    left[0] = 100
    assert read_split(run_split(stage, quiet)).counts["easy"] == 3
    assert sum(asked_samples(server).values()) == 12 - 5


def test_fail_fast_ends_it_at_the_first_failed_judgement(tmp_path, server, keyed):
    calls = [0]

    def rule(body):
        if "response begins" not in json.dumps(body):
            return None
        calls[0] += 1
        return None if calls[0] == 1 else Behaviour(content="no verdict")

    server.rule = rule
    judging = {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": server.url,
        "judge_retries": 0,
        "on_missing": "fail_fast",
        "cache": False,
    }
    with pytest.raises(ScoringError, match="rubric"):
        run_split(stage_of(tmp_path, "openai/policy", judging=judging), quiet)


def test_a_script_that_ends_too_early_says_so(tmp_path):
    model = script(tmp_path, *({"text": gold()} for _ in range(5)))
    with pytest.raises(KardiaBenchError, match="no entry left"):
        run_split(stage_of(tmp_path, model), quiet)


def test_ctrl_c_keeps_what_is_in_flight(tmp_path, server, keyed):
    server.delay = 0.2
    fired = []

    def rule(body):
        if "This is talk" in json.dumps(body) and not fired:
            fired.append(os.kill(os.getpid(), signal.SIGINT))
        return Behaviour(content=gold())

    server.rule = rule
    stage = stage_of(tmp_path, "openai/policy")
    with pytest.raises(KeyboardInterrupt):
        run_split(stage, quiet)
    samples, _ = _stored(tmp_path / "out")
    assert len(samples) == len(_policy(server)) > 0
    server.delay = 0.0
    assert read_split(run_split(stage, quiet)).counts["easy"] == 3


def test_judging_overlaps_drawing_which_waits_for_a_slow_judge(tmp_path, server, keyed):
    ahead: list[int] = []
    drawn = [0]

    def rule(body):
        if "This is talk" in json.dumps(body):
            drawn[0] += 1
            return different(body)
        if "response begins" in json.dumps(body):
            ahead.append(drawn[0])
            return Behaviour(delay=0.05)
        return None

    server.rule = rule
    judging = {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": server.url,
        "cache": False,
        "concurrency": 1,
    }
    run_split(stage_of(tmp_path, "openai/policy", number=8, judging=judging), quiet)
    leads = [number - judged for judged, number in enumerate(n for n in ahead if n)]
    assert len(leads) == 32
    # One is judged, two wait in the queue, two workers have one each to put there.
    assert 1 <= max(leads) <= 5


def test_a_manifest_to_read_is_refused(tmp_path):
    model = script(tmp_path, {"text": HALF, "repeat": True})
    data = {"dataset": "sample", "manifest": tmp_path / "split.json", "subset": "easy"}
    with pytest.raises(ConfigError, match=r"data\.manifest"):
        run_split(stage_of(tmp_path, model, data=data), quiet)


# --- the manifest ---------------------------------------------------------------------------------


def manifest_of(*dialogues: SplitDialogue, **changes: Any) -> SplitManifest:
    given = {
        "dataset": {"name": "x", "fingerprint": "abc"},
        "prompts": {},
        "model": {},
        "scorer": {},
        "samples": 2,
        "temperature": 1.0,
        "max_tokens": 9,
        "seed": 0,
        "pass_mark": 0.8,
        "easy_share": 0.5,
    }
    return SplitManifest(**(given | changes), dialogues=list(dialogues))


EASY = SplitDialogue("e", 3, 3, 2 / 3, True)
HARD = SplitDialogue("h", 3, 3, 1 / 3, False)
UNJUDGED = SplitDialogue("u", 3, 0, None, None)


def test_a_manifest_comes_back_as_it_was(tmp_path):
    manifest = manifest_of(EASY, HARD, UNJUDGED)
    write_split(tmp_path / "split.json", manifest)
    again = read_split(tmp_path)
    assert again == manifest
    assert again.digest == manifest.digest != manifest_of(EASY, HARD).digest
    assert again.dataset_fingerprint == "abc"
    assert dict(again.counts) == {"easy": 1, "hard": 1, "unjudged": 1}
    assert again.ids("all") == {"e", "h", "u"}
    assert (again.ids("easy"), again.ids("hard")) == ({"e"}, {"h"})
    with pytest.raises(ValueError, match="medium"):
        again.ids("medium")


@pytest.mark.parametrize(
    ("dialogues", "named"),
    [
        ([EASY, EASY], "e is there twice"),
        ([SplitDialogue("e", 3, 3, 2 / 3, False)], "easy is False"),
        ([SplitDialogue("e", 3, 0, 0.0, False)], "0 samples judged"),
        ([SplitDialogue("e", 3, 3, None, None)], "pass_rate None"),
        ([SplitDialogue("e", 3, 4, 0.5, True)], "4 of 3"),
        ([SplitDialogue("e", 3, 3, 0.6, True)], "no share of 3"),
        ([SplitDialogue("e", 3, 3, 4 / 3, True)], "no share of 3"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, dialogues, named):
    write_split(tmp_path / "split.json", manifest_of(*dialogues))
    with pytest.raises(RunError, match=named):
        read_split(tmp_path / "split.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version": 2}',
        json.dumps({"kardiabench": "1", "manifest_version": 1}).encode(),
    ],
    ids=["empty", "cut", "list", "bytes", "deep", "version", "another file"],
)
def test_a_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(RunError, match=r"split\.json is no split of version 1"):
        read_split(tmp_path / "split.json")


def test_wrong_types_and_further_keys_are_refused(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, manifest_of(EASY))
    sound = json.loads(path.read_text())
    for changed, named in (
        ({"samples": "2"}, "samples"),
        ({"pass_mark": float("nan")}, "no split"),
        ({"extra": 1}, "extra"),
        ({"dataset": {}}, "fingerprint"),
    ):
        path.write_text(json.dumps(sound | changed))
        with pytest.raises(RunError, match=named):
            read_split(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"python -m trainer split"):
        read_split(tmp_path / "none.json")


@pytest.fixture
def keyed(server, monkeypatch):
    """The model `openai/…` is the local server; the rubric's dialogues name their exam."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
