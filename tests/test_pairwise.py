"""The `pairwise` judge: both orders, what they come to, and replies that need no comparing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from importlib.resources import files

import pytest
from rundata import make_item, say

from judges.pairwise import FORM, PAIRWISE_VERSION, PairwiseJudge, build
from kardiabench.contracts import JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import digest
from kardiabench.models.scripted import ScriptedModel
from kardiabench.records import Item, Verdict
from kardiabench.scoring import Scorer

NONCE = "n0"
OURS, RIVAL = "Ours is here.", "The rival is here."
FAILED = {"status": "error", "detail": "timeout"}


def answer(better: str, nonce: str = NONCE) -> str:
    return json.dumps({"nonce": nonce, "preference": {"evidence": "warmer", "better": better}})


def judge_with(*entries: object, **options: object) -> PairwiseJudge:
    scripted = [{"text": answer(e)} if isinstance(e, str) else e for e in entries]
    return PairwiseJudge(ScriptedModel(scripted), **{"nonce": lambda: NONCE, **options})


def pair(ours: str = say(response=OURS), rival: str = say(response=RIVAL), **reply: str) -> Item:
    item = make_item(text=ours, **reply)
    return Item(replace(item.turn, gold=rival), item.reply)


def run(judge: PairwiseJudge, item: Item | None = None) -> Verdict:
    """The verdict as the Scorer lets it pass."""
    (verdict,) = asyncio.run(Scorer([judge]).verdicts(judge, [item or pair()]))
    return verdict


@pytest.mark.parametrize(
    ("first", "second", "preference", "note"),
    [
        ("first", "second", 1.0, "the orders agree"),
        ("second", "first", 0.0, "the orders agree"),
        ("tie", "tie", 0.5, "the orders agree"),
        ("first", "first", 0.5, "the orders disagree"),
        ("second", "second", 0.5, "the orders disagree"),
        ("first", "tie", 0.75, "the orders disagree"),
        ("tie", "first", 0.25, "the orders disagree"),
    ],
)
def test_the_preference_is_the_mean_of_both_orders_for_the_reply(first, second, preference, note):
    verdict = run(judge_with(first, second))
    assert (verdict.status, verdict.scores) == ("ok", {"preference": preference})
    assert verdict.evidence == {"preference": "warmer", "judge": note}
    value = {"first": 1.0, "tie": 0.5, "second": 0.0}
    assert verdict.parts == {
        "first": {"preference": value[first]},
        "second": {"preference": 1 - value[second]},
    }
    assert verdict.usage.calls == 2


def test_the_reply_stands_first_and_then_second():
    judge = judge_with("tie", "tie")
    run(judge)
    for request, (first, second) in zip(
        judge.model.requests, [(OURS, RIVAL), (RIVAL, OURS)], strict=True
    ):
        lines = request.messages[1].content.splitlines()
        for name, text in (("first", first), ("second", second)):
            at = lines.index(f"[n0 {name} response begins]")
            assert lines[at + 1 : at + 3] == [json.dumps(text), f"[n0 {name} response ends]"]
        assert lines[-1] == FORM.instruction(NONCE)
        assert request.json_schema == FORM.schema


def test_nothing_says_which_response_is_the_replys():
    judge = judge_with()
    first, second = (q.request.messages for q in judge.questions(pair()))
    swapped = first[1].content.replace(OURS, "X").replace(RIVAL, OURS).replace("X", RIVAL)
    assert (first[0].content, swapped) == (second[0].content, second[1].content)


@pytest.mark.parametrize("answers", [("first", FAILED), (FAILED, "second")])
def test_a_preference_seen_in_one_order_alone_is_none(answers):
    verdict = run(judge_with(*answers))
    assert (verdict.status, verdict.scores) == ("error", {"preference": None})
    assert verdict.evidence == {"judge": "timeout"}
    assert verdict.usage.calls == 2


def test_an_unreadable_answer_is_asked_for_once_more():
    bad = {"text": answer("first", nonce="n1")}
    verdict = run(judge_with("first", bad, "second"))
    assert verdict.scores == {"preference": 1.0}
    assert verdict.evidence["judge"] == "the orders agree, 1 repaired"
    assert run(judge_with("first", bad, bad)).status == "unparsed"


def test_with_samples_only_whole_pairs_count():
    verdict = run(judge_with("first", "second", "first", FAILED, "first", "first", samples=3))
    assert verdict.status == "partial"
    assert verdict.scores == {"preference": 0.75}
    assert verdict.evidence["judge"] == "the orders agree in 1 of 2 pairs, 1 of 3 failed"
    assert verdict.parts["first 2"] == verdict.parts["second 2"] == {"preference": None}
    assert list(verdict.parts)[:3] == ["first 1", "second 1", "first 2"]
    assert verdict.usage.calls == 6


NONE = "no spans"


@pytest.mark.parametrize(
    ("ours", "rival", "preference", "who"),
    [
        (NONE, say(), 0.0, "in the reply:"),
        (say(), NONE, 1.0, "in its rival:"),
        (NONE, say(response=" "), 0.5, "in either:"),
    ],
)
def test_a_side_without_a_response_loses_without_a_call(ours, rival, preference, who):
    verdict = run(judge_with(), pair(ours, rival))
    assert (verdict.status, verdict.scores) == ("ok", {"preference": preference})
    assert who in verdict.evidence["judge"]
    assert verdict.usage.calls == 0


def test_a_reply_that_was_never_generated_is_skipped():
    assert run(judge_with(), pair("", status="error")).status == "skipped"


def test_a_local_batch_gets_both_orders_of_as_many_items_as_it_wants():
    model = ScriptedModel([], batch_size=8)
    assert PairwiseJudge(model, samples=2).batch_size == 2
    assert PairwiseJudge(model).calls_per_item == 2


def test_options_are_those_of_the_model():
    seen: dict[str, object] = {}

    def open_model(name: str, **options: object) -> ScriptedModel:
        seen.update(options, name=name)
        return ScriptedModel([], name=name)

    judge = build({"model": "a/b", "samples": "2"}, JudgeContext(open_model, seed=3))
    assert seen == {"name": "a/b", "seed": 3, "temperature": 1.0}
    assert judge.identity["samples"] == 2
    with pytest.raises(ConfigError, match="judge 'pairwise' has no option 'order'"):
        build({"order": "fixed"}, JudgeContext(open_model))


def test_a_changed_prompt_needs_a_new_version():
    sources = [(files("judges") / f).read_text("utf-8") for f in ("pairwise.j2", "fenced.j2")]
    assert (PAIRWISE_VERSION, digest(sources)) == ("1", "9c63fe933841a59d")
