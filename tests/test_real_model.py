"""The default rubric prompt before a real language model: what must hold whatever it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from local_model import LocalModel, chat_text
from local_model_server import LocalModelServer

from kardiabench.anchors import load_anchors
from kardiabench.bench import open_bench, run
from kardiabench.records import Item, Verdict

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]
PROMPT = chat_text([{"role": "user", "content": "Name a few colours."}])
STORY = "".join(f"{number} birds sat on the wall, and one flew away. " for number in range(60))
SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": [1, 2, 3, 4, 5]}, "why": {"type": "string", "maxLength": 20}},
    "required": ["level", "why"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel.load()


@contextmanager
def serving(model: LocalModel, *, constrained: bool = False) -> Iterator[LocalModelServer]:
    with LocalModelServer(model, constrained=constrained) as server:
        yield server


def items(number: int) -> list[Item]:
    """Replies of different kinds to one turn, the gold reply first."""
    return [anchor.item for anchor in load_anchors()[:number]]


def verdicts(server: LocalModelServer, asked: Sequence[Item], options: str) -> list[Verdict]:
    bench = open_bench(quiet=True)
    where = f"api_base={server.url},concurrency=1,timeout=600"
    judge = bench.make(f"rubric:model=openai/gemma,{where},{options}")
    return run(bench, lambda: judge.judge(asked))


def assert_sound(verdict: Verdict) -> None:
    """Scored on the scale, or failed and said so: never a number for what was not judged.

    The base model likes to copy the form with its placeholders; that is no evidence.
    """
    scores = list(verdict.scores.values())
    assert len(scores) == 5
    assert verdict.status in {"ok", "unparsed", "partial"}
    if verdict.status == "ok":
        assert all(score is not None and 1 <= score <= 5 for score in scores)
        assert "<quote>" not in [text.strip() for text in verdict.evidence.values()]
    if verdict.status == "unparsed":
        assert scores == [None] * 5
        assert verdict.evidence["judge"]


def is_filled_in(body: dict[str, Any], text: str) -> bool:
    """Whether an answer held to the schema is whole, repeats the nonce and fills the form in."""
    try:
        value = json.loads(text)
    except ValueError:  # it was cut off
        return False
    nonce = re.findall(r"The nonce of this call is (\w+)\.", str(body["messages"]))
    evidence = [
        part["evidence"].strip(" \"'`\n") for name, part in value.items() if name != "nonce"
    ]
    return [value["nonce"].strip()] == nonce and "<quote>" not in map(str.casefold, evidence)


def ask(server: LocalModelServer, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Name a few colours."}]
    asked = {"model": "gemma", "messages": messages, "max_tokens": 12, "temperature": 0}
    return httpx.post(f"{server.url}/chat/completions", json=asked | body, timeout=600)


def test_what_it_says_freely_is_scored_on_the_scale_or_failed_after_one_repair(model):
    asked = items(2)
    with serving(model) as server:
        judged = verdicts(server, asked, "max_tokens=150,temperature=1,seed=1")
        bodies = [request.body for request in server.requests]
    for verdict in judged:
        assert_sound(verdict)
        assert verdict.status != "unparsed" or verdict.usage.calls == 2
    # the first request was refused for its schema: from then on it is asked without
    assert "response_format" in bodies[0]
    assert not any("response_format" in body for body in bodies[1:])
    assert len(bodies) == 1 + sum(verdict.usage.calls for verdict in judged)


def test_a_repair_shows_the_model_its_own_words(model):
    with serving(model) as server:
        (verdict,) = verdicts(server, items(1), "max_tokens=40,temperature=0")
        bodies = [request.body for request in server.requests][1:]
    assert verdict.status == "unparsed"  # no whole answer fits into 40 tokens
    assert "cut off" in verdict.evidence["judge"]
    first, repair = bodies
    assert repair["messages"][: len(first["messages"])] == first["messages"]
    said = repair["messages"][len(first["messages"])]
    assert said["role"] == "assistant"
    prompt = chat_text(first["messages"])
    assert said["content"] == model.write(prompt, max_tokens=40).text.strip()


def test_held_to_the_schema_it_is_read_or_failed_with_the_reason(model):
    asked = items(2)
    with serving(model, constrained=True) as server:
        judged = verdicts(server, asked, "max_tokens=250,temperature=0")
        bodies = [request.body for request in server.requests]
        said = [written.text for written in server.written]
    for verdict in judged:
        assert_sound(verdict)
        assert verdict.status == "ok" or verdict.usage.calls == 2
    assert all("response_format" in body for body in bodies)
    assert len(bodies) == sum(verdict.usage.calls for verdict in judged)
    # a verdict is what was filled in, whole and under the call's nonce; nothing else is one
    filled = [is_filled_in(*one) for one in zip(bodies, said, strict=True)]
    assert sum(filled) == sum(verdict.status == "ok" for verdict in judged)
    # the calls after the first read what they share with it from the cache
    assert sum(verdict.usage.cached_tokens for verdict in judged[1:]) > 1000


def test_the_server_gives_the_models_own_log_probabilities(model):
    with serving(model) as server:
        answer = ask(server, logprobs=True, top_logprobs=3).json()
    (choice,) = answer["choices"]
    tokens = choice["logprobs"]["content"]
    said = "".join(token["token"] for token in tokens)
    assert said.startswith(choice["message"]["content"])  # what ended it is left out
    for token in tokens:
        values = [one["logprob"] for one in token["top_logprobs"]]
        assert token["logprob"] == values[0] < 0  # greedy takes the likeliest
        assert all(one >= other for one, other in pairwise(values))


def test_a_schema_leaves_the_model_nothing_else_to_say(model):
    written = model.write(PROMPT, max_tokens=60, temperature=1.0, seed=3, schema=SCHEMA, top=5)
    assert written.finish_reason == "stop"
    level = next(choice for choice in written.choices if choice.token in b"12345" and choice.token)
    assert {token for token, _ in level.top} <= {b"1", b"2", b"3", b"4", b"5"}


def test_a_server_that_knows_no_schema_says_so(model):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    with serving(model) as server:
        answer = ask(server, response_format=wanted)
    assert answer.status_code == 400
    assert "response_format" in answer.json()["error"]["message"]


def test_what_was_read_before_changes_no_answer(model):
    fresh = LocalModel(model.network, model.tokenizer)
    alone = fresh.write(f"{STORY}Then", max_tokens=8, top=2)
    model.write(f"{STORY}And", max_tokens=3)
    after = model.write(f"{STORY}Then", max_tokens=8, top=2)
    assert alone.cached_tokens == 0
    assert after.cached_tokens > 512  # beyond the window of the layers that look back a little
    assert after.choices == alone.choices


def test_a_seed_decides_a_drawn_answer(model):
    drawn = [model.write(PROMPT, max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].text != drawn[2].text
