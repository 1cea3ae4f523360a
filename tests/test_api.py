"""The litellm backend, with the real litellm against a real server on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from openai_server import (
    Behaviour,
    OpenAIServer,
    context_exceeded,
    failing,
    insufficient_quota,
    no_such_model,
    policy_violation,
    rate_limited,
    rate_limited_until,
    schema_refused,
    server_error,
    unauthorized,
)

from kardiabench.contracts import ModelOptions
from kardiabench.errors import ConfigError, PluginError, PreflightError
from kardiabench.models.api import ApiModel, build, load_litellm
from kardiabench.models.api_errors import FATAL_KINDS, advice, kind_of, retry_after
from kardiabench.records import ChatRequest, Completion, Message
from kardiabench.spans import parse_spans

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")

KEY = "sk-secret-0123456789abcdef"
SCHEMA = {
    "type": "object",
    "properties": {"empathy": {"type": "integer"}},
    "required": ["empathy"],
    "additionalProperties": False,
}


@pytest.fixture
def server():
    with OpenAIServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL")):
            monkeypatch.delenv(name)
    load_litellm()


def make(server, name="openai/own-model", **options):
    settings = {"api_base": server.url, "retries": 2, "timeout": 10.0} | options
    return ApiModel(name, ModelOptions(**settings), first_wait=0.01)


def request(text="I lost my keys", **more):
    return ChatRequest((Message("user", text),), **more)


def complete(model, *requests):
    async def asked():
        try:
            return await model.complete(requests or (request(),))
        finally:
            await model.aclose()

    return asyncio.run(asked())


def answer(server, *behaviours, **options) -> Completion:
    server.script(*behaviours)
    return complete(make(server, **options))[0]


def wait_until(condition):
    while not condition():
        time.sleep(0.01)


def preflight(model):
    async def asked():
        try:
            await model.preflight()
        finally:
            await model.aclose()

    asyncio.run(asked())


# What comes back


def test_an_answer_comes_back_with_text_usage_and_latency(server):
    got = answer(server, Behaviour(delay=0.05))
    assert (got.status, got.finish_reason, got.detail) == ("ok", "stop", "")
    assert parse_spans(got.text).complete
    assert (got.usage.calls, got.usage.cost) == (1, None)
    assert got.usage.prompt_tokens > 0
    assert got.usage.completion_tokens > 0
    assert 0.05 <= got.latency < 5


def test_latency_is_that_of_the_call_that_was_answered(server):
    assert answer(server, server_error(retry_after=1), Behaviour()).latency < 1


def test_many_requests_are_answered_in_order(server):
    requests = [request(f"message {i}") for i in range(40)]
    together = complete(make(server, concurrency=16), *requests)
    alone = [complete(make(server), one)[0] for one in requests[:3]]
    assert [one.text for one in together[:3]] == [one.text for one in alone]


def test_reasoning_comes_apart_from_the_text(server):
    apart = answer(server, Behaviour(content="hello", message={"reasoning_content": "hm"}))
    inside = answer(server, Behaviour(content="<think>hm</think>hello"))
    assert [(got.text, got.reasoning) for got in (apart, inside)] == [("hello", "hm")] * 2


def test_special_tokens_and_text_that_looks_like_code_are_kept(server):
    text = "<|emotion_begin|>sad<|emotion_end|> {{ x }} \x1b[31m </script><|im_end|>"
    assert answer(server, Behaviour(content=text)).text == text


def test_a_lone_surrogate_becomes_a_replacement_character(server):
    got = answer(server, Behaviour(content="a\ud83d b", message={"reasoning_content": "\udc00"}))
    assert (got.text, got.reasoning) == ("a\ufffd b", "\ufffd")


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_answer_is_an_answer(server, content):
    got = answer(server, Behaviour(content=content))
    assert (got.status, got.text, server.hits) == ("ok", "", 1)


def test_an_answer_that_was_cut_off_is_truncated_and_kept(server):
    got = answer(server, Behaviour(content="I hear", finish_reason="length"))
    assert (got.status, got.text, got.finish_reason) == ("truncated", "I hear", "length")


def test_filters_and_refusals_are_told_apart(server):
    stopped = answer(server, Behaviour(content="", finish_reason="content_filter"))
    before = answer(server, policy_violation())
    refused = answer(server, Behaviour(content=None, message={"refusal": "I won't"}))
    assert [(got.status, got.detail) for got in (stopped, before, refused)] == [
        ("refused", "content_filter"),
        ("refused", "content_filter"),
        ("refused", "refusal"),
    ]
    assert refused.text == "I won't"
    assert server.hits == 3


def test_token_details_are_read_and_null_counts_are_zero(server):
    details = {
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    usage = answer(server, Behaviour(usage=details)).usage
    assert (usage.cached_tokens, usage.reasoning_tokens) == (3, 2)
    nothing = answer(server, Behaviour(usage={"prompt_tokens": None, "completion_tokens": None}))
    assert (nothing.status, nothing.usage.prompt_tokens) == ("ok", 0)


def test_a_listed_model_has_a_cost_and_a_price_and_another_has_none(server):
    listed = make(server, "openai/gpt-4o")
    got = complete(listed)[0].usage
    expected = listed.price(got.prompt_tokens, got.completion_tokens)
    assert got.cost == pytest.approx(expected)
    assert got.cost > 0
    assert make(server).price(10, 10) is None


def test_tokens_are_counted_without_the_network(server):
    for name in ("openai/gpt-4o", "openai/own-model", "together_ai/meta-llama/Llama-3-8b"):
        assert 2 <= make(server, name).count_tokens("how are you today?") <= 10


# What goes wrong

ONCE = 1
THRICE = 3
FAILURES = {
    "rate limit": (rate_limited(), "rate_limit", THRICE),
    "rate limit of Gemini": (
        failing(429, "You exceeded your current quota. Please retry in 3s."),
        "rate_limit",
        THRICE,
    ),
    "quota": (insufficient_quota(), "quota", ONCE),
    "no balance": (failing(402, "Insufficient Balance"), "quota", ONCE),
    "500": (server_error(), "server", THRICE),
    "502": (server_error(502), "server", THRICE),
    "503": (server_error(503), "server", THRICE),
    "401": (unauthorized(), "auth", ONCE),
    "401 in other words": (
        failing(401, "You didn't provide an API key.", kind="invalid_request_error"),
        "auth",
        ONCE,
    ),
    "403": (failing(403, "Not for you"), "auth", ONCE),
    "404": (no_such_model(), "not_found", ONCE),
    "413": (failing(413, "Too large"), "bad_request", ONCE),
    "422": (failing(422, "Unknown field"), "bad_request", ONCE),
    "context": (context_exceeded(), "context", ONCE),
    "invalid JSON": (Behaviour(raw=b"{nope"), "server", THRICE),
    "HTML": (
        Behaviour(raw=b"<html>", headers={"Content-Type": "text/html"}),
        "server",
        THRICE,
    ),
    "error with status 200": (
        Behaviour(raw=b'{"error": {"message": "upstream", "code": 502}}'),
        "server",
        THRICE,
    ),
    "no choices": (Behaviour(choices=[]), "server", THRICE),
    "null message": (Behaviour(choices=[{"index": 0, "message": None}]), "server", THRICE),
    "list of parts": (Behaviour(content=[{"type": "text", "text": "x"}]), "server", THRICE),
    "dropped connection": (Behaviour(drop=True), "connection", THRICE),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_ends_as_an_error_of_its_kind_after_as_many_calls_as_make_sense(server, name):
    behaviour, kind, calls = FAILURES[name]
    server.default = behaviour
    got = answer(server)
    assert (got.status, got.detail.partition(":")[0]) == ("error", kind)
    assert server.hits == calls
    assert got.text == ""
    assert "Traceback" not in got.detail
    assert "litellm." not in got.detail


def test_a_failure_that_passes_leaves_no_trace(server):
    got = answer(server, rate_limited(), Behaviour(drop=True))
    assert (got.status, got.detail, server.hits) == ("ok", "", 3)


def test_a_server_that_is_not_there_is_a_connection_error():
    with OpenAIServer() as gone:
        pass
    assert answer(gone).detail.startswith("connection:")


@pytest.mark.parametrize("behaviour", [Behaviour(delay=30), Behaviour(drip=0.2)])
def test_a_server_that_hangs_or_trickles_is_given_up_on_in_time(server, behaviour):
    server.default = behaviour
    started = time.monotonic()
    got = answer(server, timeout=0.4, retries=1)
    assert got.detail.startswith("timeout:")
    assert server.hits == 2
    assert 0.8 <= time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("behaviour", "least"),
    [
        (rate_limited(1), 1.0),
        (server_error(503, retry_after=0.5), 0.5),
        (failing(429, "slow down", headers={"retry-after-ms": "300"}), 0.3),
    ],
)
def test_retry_after_in_seconds_is_waited_for(server, behaviour, least):
    assert answer(server, behaviour).status == "ok"
    assert least <= server.gaps()[0] < least + 2


def test_retry_after_as_a_date_is_waited_for(server):
    assert answer(server, rate_limited_until(2)).status == "ok"
    assert 0.9 <= server.gaps()[0] < 4  # a date has no fractions of a second


def test_waits_grow_when_the_server_asks_for_none(server):
    server.default = server_error()
    complete(ApiModel("openai/x", make(server, retries=3).options, first_wait=0.1))
    gaps = server.gaps()
    assert len(gaps) == 3
    assert all(gap >= least for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True))


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "", "Tue, 99 Nov"])
def test_a_retry_after_that_says_nothing_is_ignored(value):
    error = Exception()
    error.litellm_response_headers = {"Retry-After": value}
    assert retry_after(error) is None


def test_a_retry_after_in_the_past_means_at_once():
    error = Exception()
    error.litellm_response_headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(error) == 0.0
    assert retry_after(None) is None


def test_every_fatal_kind_has_advice():
    assert all(advice(f"{kind}: x") != "see the detail" for kind in FATAL_KINDS)


def test_a_missing_package_is_not_tried_again():
    assert kind_of(ModuleNotFoundError("No module named 'boto3'")) == "install"


# What is sent


def test_seed_sample_temperature_tokens_and_extra_parameters_arrive(server):
    model = make(
        server, seed=7, temperature=0.6, max_tokens=99, extra={"top_p": 0.5, "extra_body": {"x": 1}}
    )
    complete(model, request(), request(sample=2))
    bodies = sorted((received.body for received in server.requests), key=lambda b: b["seed"])
    assert [body["seed"] for body in bodies] == [7, 9]
    sent = bodies[0]
    wanted = {"model": "own-model", "temperature": 0.6, "max_tokens": 99, "top_p": 0.5, "x": 1}
    assert wanted.items() <= sent.items()
    assert sent["messages"] == [{"role": "user", "content": "I lost my keys"}]


def test_max_completion_tokens_takes_the_place_of_max_tokens(server):
    answer(server, extra={"max_completion_tokens": 50})
    sent = server.requests[0].body
    assert sent["max_completion_tokens"] == 50
    assert "max_tokens" not in sent


def test_the_default_temperature_is_zero(server):
    answer(server)
    assert server.requests[0].body["temperature"] == 0


def test_the_default_temperature_is_left_out_where_the_model_takes_none(server):
    assert answer(server, name="openai/gpt-5-mini").status == "ok"
    assert "temperature" not in server.requests[0].body


def test_a_temperature_that_was_asked_for_is_never_left_out(server):
    known = answer(server, name="openai/gpt-5-mini", temperature=0.3)
    assert known.detail.startswith("bad_request: gpt-5-mini doesn't support temperature=0.3")
    refusing = failing(400, "Unsupported value: 'temperature' does not support 0.3")
    server.default = refusing
    assert answer(server, temperature=0.3).detail.startswith("bad_request:")
    assert server.hits == 1


def test_the_default_temperature_is_left_out_once_a_server_refuses_it(server):
    server.rule = lambda body: (
        failing(400, "Unsupported value: 'temperature'") if "temperature" in body else None
    )
    model = make(server, concurrency=1)
    assert {got.status for got in complete(model, request(), request(), request())} == {"ok"}
    assert server.hits == 4


def test_an_unsupported_extra_parameter_is_an_error_and_not_dropped(server):
    got = answer(server, name="openai/gpt-5-mini", extra={"logit_bias": {"1": 2}})
    assert got.detail.startswith("bad_request:")
    assert server.hits == 0


@pytest.mark.parametrize("name", ["openai/gpt-4o", "openai/own-model", "hosted_vllm/own-model"])
def test_a_schema_is_sent_where_the_provider_can(server, name):
    got = complete(make(server, name), request(json_schema=SCHEMA))[0]
    sent = server.requests[0].body["response_format"]
    assert sent["json_schema"]["schema"] == SCHEMA
    assert list(json.loads(got.text)) == ["empathy"]


def test_no_schema_is_sent_where_none_is_asked_for(server):
    answer(server)
    assert "response_format" not in server.requests[0].body


def test_a_server_that_refuses_the_schema_is_asked_without_and_only_once(server):
    server.rule = lambda body: schema_refused() if "response_format" in body else None
    asked = [request(json_schema=SCHEMA)] * 3
    assert {got.status for got in complete(make(server, concurrency=1), *asked)} == {"ok"}
    assert ["response_format" in received.body for received in server.requests] == [
        True,
        False,
        False,
        False,
    ]


def test_a_bad_request_for_another_reason_is_still_an_error(server):
    server.default = failing(400, "Unknown parameter: 'foo'")
    got = complete(make(server), request(json_schema=SCHEMA))[0]
    assert got.detail == "bad_request: Unknown parameter: 'foo'"
    assert server.hits == 2


def test_the_key_of_the_environment_is_sent_and_a_stand_in_without_one(server, monkeypatch):
    answer(server)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answer(server)
    assert [r.authorization for r in server.requests] == ["Bearer none", f"Bearer {KEY}"]


def test_anthropic_is_spoken_to_in_its_own_protocol(server):
    model = make(server, "anthropic/claude-sonnet-4-5", api_base=server.origin, seed=3)
    messages = (Message("system", "Be kind"), Message("user", "hello"))
    got = complete(model, ChatRequest(messages))[0]
    sent = server.requests[0]
    assert (got.status, sent.path) == ("ok", "/v1/messages")
    assert parse_spans(got.text).complete
    assert "seed" not in sent.body
    assert got.usage.cost > 0


def test_anthropic_failures_are_told_apart_as_well(server):
    options = {"name": "anthropic/claude-sonnet-4-5", "api_base": server.origin, "retries": 1}
    quota = answer(server, failing(400, "Your credit balance is too low"), **options)
    limit = answer(server, rate_limited(), rate_limited(), **options)
    long = answer(server, failing(400, "prompt is too long: 300000 tokens"), **options)
    details = [got.detail.partition(":")[0] for got in (quota, limit, long)]
    assert details == ["quota", "rate_limit", "context"]


# Limits, loops and closing


def test_no_more_than_concurrency_requests_are_open_at_a_time(server):
    server.delay = 0.05
    model = make(server, concurrency=5)

    async def asked():
        single = [model.complete([request(str(i))]) for i in range(10)]
        await asyncio.gather(*single, model.complete([request(f"b{i}") for i in range(10)]))
        await model.aclose()

    asyncio.run(asked())
    assert server.hits == 20
    assert 3 <= server.most_at_once <= 5


def test_one_model_works_in_one_event_loop_after_another(server):
    model = make(server)
    assert [complete(model)[0].status for _ in range(3)] == ["ok"] * 3


def test_a_model_goes_on_when_another_is_closed(server):
    staying, leaving = make(server), make(server)

    async def asked():
        await asyncio.gather(staying.complete([request()]), leaving.complete([request()]))
        await leaving.aclose()
        first = await staying.complete([request()])
        await staying.aclose()
        return [*first, *await staying.complete([request()])]

    async def closing():
        got = await asked()
        await staying.aclose()
        return got

    assert [got.status for got in asyncio.run(closing())] == ["ok", "ok"]
    assert server.hits == 4


def test_cancelling_frees_the_limit_and_leaves_nothing_running(server):
    server.rule = lambda body: Behaviour(delay=20) if "slow" in str(body) else None
    model = make(server, concurrency=2)

    async def asked():
        slow = asyncio.ensure_future(model.complete([request(f"slow {i}") for i in range(4)]))
        await asyncio.to_thread(wait_until, lambda: server.open == 2)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        got = await asyncio.wait_for(model.complete([request()]), 5)
        await model.aclose()
        ours = [t for t in asyncio.all_tasks() if "ApiModel" in repr(t)]
        return got[0].status, ours

    assert asyncio.run(asked()) == ("ok", [])


# Keys and configuration


@pytest.mark.parametrize("name", ["openai/own-model", "anthropic/claude-sonnet-4-5"])
def test_a_key_that_the_server_echoes_is_cut_out(server, monkeypatch, name):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    server.default = unauthorized()
    model = make(server, name, api_base=server.origin if "claude" in name else server.url)
    got = complete(model)[0]
    assert got.detail.startswith("auth:")
    with pytest.raises(PreflightError) as caught:
        preflight(model)
    for text in (repr(got), str(caught.value), json.dumps(model.identity)):
        assert KEY not in text


def test_the_identity_is_the_model_the_endpoint_and_the_decoding():
    options = ModelOptions(0.5, 10, 3, "http://127.0.0.1:1/v1", timeout=3, extra={"top_p": 1})
    assert build("openai/x", options).identity == {
        "model": "openai/x",
        "endpoint": "custom",
        "temperature": 0.5,
        "max_tokens": 10,
        "seed": 3,
        "extra": {"top_p": 1},
    }


def test_a_server_that_moves_stays_the_same_model_but_not_the_same_endpoint(monkeypatch):
    here, there = (ModelOptions(api_base=f"http://127.0.0.1:{port}/v1") for port in (1, 2))
    assert build("openai/x", here).identity == build("openai/x", there).identity
    assert build("openai/x", here).endpoint != build("openai/x", there).endpoint
    assert build("openai/x", ModelOptions()).endpoint is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:3/v1")
    assert build("openai/x", ModelOptions()).endpoint == "http://127.0.0.1:3/v1"
    assert build("openai/x", ModelOptions()).identity["endpoint"] == "custom"


def test_preflight_passes_with_one_request(server):
    preflight(make(server))
    assert server.hits == 1


def test_preflight_says_what_is_wrong_and_what_to_do(server):
    server.default = no_such_model()
    with pytest.raises(PreflightError, match=r"not_found: .*check the model's name"):
        preflight(make(server))


def test_preflight_does_not_wait_through_all_retries(server):
    server.default = server_error()
    with pytest.raises(PreflightError, match="server"):
        preflight(make(server, retries=50))
    assert server.hits == 3


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("openai/gpt-4o", "OPENAI_API_KEY"),
        ("gpt-4o", "OPENAI_API_KEY"),
        ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY"),
        ("deepseek/deepseek-reasoner", "DEEPSEEK_API_KEY"),
        ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
    ],
)
def test_a_missing_key_is_named_before_anything_is_sent(name, variable):
    with pytest.raises(PreflightError, match=variable):
        preflight(build(name, ModelOptions()))


def test_a_bare_name_works_as_in_litellm(server):
    assert answer(server, name="gpt-4o").status == "ok"
    assert server.requests[0].body["model"] == "gpt-4o"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("opnai/gpt-4o", "did you mean 'openai'?"),
        ("gpt-4oo", "did you mean 'gpt-4o'?"),
        ("meta-llama/Llama-3", "openai/meta-llama/Llama-3 with --api-base"),
    ],
)
def test_an_unknown_model_gets_a_hint(name, hint):
    with pytest.raises(PluginError) as caught:
        preflight(build(name, ModelOptions()))
    assert hint in str(caught.value)


def test_a_request_to_an_unknown_model_is_a_completion_not_an_exception(server):
    got = answer(server, name="opnai/gpt-4o")
    assert (got.status, got.detail.partition(":")[0]) == ("error", "not_found")


@pytest.mark.parametrize("name", ["", "a model", "openai/gpt 4", "{}"])
def test_what_is_no_name_is_refused_at_once(name):
    with pytest.raises(PluginError, match="not a model name"):
        build(name, ModelOptions())


@pytest.mark.parametrize(
    "options",
    [
        {"api_base": "http://user:word@127.0.0.1/v1"},
        {"api_base": "127.0.0.1:8000"},
        {"extra": {"api_key": "x"}},
        {"extra": {"extra_headers": {"Authorization": "x"}}},
        {"extra": {"api_base": "http://127.0.0.1/v1"}},
        {"extra": {"stream": True}},
        {"extra": {"mock_response": "x"}},
    ],
)
def test_options_that_cannot_be_used_are_refused_at_once(options):
    with pytest.raises(ConfigError):
        build("openai/x", ModelOptions(**options))


def test_options_that_only_sound_secret_are_taken():
    build("openai/x", ModelOptions(extra={"max_completion_tokens": 5, "min_tokens": 1}))


# In a process of its own


def run(code, *, server=None, leaks=True, **environment):
    """Run `code`; what it wrote to stdout and to stderr, with `leaks` of sessions left open too."""
    folder = Path(__file__).parent
    names = f"URL = {server.url if server else ''!r}\n"
    done = subprocess.run(
        [
            sys.executable,
            *(["-W", "default::ResourceWarning"] if leaks else []),
            *("-c", names + textwrap.dedent(code)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder.parent), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_importing_the_backend_and_building_a_model_does_not_import_litellm():
    out, _ = run(
        """
        import sys
        import kardiabench.models.api as api
        from kardiabench.contracts import ModelOptions
        api.build("openai/gpt-4o", ModelOptions()).identity
        print([name for name in ("litellm", "openai", "httpx", "aiohttp") if name in sys.modules])
        """
    )
    assert out.strip() == "[]"


def test_litellm_is_loaded_priced_and_counted_with_without_touching_the_network():
    out, err = run(
        """
        import sys
        calls = []
        watched = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
        sys.addaudithook(lambda event, args: calls.append(args) if event in watched else None)
        from kardiabench.contracts import ModelOptions
        from kardiabench.models.api import build, load_litellm
        load_litellm()
        for name in ("openai/gpt-4o", "together_ai/meta-llama/Llama-3-8b", "cohere/command-r"):
            model = build(name, ModelOptions())
            model.price(1, 1), model.count_tokens("hello")
        print(calls)
        """
    )
    assert (out.strip(), err) == ("[]", "")


ASKING = """
import asyncio
from kardiabench.contracts import ModelOptions
from kardiabench.models.api import ApiModel
from kardiabench.records import ChatRequest, Message
options = ModelOptions(api_base=URL, retries=1, timeout=1)
model = ApiModel("openai/x", options, first_wait=0.01)
other = ApiModel("anthropic/claude-sonnet-4-5", ModelOptions(api_base=URL.removesuffix("/v1")))
async def ask():
    requests = [ChatRequest((Message("user", str(i)),)) for i in range(4)]
    try:
        got = await model.complete(requests) + await other.complete(requests[:1])
    finally:
        await model.aclose()
        await other.aclose()
    return sorted({one.status for one in got})
