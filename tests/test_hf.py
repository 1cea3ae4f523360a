"""Runs with `hf/…` models from the command line to the files they leave."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import lively_models
import pytest
import tiny_models
from cli_process import Cli, Result, until
from warm_cli import WarmCli

from kardiabench.models.hf import HfModel
from kardiabench.models.local import held, loading
from kardiabench.session import Session, open_session
from kardiabench.settings import RunSettings

TOKENS = 16
SMALL = ("--dataset", "sample", "--no-rubric", "--limit", "2", "--max-tokens", str(TOKENS))
MARKS = re.compile(
    r"<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>|<bos>|<eos>|<pad>|<(?:start|end)_of_turn>"
)
TAGS = re.compile("|".join(map(re.escape, tiny_models.SPAN_TAGS)))
#: What replies of the cache are made to say, to tell them.
FROM_CACHE = "this comes from the cache"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen 2 whose tags are special tokens, a Gemma 3 whose tags are text, and an adapter."""
    folder = tmp_path_factory.mktemp("models")
    special = lively_models.build(folder / "special", context=8192)
    text = {"special_tags": False, "context": 8192, "seed": 2}
    lively_models.build(folder / "ordinary", "gemma3_text", **text)
    lively_models.build(folder / "short", context=1024)
    tiny_models.build_adapter(folder / "adapter", special)
    return folder


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Cli:
    """Somebody who has run the first of the models, into `out`."""
    cli = WarmCli.in_folder(tmp_path_factory.mktemp("user"))
    assert _run(cli, models / "special", "out").rc == 0
    return cli


def _run(cli: Cli, model: Path, out: str, *more: object, cache: bool = False) -> Result:
    return cli.fast(*_command(model, out, *more), *([] if cache else ["--no-cache"]))


def _command(model: Path, out: str, *more: object) -> list[object]:
    return ["run", "--model", f"hf/{model}", *SMALL, "--out", out, *more]


