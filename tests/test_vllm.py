"""Real vLLM with tiny models whose span tags are special tokens: `make test-vllm`.

Starting an engine takes about half a minute, so most tests share one; the test that kills it comes
last.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from kardiabench.contracts import LocalOptions, ModelOptions
from kardiabench.dialogues import load
from kardiabench.emotions import EMOTIONS
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local.vllm_arguments import CAPACITY, RESERVED, SAMPLING
from kardiabench.models.vllm import VllmModel, build
from kardiabench.prompts import PromptPlan
from kardiabench.records import ChatRequest, Completion, Message
from kardiabench.sources import open_sample
from kardiabench.spans import SPAN_NAMES, parse_spans

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
#: Small, and quick to start: nothing is compiled.
ENGINE = {"block_size": 32, "max_num_seqs": 32, "enforce_eager": True}
TOKENS = 24
SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": [1, 2, 3]}},
    "required": ["level"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", autouse=True)
def _small_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(
        tmp_path_factory.mktemp("models") / "tiny", hidden=128, layers=2, context=4096
    )


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def model(folder: Path, runner: asyncio.Runner) -> Iterator[VllmModel]:
    opened = build(f"vllm/{folder}", options())
    runner.run(opened.preflight())
    yield opened
    runner.run(opened.aclose())


def options(**changes: Any) -> ModelOptions:
    chosen = {"max_tokens": TOKENS, "extra": ENGINE, "local": LocalOptions(dtype="float32")}
    return replace(ModelOptions(), **{**chosen, **changes})


def requests_of_sample(dialogues: int) -> list[list[ChatRequest]]:
    """The requests of the sample's longest dialogues, each dialogue's in order."""
    found: dict[str, list[ChatRequest]] = {}
    for turn in load(open_sample("sample", None, None)).turns():
        request = ChatRequest(PromptPlan().messages(turn), turn.id, turn.dialogue.persona_id)
        found.setdefault(turn.dialogue.id, []).append(request)
    return sorted(found.values(), key=len, reverse=True)[:dialogues]


def one(text: str, **changes: Any) -> ChatRequest:
    return replace(ChatRequest((Message("user", text),)), **changes)


def answers(
    runner: asyncio.Runner, model: VllmModel, requests: Sequence[ChatRequest]
) -> list[Completion]:
    return runner.run(model.complete(requests))


def engine_processes() -> list[multiprocessing.process.BaseProcess]:
    return [p for p in multiprocessing.active_children() if p.name.startswith("EngineCore")]


# --- what does not need an engine -----------------------------------------------------------------


def test_the_lists_of_arguments_are_those_of_the_installed_vllm() -> None:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = {field.name for field in fields(AsyncEngineArgs)}
    sampling = set(SamplingParams.__struct_fields__)
    assert set(SAMPLING) <= sampling
    assert not set(SAMPLING) & engine
    assert set(RESERVED) - {"device"} <= engine | sampling
    assert set(CAPACITY) <= engine


# --- one engine -----------------------------------------------------------------------------------


def test_replies_are_those_of_transformers_greedy(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    dialogue = requests_of_sample(1)[0][:4]
    form, decoder, _ = runner.run(model.chat_format())
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = []
    for request in dialogue:
        ids = torch.tensor([form.prompt(request.messages).ids])
        out = reference.generate(ids, max_new_tokens=TOKENS, do_sample=False)
        expected.append(decoder.text(out[0, ids.shape[1] :].tolist()))
    found = answers(runner, model, dialogue)
    assert [completion.text for completion in found] == expected
    assert any(tag in text for text in expected for tag in tiny_models.SPAN_TAGS)


def test_lengths_and_ends_are_reported(runner: asyncio.Runner, model: VllmModel) -> None:
    found = answers(runner, model, [r for d in requests_of_sample(4) for r in d])
    assert {c.status for c in found} <= {"ok", "truncated"}
    for completion in found:
        assert completion.finish_reason == ("stop" if completion.status == "ok" else "length")
        assert completion.usage.completion_tokens <= TOKENS
        assert completion.text_source == "token_ids"
        assert "<|im_end|>" not in completion.text


def test_an_end_token_ends_a_reply(folder: Path, runner: asyncio.Runner, model: VllmModel) -> None:
    form, _, _ = runner.run(model.chat_format())
    second = form.tokenizer.convert_tokens_to_ids("<|endoftext|>")  # generation config only
    ending = build(f"vllm/{folder}", options(extra={**ENGINE, "logit_bias": {str(second): 100.0}}))
    (completion,) = answers(runner, ending, [one("Hello")])
    runner.run(ending.aclose())
    assert (completion.text, completion.finish_reason, completion.status) == ("", "stop", "ok")


def test_models_of_the_same_weights_share_an_engine(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    judge = build(
        f"vllm/{folder}", options(extra={}, engine={**ENGINE, "top_p": 0.9}, max_tokens=8)
    )
    before = engine_processes()
    (completion,) = answers(runner, judge, [one("Judge this")])
    runner.run(judge.aclose())
    assert completion.status != "error"
    assert len(before) == 1
    assert engine_processes() == before
    assert answers(runner, model, [one("Still there?")])[0].status != "error"


def test_guided_replies_are_complete(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    """Random weights end a span sooner where its end tag is made likelier."""
    form, _, _ = runner.run(model.chat_format())
    ends = [f"<|{name}_end|>" for name in SPAN_NAMES]
    bias = {str(form.tokenizer.convert_tokens_to_ids(end)): 4.0 for end in ends}
    guided = build(
        f"vllm/{folder}",
        options(max_tokens=1500, temperature=1.0, seed=1, extra={**ENGINE, "logit_bias": bias}),
    )
    asked = [one("How are you?", guided_spans=True, sample=number) for number in range(6)]
    found = answers(runner, guided, asked)
    runner.run(guided.aclose())
    finished = [completion for completion in found if completion.finish_reason == "stop"]
    assert len(finished) >= 3
    for completion in finished:
        spans = parse_spans(completion.text)
        assert spans.complete, (spans.problems, completion.text)
        assert spans.emotion in EMOTIONS
    assert not any(parse_spans(c.text).complete for c in answers(runner, model, [one("Hello")]))


def test_a_schema_holds_and_chances_join_to_the_text(
    runner: asyncio.Runner, model: VllmModel
) -> None:
    asked = one("Answer", json_schema=SCHEMA, top_logprobs=5)
    (completion,) = answers(runner, model, [asked])
    assert json.loads(completion.text)["level"] in (1, 2, 3)
    assert "".join(chance.token for chance in completion.chances) == completion.text
    assert all(len(chance.top) >= 5 for chance in completion.chances)
    assert all(value <= 0 for chance in completion.chances for _, value in chance.top)


def test_seeds_do_not_depend_on_the_batch(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    del model  # it keeps the engine
    sampled = build(f"vllm/{folder}", options(temperature=1.0, seed=3))
    asked = [one("Tell me", sample=number) for number in range(5)]
    together = [c.text for c in answers(runner, sampled, asked)]
    alone = [answers(runner, sampled, [request])[0].text for request in asked]
    runner.run(sampled.aclose())
    assert together == alone
    assert len(set(together)) == len(together)


def test_the_turns_of_a_dialogue_share_their_prefix(
    runner: asyncio.Runner, model: VllmModel
) -> None:
    dialogues = [dialogue_of_eight_turns(number) for number in range(6)]
    before = model.stats
    assert before is not None

    async def all_at_once() -> list[list[Completion]]:
        return await asyncio.gather(*map(model.complete, dialogues))

    found = [c for completions in runner.run(all_at_once()) for c in completions]
    after = model.stats
    assert after is not None
    assert not [c.detail for c in found if c.status == "error"]
    hits = after.hit_tokens - before.hit_tokens
    queried = after.queried_tokens - before.queried_tokens
    assert queried == sum(c.usage.prompt_tokens for c in found)
    assert hits == sum(c.usage.cached_tokens for c in found)
    assert hits / queried >= 0.75
    assert after.tokens_per_second is not None


def dialogue_of_eight_turns(number: int) -> list[ChatRequest]:
    said = "We spoke of the letter and of the garden. " * 5
    messages = [Message("system", f"{number} {said * 3}")]
    requests = []
    for turn in range(8):
        messages.append(Message("user", f"{turn} {said}"))
        requests.append(ChatRequest(tuple(messages), f"{number}/{turn}"))
        messages.append(Message("assistant", f"{turn} I see. {said}"))
    return requests


def test_a_prompt_that_is_too_long_is_not_asked(runner: asyncio.Runner, model: VllmModel) -> None:
    before = model.stats
    short, long = answers(runner, model, [one("Hi"), one("word " * 5000)])
    after = model.stats
    assert before is not None
    assert after is not None
    assert short.status != "error"
    assert long.status == "error"
    assert long.detail.startswith("context: ")
    assert after.queried_tokens - before.queried_tokens == short.usage.prompt_tokens


def test_what_vllm_refuses_is_an_error_of_that_request(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    del model
    wrong = build(f"vllm/{folder}", options(extra={**ENGINE, "top_p": 7}))
    (completion,) = answers(runner, wrong, [one("Hi")])
    runner.run(wrong.aclose())
    assert completion.status == "error"
    assert completion.detail.startswith("bad_request: top_p must be in (0, 1]")


def test_a_cancelled_call_leaves_nothing_in_the_engine(
    folder: Path, runner: asyncio.Runner, model: VllmModel
) -> None:
    del model
    endless = build(
        f"vllm/{folder}", options(max_tokens=4000, extra={**ENGINE, "min_tokens": 3900})
    )

    async def cancel_soon() -> int:
        task = asyncio.create_task(endless.complete([one("On and on"), one("And on")]))
        await asyncio.sleep(1)
        running = endless._engine
        assert running is not None
        busy = running.running.get_num_unfinished_requests()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert busy == 2
        return int(running.running.get_num_unfinished_requests())

    assert runner.run(cancel_soon()) == 0
    runner.run(endless.aclose())


# --- engines of their own -------------------------------------------------------------------------


def test_wrong_engine_arguments_are_said_before_anything_starts(
    folder: Path, runner: asyncio.Runner
) -> None:
    wrong = build(f"vllm/{folder}", options(extra={"max_num_seq": 4}))
    with pytest.raises(ConfigError, match="did you mean 'max_num_seqs'"):
        runner.run(wrong.preflight())


def test_adapters(folder: Path, runner: asyncio.Runner, tmp_path: Path, model: VllmModel) -> None:
    """An adapter changes replies, and not those of the base beside it."""
    base = answers(runner, model, [one("Hello")])[0].text
    lora = tiny_models.build_adapter(tmp_path / "lora", folder, rank=4)
    adapted = build(
        f"vllm/{folder}", options(local=LocalOptions(dtype="float32", adapter=str(lora)))
    )
    assert answers(runner, adapted, [one("Hello")])[0].text != base
    assert answers(runner, model, [one("Hello")])[0].text == base
    runner.run(adapted.aclose())
    assert adapted.identity["adapter"] != model.identity.get("adapter")


def test_an_adapter_of_another_model_is_refused(
    folder: Path, runner: asyncio.Runner, tmp_path: Path
) -> None:
    other = tiny_models.build(tmp_path / "other", hidden=256, layers=2)
    lora = tiny_models.build_adapter(tmp_path / "lora", other)
    local = LocalOptions(dtype="float32", adapter=str(lora))
    adapted = build(f"vllm/{folder}", options(local=local))
    with pytest.raises(PreflightError, match="does not fit"):
        runner.run(adapted.preflight())
    runner.run(adapted.aclose())


def test_a_dead_engine_is_restarted_once(runner: asyncio.Runner, model: VllmModel) -> None:
    expected = answers(runner, model, [one("Are you there?")])[0].text

    def kill() -> None:
        (process,) = engine_processes()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    async def killed_meanwhile() -> list[Completion]:
        asked = asyncio.create_task(model.complete([one("Are you there?")] * 3))
        await asyncio.sleep(0)
        kill()
        return await asked

    again = runner.run(killed_meanwhile())
    assert [completion.text for completion in again] == [expected] * 3
    assert len(engine_processes()) == 1
    kill()
    (failed,) = answers(runner, model, [one("And now?")])
    assert failed.status == "error"
    assert failed.detail.startswith("engine: ")
    (still,) = answers(runner, model, [one("And now?")])
    assert still.detail == failed.detail


# --- the command ----------------------------------------------------------------------------------


def test_a_killed_run_leaves_no_engine_and_goes_on(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "kardiabench", "run", "--model", f"vllm/{folder}"]
    command += ["--dataset", "sample", "--no-rubric", "--out", str(run), "--dtype", "float32"]
    command += ["--max-tokens", str(TOKENS), "--limit", "4"]
    for name, value in ENGINE.items():
        command += ["--model-arg", f"{name}={json.dumps(value)}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        engine = _wait_for(lambda: _child_named(process.pid, "EngineCore"))
        time.sleep(1)
        process.kill()
    _wait_for(lambda: not Path(f"/proc/{engine}").exists() or None)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in (run / "replies.jsonl").read_text().splitlines()]
    assert replies
    assert any(tag in reply["reply"]["text"] for reply in replies for tag in tiny_models.SPAN_TAGS)
    assert "it/s" not in done.stderr
    assert "INFO" not in done.stderr


def test_a_real_model_generates_dialogues_of_the_sample(tmp_path: Path) -> None:
    """Gemma 3 270M, a base model: the plain format, whose stops are texts."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    from gemma import gemma_folder

    run = tmp_path / "run"
    command = [sys.executable, "-m", "kardiabench", "run", "--dataset", "sample", "--limit", "2"]
    command += ["--model", f"vllm/{gemma_folder(tmp_path / 'gemma')}", "--no-rubric"]
    command += ["--max-tokens", str(TOKENS), "--out", str(run), "--model-arg", "max_model_len=8192"]
    for name, value in ENGINE.items():
        command += ["--model-arg", f"{name}={json.dumps(value)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line)["reply"] for line in (run / "replies.jsonl").open()]
    assert len(replies) > 2
    assert {reply["status"] for reply in replies} <= {"ok", "truncated"}
    assert any(reply["text"].strip() for reply in replies)
    assert not any("<bos>" in reply["text"] or "\n\nUser:" in reply["text"] for reply in replies)
    assert sum(reply["usage"]["cached_tokens"] for reply in replies) > 0


def _child_named(parent: int, name: str) -> int | None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
            line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and (name in line or "spawn_main" in line):
            return int(entry.name)
    return None


def _wait_for(look: Any, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found