"""


def test_closing_leaves_no_session_open(server):
    code = ASKING + "print(asyncio.run(ask()), asyncio.run(ask()))\nimport gc; gc.collect()"
    assert run(code, server=server) == ("['ok'] ['ok']\n", "")


def test_errors_print_nothing_to_the_terminal(server):
    kinds = (
        server_error(),
        unauthorized(),
        rate_limited(),
        context_exceeded(),
        Behaviour(raw=b"{nope"),
        Behaviour(content=[{"type": "text", "text": "x"}]),
        Behaviour(choices=[{"index": 0, "message": None}]),
        Behaviour(drop=True),
        Behaviour(delay=2),
    )
    server.script(*[kind for kind in kinds for _ in range(2)])
    code = ASKING + "print([asyncio.run(ask()) for _ in range(6)])"
    out, err = run(code, server=server)
    assert ("error" in out, "ok" in out, err) == (True, True, "")


def test_cancelling_at_any_moment_prints_nothing(server):
    code = """
    async def cancelled(wait):
        started = asyncio.ensure_future(ask())
        await asyncio.sleep(wait)
        started.cancel()
        await asyncio.gather(started, return_exceptions=True)

    asyncio.run(ask())
    for step in range(20):
        asyncio.run(cancelled(step / 1000))
    print(asyncio.run(ask()))
    import gc; gc.collect()
    """
    # A connection that is just being made when it is cancelled is left to the collector.
    assert run(ASKING + textwrap.dedent(code), server=server, leaks=False) == ("['ok']\n", "")


def test_a_process_that_ends_without_closing_says_nothing_either(server):
    code = ASKING + "model.aclose = other.aclose = lambda: asyncio.sleep(0)\n"
    out, err = run(code + "print(asyncio.run(ask()))", server=server)
    assert out == "['ok']\n"
    assert "Unclosed client session" not in err


def test_the_server_also_runs_as_a_process():
    script = Path(__file__).with_name("openai_server.py")
    command = [sys.executable, str(script), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        model = ApiModel("openai/x", ModelOptions(api_base=url, retries=0))
        status = complete(model)[0].status
        process.terminate()
    assert status == "ok"
