"""The scripted model: what it answers, and that it fails loudly."""

import asyncio

import pytest

from kardiabench.contracts import ModelOptions
from kardiabench.errors import ConfigError, KardiaBenchError
from kardiabench.models.scripted import ScriptedModel, build
from kardiabench.records import ChatRequest, Completion, Message, Usage


def ask(text: str, turn_id: str = "d1/0") -> ChatRequest:
    return ChatRequest((Message("system", "be kind"), Message("user", text)), turn_id=turn_id)


def answers(model, *texts: str) -> list[Completion]:
    return asyncio.run(model.complete([ask(text) for text in texts]))


def test_entries_answer_in_order_and_requests_are_kept():
    model = ScriptedModel([{"text": "one"}, {"text": "two"}])
    assert [c.text for c in answers(model, "a", "b")] == ["one", "two"]
    assert [r.messages[-1].content for r in model.requests] == ["a", "b"]


def test_the_first_unused_matching_entry_goes_before_entries_without_match():
    model = ScriptedModel(
        [{"text": "any"}, {"text": "m1", "match": "cat"}, {"text": "m2", "match": "cat"}]
    )
    found = [c.text for c in answers(model, "a cat", "a dog", "my cat")]
    assert found == ["m1", "any", "m2"]


def test_a_match_may_stand_in_any_message():
    model = ScriptedModel([{"text": "found", "match": "be kind"}])
    assert answers(model, "x")[0].text == "found"


def test_a_repeated_entry_is_never_used_up():
    model = ScriptedModel([{"text": "again", "repeat": True}])
    assert {c.text for c in answers(model, *"abcdef")} == {"again"}


def test_equal_entries_are_two_answers():
    model = ScriptedModel([{"text": "x"}, {"text": "x"}])
    answers(model, "a", "b")
    with pytest.raises(KardiaBenchError):
        answers(model, "c")


def test_no_entry_left_raises_and_names_the_request():
    model = ScriptedModel([{"text": "x", "match": "never"}])
    with pytest.raises(KardiaBenchError, match=r"d7/3.*'I lost my job'"):
        asyncio.run(model.complete([ask("I lost my job", "d7/3")]))


def test_every_field_reaches_the_completion():
    entry = {
        "text": "half",
        "status": "truncated",
        "detail": "cut",
        "finish_reason": "length",
        "reasoning": "hm",
        "delay": 0.01,
        "usage": {"prompt_tokens": 3, "cost": 0.5},
    }
    assert answers(ScriptedModel([entry]), "a") == [
        Completion(
            text="half",
            reasoning="hm",
            finish_reason="length",
            status="truncated",
            detail="cut",
            usage=Usage(calls=1, prompt_tokens=3, cost=0.5),
            latency=0.01,
        )
    ]


def test_delays_of_one_batch_overlap():
    slow, quick = {"text": "slow", "delay": 0.2}, {"text": "quick", "delay": 0.01}
    model, done = ScriptedModel([slow, quick]), []

    async def answer(text):
        (completion,) = await model.complete([ask(text)])
        done.append(completion.text)

    async def both():
        await asyncio.gather(answer("a"), answer("b"))

    asyncio.run(both())
    assert done == ["quick", "slow"]


def test_a_lone_surrogate_can_be_written_afterwards():
    answers(ScriptedModel([{"text": "\ud800"}]), "a")[0].text.encode()


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"txet": "a"}, "'text'"),
        ({"text": 1}, "'text'"),
        ({"status": "refusd"}, "'refused'"),
        ({"delay": "soon"}, "'delay'"),
        ({"usage": {"promt_tokens": 1}}, "'prompt_tokens'"),
    ],
)
def test_a_bad_entry_is_named_at_once(entry, named):
    with pytest.raises(ConfigError, match=rf"entry 2 of scripted/test.*{named}"):
        ScriptedModel([{"text": "fine"}, entry])


def test_build_reads_a_file_and_skips_blank_lines(tmp_path):
    file = tmp_path / "script.jsonl"
    file.write_text('{"text": "eins"}\n\n{"text": "zwei"}\n', encoding="utf-8")
    model = build(f"scripted/{file}", ModelOptions())
    assert [c.text for c in answers(model, "a", "b")] == ["eins", "zwei"]


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"text": 3}', b"\xff\xfe", b"[" * 100_000],
    ids=["cut", "list", "type", "utf8", "deep"],
)
def test_build_names_the_line_that_is_wrong(tmp_path, line):
    file = tmp_path / "script.jsonl"
    file.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ConfigError, match=r"script\.jsonl, line 2: "):
        build(f"scripted/{file}", ModelOptions())


def test_build_names_a_missing_file_and_an_argument_it_does_not_take(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.jsonl"):
        build(f"scripted/{tmp_path}/nothing.jsonl", ModelOptions())
    with pytest.raises(ConfigError, match="'speed'"):
        build("scripted/x.jsonl", ModelOptions(extra={"speed": 1}))


def test_identity_changes_with_the_script_alone():
    one, same, other = (ScriptedModel([{"text": text}]) for text in ("a", "a", "b"))
    answers(same, "x")
    assert one.identity == same.identity != other.identity


def test_close_is_remembered():
    model = ScriptedModel([])
    asyncio.run(model.aclose())
    assert model.closed
