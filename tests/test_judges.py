"""The offline judges: `format`, `emotion` and `smoke`, and how their options are checked."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.options import Options
from judges.verdicts import clip
from kardiabench.contracts import Judge, JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.models.scripted import ScriptedModel
from kardiabench.records import Dialogue, Item, Message, Reply, Turn, Verdict
from kardiabench.spans import render_spans

GOOD = render_spans(
    "She fears the move.",
    "Name the fear.",
    "anxious",
    "Moving alone sounds scary. What worries you most about the new city?",
)


def make_item(text: str, status: str = "ok", emotion: str = "anxious", detail: str = "") -> Item:
    messages = (
        Message("system", "Be kind."),
        Message("user", "I am moving to a new city and I worry about being alone."),
        Message("assistant", GOOD),
    )
    dialogue = Dialogue("d1", "p1", "INFP. Quiet painter.", "INFP", emotion, "Moving.", messages)
    turn = Turn(dialogue, 0, 2, GOOD, emotion, "span")
    return Item(turn, Reply(turn.id, text, status, detail))


def make_judge(name: str, **options: str) -> Judge:
    module = importlib.import_module(f"judges.{name}")
    context = JudgeContext(open_model=lambda model, **_: ScriptedModel([], name=model))
    return module.build(options, context)


def judge_one(judge: Judge, item: Item) -> Verdict:
    (verdict,) = asyncio.run(judge.judge([item]))
    return verdict


@pytest.mark.parametrize("name", ["format", "emotion", "smoke", "rubric"])
def test_a_reply_that_was_never_generated_is_skipped_and_not_scored(name):
    judge = make_judge(name)
    verdict = judge_one(judge, make_item("", "error", detail="timeout after 120 s"))
    assert verdict.status == "skipped"
    assert set(verdict.scores) == {dimension.name for dimension in judge.dimensions}
    assert set(verdict.scores.values()) == {None}
    assert "timeout after 120 s" in verdict.evidence["judge"]


@pytest.mark.parametrize("name", ["format", "emotion", "smoke", "rubric"])
def test_verdicts_carry_the_fingerprint_of_the_identity_and_the_judges_name(name):
    judge = make_judge(name)
    verdict = judge_one(judge, make_item("no spans"))
    assert verdict.fingerprint == fingerprint(judge.identity)
    assert verdict.judge == name
    assert verdict.turn_id == "d1/0"


@pytest.mark.parametrize("name", ["format", "emotion", "smoke", "rubric"])
def test_a_label_given_by_the_user_does_not_change_what_the_judge_is(name):
    judge, renamed = make_judge(name), make_judge(name)
    renamed.name = "other"
    assert fingerprint(renamed.identity) == fingerprint(judge.identity)
    assert judge_one(renamed, make_item("")).judge == "other"


@pytest.mark.parametrize("name", ["format", "emotion", "smoke", "rubric"])
def test_verdicts_come_in_the_order_of_the_items(name):
    items = [make_item("a"), make_item("", "error"), make_item("b")]
    verdicts = asyncio.run(make_judge(name).judge(items))
    assert [verdict.status for verdict in verdicts] == ["ok", "skipped", "ok"]
    assert asyncio.run(make_judge(name).judge([])) == []


@pytest.mark.parametrize("name", ["format", "emotion", "smoke"])
def test_an_option_that_an_offline_judge_does_not_have_is_named(name):
    with pytest.raises(ConfigError, match=f"'{name}' has no option 'samples': it takes none"):
        make_judge(name, samples="3")


def test_format_is_one_for_four_good_spans_and_zero_with_the_reasons_otherwise():
    judge = make_judge("format")
    good = judge_one(judge, make_item(GOOD))
    assert (good.scores, good.evidence) == ({"format": 1.0}, {})
    bad = judge_one(judge, make_item(GOOD.replace("<|emotion_begin|>anxious<|emotion_end|>", "")))
    assert bad.scores == {"format": 0.0}
    assert bad.evidence == {"format": "missing:emotion"}


@pytest.mark.parametrize("status", ["truncated", "refused"])
def test_format_is_zero_for_a_reply_the_model_did_not_finish(status):
    verdict = judge_one(make_judge("format"), make_item(GOOD, status))
    assert (verdict.status, verdict.scores) == ("ok", {"format": 0.0})
    assert verdict.evidence == {"format": status}


@pytest.mark.parametrize(
    ("span", "score", "evidence"),
    [
        ("anxious", 1.0, "anxious"),
        (" **Anxious.** ", 1.0, "anxious"),
        ("sad", 0.0, "sad"),
        ("anxiety", 0.0, "unmatched: anxiety"),
        ("anxious, sad", 0.0, "unmatched: anxious, sad"),
        ("x" * 500, 0.0, "unmatched: " + "x" * 79 + "…"),
    ],
)
def test_emotion_is_an_exact_match_of_the_span_with_the_label_as_evidence(span, score, evidence):
    verdict = judge_one(make_judge("emotion"), make_item(render_spans("u", "r", span, "s")))
    assert (verdict.scores, verdict.evidence) == ({"emotion": score}, {"emotion": evidence})


@pytest.mark.parametrize("text", ["", "I feel anxious for you", "<|emotion_begin|>anxious"])
def test_emotion_is_zero_where_no_complete_emotion_span_stands(text):
    verdict = judge_one(make_judge("emotion"), make_item(text, "truncated"))
    assert (verdict.status, verdict.scores) == ("ok", {"emotion": 0.0})
    assert verdict.evidence == {"emotion": "unmatched: (no emotion span)"}


def test_smoke_says_everywhere_that_it_is_a_smoke_test():
    judge = make_judge("smoke")
    verdict = judge_one(judge, make_item(GOOD))
    assert judge.smoke_test is True
    assert judge.identity["smoke_test"] is True
    assert "not a judgement" in verdict.evidence["judge"]
    assert "not a judgement" in type(judge).__doc__
    assert all("smoke test" in dimension.description for dimension in judge.dimensions)


def test_smoke_never_scores_persona_consistency_or_safety():
    scores = judge_one(make_judge("smoke"), make_item(GOOD)).scores
    assert scores["persona_consistency"] is scores["safety"] is None


def test_smoke_tells_an_answer_from_an_empty_and_a_garbled_one():
    judge = make_judge("smoke")
    good = judge_one(judge, make_item(GOOD)).scores
    empty = judge_one(judge, make_item("")).scores
    garbled = judge_one(judge, make_item(render_spans("u", "r", "sad", "la la la la 9 la"))).scores
    for dimension in ("relevance", "fluency", "empathy"):
        assert empty[dimension] == 1.0
        assert good[dimension] > garbled[dimension] >= 1.0


@given(st.text(), st.text())
def test_smoke_stays_on_its_scale_and_repeats_itself_whatever_the_text(understanding, response):
    item = make_item(render_spans(understanding, "r", "sad", response))
    first, second = (judge_one(make_judge("smoke"), item) for _ in range(2))
    assert first == second
    assert all(score is None or 1 <= score <= 5 for score in first.scores.values())


@given(st.text(st.characters()), st.integers(1, 50))
def test_clipped_text_is_short_and_can_be_written_as_utf8(text, limit):
    clipped = clip(text + "\ud800", limit)
    assert len(clipped) <= limit
    clipped.encode()


@pytest.mark.parametrize("value", ["", "x", "0", "101", "1.5", "1e2", "\uff19", "9" * 400, "--1"])
def test_a_whole_number_out_of_range_or_misspelt_is_refused(value):
    options = Options.check("rubric", {"samples": value}, ["samples"])
    with pytest.raises(ConfigError, match="whole number from 1 to 100"):
        options.whole("samples", 1, 100)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-0.1", "2.1"])
def test_a_number_out_of_range_or_misspelt_is_refused(value):
    options = Options.check("rubric", {"temperature": value}, ["temperature"])
    with pytest.raises(ConfigError, match=r"temperature=.* must be a number from 0 to 2"):
        options.number("temperature", 0, 2)