def _replies(cli: Cli, run: str = "out") -> dict[str, dict[str, Any]]:
    """The replies by turn, each turn once."""
    lines = [line["reply"] for line in cli.lines("replies.jsonl", run)]
    found = {line["turn_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def _texts(cli: Cli, run: str = "out") -> dict[str, str]:
    return {turn: reply["text"] for turn, reply in _replies(cli, run).items()}


def _manifest(cli: Cli, run: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cli.folder / run / "manifest.json").read_text())
    return found


def _summary(cli: Cli, run: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli.summary(run))
    return found


# --- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["special", "ordinary"])
def test_replies_are_texts_of_token_ids_without_chat_marks(
    user: Cli, models: Path, name: str
) -> None:
    assert _run(user, models / name, name).rc == 0
    replies = _replies(user, name).values()
    assert len(replies) == _summary(user, name)["turns"]["planned"] > 4
    for reply in replies:
        assert reply["text_source"] == "token_ids"
        assert not MARKS.search(reply["text"])
        cut = reply["finish_reason"] == "length"
        assert reply["status"] == ("truncated" if cut else "ok")
        assert (reply["usage"]["completion_tokens"] == TOKENS) >= cut
        assert 0 < reply["usage"]["completion_tokens"] <= TOKENS
        assert reply["usage"]["prompt_tokens"] > 500
    assert {reply["finish_reason"] for reply in replies} == {"stop", "length"}
    assert any(reply["text"] for reply in replies)
    tags = any(TAGS.search(reply["text"]) for reply in replies)
    assert tags == (name == "special")  # a model says ordinary text letter by letter


def test_turns_of_a_dialogue_read_its_beginning_once(user: Cli) -> None:
    usages = [reply["usage"] for reply in _replies(user).values()]
    read = sum(usage["prompt_tokens"] - usage["cached_tokens"] for usage in usages)
    longest: Counter[str] = Counter()
    for turn, reply in _replies(user).items():
        dialogue = turn.rpartition("/")[0]
        longest[dialogue] = max(longest[dialogue], reply["usage"]["prompt_tokens"])
    assert read <= 1.1 * longest.total()


def test_the_same_command_again_does_nothing(user: Cli, models: Path) -> None:
    files = [user.folder / "out" / name for name in ("replies.jsonl", "verdicts.jsonl")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    again = _run(user, models / "special", "out")
    assert (again.rc, again.err) == (0, "")
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


@pytest.mark.parametrize("how", ["batch_rows=2", "prefix_sharing=false"])
def test_replies_do_not_depend_on_what_is_run_together(user: Cli, models: Path, how: str) -> None:
    out = how.partition("=")[0]
    assert _run(user, models / "special", out, "--model-arg", how).rc == 0
    assert _texts(user, out) == _texts(user)
    assert _manifest(user, out)["model"] == _manifest(user)["model"]


def test_history_free_goes_on_from_the_models_own_replies(user: Cli, models: Path) -> None:
    assert _run(user, models / "special", "free", "--history", "free").rc == 0
    gold, free = _replies(user), _replies(user, "free")
    assert gold.keys() == free.keys()
    for turn, reply in free.items():
        same = reply["usage"]["prompt_tokens"] == gold[turn]["usage"]["prompt_tokens"]
        assert same == turn.endswith("/0")


def test_a_temperature_is_repeatable_with_its_seed(user: Cli, models: Path) -> None:
    for out, seed in (("warm", 3), ("again", 3), ("other", 4)):
        more = ("--temperature", "0.8", "--seed", seed, "--limit", "1")
        assert _run(user, models / "special", out, *more).rc == 0
    assert _texts(user, "warm") == _texts(user, "again")
    assert _texts(user, "warm") != _texts(user, "other")
    assert _texts(user, "warm").items() - _texts(user).items()
    assert _manifest(user, "warm")["model"]["identity"]["temperature"] == 0.8


def test_a_prompt_that_is_too_long_is_an_error_of_its_turn(user: Cli, models: Path) -> None:
    assert _run(user, models / "short", "short").rc == 3
    replies = _replies(user, "short")
    failed = {turn: reply for turn, reply in replies.items() if reply["status"] == "error"}
    assert {turn for turn in replies if not turn.endswith("/0")} == failed.keys()
    for reply in failed.values():
        assert re.match(
            r"context: the prompt has \d+ tokens and the model's context 1024", reply["detail"]
        )
        assert "--truncate-history" in reply["detail"]
    assert _summary(user, "short")["turns"]["errors_by_kind"] == {"context": len(failed)}


def test_a_run_that_was_killed_ends_as_one_that_was_not(user: Cli, models: Path) -> None:
    one_by_one = ("--limit", "6", "--no-cache", "--model-arg", "batch_rows=1")
    command = _command(models / "special", "killed", *one_by_one)
    replies = user.folder / "killed" / "replies.jsonl"
    started = user.start(*command)
    until(lambda: replies.exists() and replies.read_bytes().count(b"\n") > 1)
    started.kill()
    kept = replies.read_bytes().count(b"\n")
    last = user.fast(*command)
    assert last.rc == 0, last.err
    assert _run(user, models / "special", "whole", "--limit", "6").rc == 0
    assert _texts(user, "killed") == _texts(user, "whole")
    assert 1 < kept < len(_texts(user, "whole"))
    assert user.summary("killed") == user.summary("whole")


# --- whose replies they are ----------------------------------------------------------------------


def test_other_weights_are_another_model(user: Cli, models: Path) -> None:
    model = shutil.copytree(models / "special", user.folder / "changing")
    assert _run(user, model, "before", cache=True).rc == 0
    # Where a model lies is no part of what it is.
    identity = _manifest(user, "before")["model"]["identity"]
    assert identity | {"model": ""} == _manifest(user)["model"]["identity"] | {"model": ""}
    assert len(identity["weights"]) >= 16

    _have_the_cache_say(user, FROM_CACHE)
    assert _run(user, model, "cached", cache=True).rc == 0
    for turn, reply in _replies(user, "before").items():
        whole = reply["status"] == "ok"  # what was cut off is not kept
        assert _texts(user, "cached")[turn] == (FROM_CACHE if whole else reply["text"])
    assert FROM_CACHE in _texts(user, "cached").values()
    assert _texts(user, "before") == _texts(user)  # which was run with --no-cache

    lively_models.change_weights(model, _shift)
    refused = _run(user, model, "before", cache=True)
    assert (refused.rc, "model.identity.weights" in refused.sentence) == (2, True)
    assert len(refused.err.splitlines()) == 1
    assert _run(user, model, "after", cache=True).rc == 0
    assert FROM_CACHE not in _texts(user, "after").values()
    assert _texts(user, "after") != _texts(user, "before")


def _shift(weights: dict[str, Any]) -> None:
    weights["lm_head.weight"][:] = weights["lm_head.weight"].roll(1, 0)


def _have_the_cache_say(cli: Cli, text: str) -> None:
    with sqlite3.connect(cli.env["KARDIABENCH_CACHE"]) as cache:
        entries = cache.execute("SELECT key, value FROM entries WHERE key LIKE 'r:%'").fetchall()
        assert entries
        for key, value in entries:
            said = json.dumps(json.loads(value) | {"text": text})
            cache.execute("UPDATE entries SET value=? WHERE key=?", [said.encode(), key])
    cache.close()


def test_an_adapter_makes_another_model(user: Cli, models: Path) -> None:
    assert _run(user, models / "special", "lora", "--adapter", models / "adapter").rc == 0
    assert _texts(user, "lora").keys() == _texts(user).keys()
    assert _texts(user, "lora") != _texts(user)
    adapted = _manifest(user, "lora")["model"]["identity"]
    adapter = adapted.pop("adapter")
    assert len(adapter) >= 16
    assert adapted == _manifest(user)["model"]["identity"]
    refused = _run(user, models / "special", "out", "--adapter", models / "adapter")
    assert (refused.rc, "model.identity.adapter" in refused.sentence) == (2, True)


# --- weights that are shared ---------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of every model that is loaded in this process."""
    noted: list[Any] = []
    load = loading.load

    def noting(name: str, local: Any) -> Any:
        noted.append(local)
        return load(name, local)

    monkeypatch.setattr(held, "load", noting)
    return noted


def _session(model: Path, judge: str, **settings: Any) -> Session:
    judges = [f"rubric:model={judge}"]
    return open_session(
        RunSettings(f"hf/{model}", "sample", judges=judges, cache=False, **settings)
    )


async def _opened(session: Session) -> list[HfModel]:
    """The model under test and the judge's, loaded."""
    opened = [session.model, *session.judge_models.values()]
    for model in opened:
        assert isinstance(model, HfModel)
        await model.chat_format()
    return [model for model in opened if isinstance(model, HfModel)]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_judge_on_the_same_weights_has_them_loaded_once(
    models: Path, loads: list[Any], adapted: bool
) -> None:
    async def shared() -> None:
        more = {"model_args": {"batch_rows": 3}, "seed": 5, "temperature": 0.7, "max_tokens": 8}
        session = _session(models / "special", f"hf/{models / 'special'}", **more)
        tested, judge = await _opened(session)
        assert tested is not judge
        assert len(loads) == 1
        assert tested._engine is judge._engine
        assert (await tested.chat_format())[2] == (await judge.chat_format())[2] == 8192
        assert judge.dialogues_at_once == tested.dialogues_at_once == 1
        await session.aclose()
        await _again(models)
        assert len(loads) == 2  # the last to close frees them

    async def apart() -> None:
        adapter = str(models / "adapter")
        session = _session(models / "special", f"hf/{models / 'special'}", adapter=adapter)
        tested, judge = await _opened(session)
        assert [local.adapter for local in loads] == [adapter, None]  # no judge has it
        assert tested._engine is not judge._engine
        await session.aclose()

    asyncio.run(apart() if adapted else shared())


async def _again(models: Path) -> None:
    session = _session(models / "special", f"hf/{models / 'special'}")
    await _opened(session)
    await session.aclose()


@pytest.mark.parametrize("other", ["dtype=bfloat16", "device=cpu"])
def test_a_judge_that_wants_them_otherwise_loads_its_own(
    models: Path, loads: list[Any], other: str
) -> None:
    async def opened() -> None:
        session = _session(models / "special", f"hf/{models / 'special'},{other}")
        tested, judge = await _opened(session)
        assert tested._engine is not judge._engine
        key, value = other.split("=")
        assert [getattr(local, key) for local in loads] == ["auto", value]
        await session.aclose()

    asyncio.run(opened())


def test_a_judge_without_the_switch_for_thinking_shares_the_weights(
    models: Path, loads: list[Any]
) -> None:
    async def opened() -> None:
        session = _session(models / "special", f"hf/{models / 'special'},thinking=no")
        tested, judge = await _opened(session)
        assert tested._engine is judge._engine
        assert len(loads) == 1
        assert judge.options.local.thinking is False
        await session.aclose()

    asyncio.run(opened())


# --- one sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ("{special}", ["--guided-spans"], ["--guided-spans", "vllm/"]),
        ("openai/gpt-4o", ["--adapter", "some/adapter"], ["--adapter", "hf/", "leave it out"]),
        ("openai/gpt-4o", ["--dtype", "bfloat16"], ["--dtype", "openai/gpt-4o"]),
        ("{special}", ["--model-arg", "batch_row=2"], ["did you mean 'batch_rows'?"]),
        ("{special}", ["--model-arg", "batch_rows=none"], ["batch_rows", "whole number"]),
        ("{special}", ["--model-arg", "top_p=2"], ["top_p=2", "between"]),
        ("{special}", ["--thinking"], ["--thinking", "no switch"]),
        ("{special}", ["--model-revision", "main"], ["--model-revision"]),
        ("{special}", ["--adapter", "{special}"], ["no adapter", "--model"]),
        ("{special}/none", [], ["none does not exist", "give a folder"]),
        ("{special}", ["--device", "cuda:7"], ["--device cuda:7"]),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    user: Cli, models: Path, tmp_path: Path, model: str, more: list[str], words: list[str]
) -> None:
    special = models / "special"
    name = model.format(special=f"hf/{special}")
    given = [word.format(special=special) for word in more]
    refused = user.fast("run", "--model", name, *SMALL, "--out", tmp_path / "out", *given)
    _assert_refused(refused, *words)
    assert not (tmp_path / "out").exists()


def _assert_refused(refused: Result, *words: str) -> None:
    assert (refused.rc, refused.out) == (2, ""), refused.err
    assert len(refused.err.splitlines()) == 1, refused.err
    assert "Traceback" not in refused.err
    for word in words:
        assert word in refused.sentence


def test_a_gpu_that_is_not_there_is_one_sentence(user: Cli, models: Path) -> None:
    command = ("run", "--model", f"hf/{models / 'special'}", *SMALL, "--device", "cuda")
    refused = user.fast(*command, "--out", "refused", CUDA_VISIBLE_DEVICES="")
    _assert_refused(refused, "--device cuda", "GPU", "--device cpu or auto")


#: Python reads it at its start: the packages named are not installed.
_HIDING = """
from importlib import metadata
version = metadata.version
def without(package):
    if package in {hidden!r}:
        raise metadata.PackageNotFoundError(package)
    return version(package)
metadata.version = without
"""


@pytest.mark.parametrize(
    ("hidden", "more"),
    [(("torch", "accelerate"), []), (("peft",), ["--adapter", "any/adapter"])],
)
def test_a_missing_extra_is_said_with_the_line_that_installs_it(
    cli: Cli, models: Path, hidden: tuple[str, ...], more: list[str]
) -> None:
    (cli.folder / "sitecustomize.py").write_text(_HIDING.format(hidden=hidden))
    command = _command(models / "special", "out", *more)
    missing = " and ".join(hidden)
    refused = cli(*command, PYTHONPATH=str(cli.folder))
    _assert_refused(refused, f"need {missing}: pip install 'kardiabench[hf]'")


def test_a_judge_that_is_no_local_model_has_no_local_options(user: Cli, tmp_path: Path) -> None:
    judge = "rubric:model=openai/gpt-4o,dtype=bfloat16"
    command = ("run", "--model", "baseline/majority", "--dataset", "sample", "--judge", judge)
    refused = user.fast(*command, "--out", tmp_path / "out")
    _assert_refused(refused, "option dtype", "openai/gpt-4o")
