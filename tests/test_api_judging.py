"""What judges need of the litellm backend: marked beginnings, and the chances of tokens."""

from __future__ import annotations

import asyncio
import math

import pytest
from openai_server import Behaviour, OpenAIServer, failing

from judges.rubric import RubricJudge
from kardiabench.contracts import ModelOptions
from kardiabench.models.api import ApiModel, load_litellm
from kardiabench.preflight import sample_item
from kardiabench.records import ChatRequest, Completion, Message

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")
LONG = (
    Message("system", "the rubric", shared=10),
    Message("user", "the person; this call", shared=10),
)


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-none-0123456789abcdef")
    load_litellm()


def ask(server: OpenAIServer, name: str, request: ChatRequest) -> Completion:
    base = server.origin if name.startswith("anthropic") else server.url

    async def go() -> Completion:
        model = ApiModel(name, ModelOptions(api_base=base, retries=0))
        (completion,) = await model.complete([request])
        await model.aclose()
        return completion

    return asyncio.run(go())


def test_anthropic_is_told_which_beginnings_to_cache(server):
    ask(server, "anthropic/claude-sonnet-4-5", ChatRequest(LONG))
    body = server.requests[0].body
    marked = {"type": "ephemeral"}
    assert body["system"] == [{"type": "text", "text": "the rubric", "cache_control": marked}]
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "the person", "cache_control": marked},
        {"type": "text", "text": "; this call"},
    ]


def test_messages_that_share_nothing_are_not_marked(server):
    ask(server, "anthropic/claude-sonnet-4-5", ChatRequest((Message("user", "hello"),)))
    assert "cache_control" not in str(server.requests[0].body)


def test_others_get_the_same_text_as_plain_strings(server):
    ask(server, "openai/anything", ChatRequest(LONG))
    assert server.requests[0].body["messages"] == [
        {"role": "system", "content": "the rubric"},
        {"role": "user", "content": "the person; this call"},
    ]


def with_chances(text: str, level: str, others: dict[str, float]) -> Behaviour:
    """An answer in three tokens whose middle one is `level`; a heart is cut into its bytes."""
    before, after = text.split(level)
    pieces = [before.encode(), level.encode(), after.encode()[:-1], after.encode()[-1:]]
    content = [
        {
            "token": piece.decode("utf-8", "replace"),
            "bytes": list(piece),
            "logprob": -0.1,
            "top_logprobs": [
                {"token": token, "bytes": list(token.encode()), "logprob": math.log(p)}
                for token, p in others.items()
            ],
        }
        for piece in pieces
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content},
    }
    return Behaviour(choices=[choice])


def test_chances_are_asked_for_and_read_down_to_the_byte(server):
    server.script(with_chances("say 4 ❤", "4", {"4": 0.75, "5": 0.25}))
    completion = ask(server, "openai/anything", ChatRequest(LONG, top_logprobs=10))
    body = server.requests[0].body
    assert (body["logprobs"], body["top_logprobs"]) == (True, 10)
    tokens = [one.token for one in completion.chances]
    spelt = "".join(tokens).encode("utf-8", "surrogateescape").decode()
    assert (spelt, completion.text) == ("say 4 ❤", "say 4 ❤")
    assert dict(completion.chances[1].top) == pytest.approx(
        {"4": math.log(0.75), "5": math.log(0.25)}
    )


def test_a_server_that_refuses_chances_is_asked_without(server):
    server.script(failing(400, "logprobs are not supported with this model"), Behaviour())
    completion = ask(server, "openai/anything", ChatRequest(LONG, top_logprobs=10))
    assert (completion.status, completion.chances) == ("ok", ())
    assert "logprobs" in server.requests[0].body
    assert not {"logprobs", "top_logprobs"} & server.requests[1].body.keys()


def test_nothing_is_asked_of_a_provider_that_has_no_chances(server):
    ask(server, "anthropic/claude-sonnet-4-5", ChatRequest(LONG, top_logprobs=10))
    assert "logprobs" not in str(server.requests[0].body)


def test_the_rubric_marks_its_rubric_and_the_persons_part_of_the_prompt(server):
    judge = RubricJudge(
        ApiModel("anthropic/claude-sonnet-4-5", ModelOptions(api_base=server.origin))
    )
    (verdict,) = asyncio.run(judge.judge([sample_item()]))
    assert verdict.status == "ok"
    body = server.requests[0].body
    person, own = body["messages"][0]["content"]
    assert person["cache_control"] == body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert person["text"].startswith('"profile": ')
    assert own["text"].startswith("The nonce of this call is ")
