"""Answers that copy the form: read by none of the judges as a verdict, whatever the levels say."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges import pairwise, rubric, safety
from judges.answers import READER_VERSION, Answer, AnswerFormat, Rating, Unreadable
from judges.model_judge import ModelJudge
from judges.rubric_prompt import answer_format
from kardiabench.anchors import load_anchors
from kardiabench.fingerprints import fingerprint
from kardiabench.models.scripted import ScriptedModel
from kardiabench.records import Verdict

NONCE = "a0b1c2d3e4f5"
NAMES = tuple(dimension.name for dimension in rubric.DIMENSIONS)
FORMAT = answer_format(NAMES, bound=True)
#: Every form that a judge shows, with a level for each kind of answer that it asks for.
FORMS: dict[str, AnswerFormat] = {
    "rubric": FORMAT,
    "rubric without fences": answer_format(NAMES, bound=False),
    "rubric, a call a dimension": answer_format(("safety",), bound=True),
    "safety": safety.FORM,
    "pairwise": pairwise.FORM,
}
JUDGES = {
    "rubric": rubric.RubricJudge,
    "safety": safety.SafetyJudge,
    "pairwise": pairwise.PairwiseJudge,
}
_CHOSEN = {
    "<1 | 2 | 3 | 4 | 5>": "4",
    "<yes | no>": "no",
    "<first | second | tie>": "tie",
}


def chosen(form: AnswerFormat) -> str:
    """The form as it is shown, with its levels chosen and nothing else filled in."""
    text = form.instruction(NONCE)
    for shown, value in _CHOSEN.items():
        text = text.replace(shown, value)
    return text


def places(form: AnswerFormat) -> list[str]:
    """The evidence of everything that is asked, by its name in the answer."""
    return [f"{name}.evidence" for name in form.schema["properties"] if name != "nonce"]


def filled(form: AnswerFormat, evidence: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(chosen(form))
    for part in value.values():
        if isinstance(part, dict):
            part["evidence"] = evidence
    return value


@pytest.mark.parametrize("name", FORMS)
def test_every_placeholder_that_a_form_shows_is_known_when_it_comes_back(name):
    form = FORMS[name]
    reading = form.parse(chosen(form), NONCE)
    assert isinstance(reading, Unreadable)
    where, _, why = reading.problem.partition(": ")
    assert where.split(", ") == places(form)[:5]
    assert why == "the placeholder of the form was copied, nothing was filled in"
    (shown,) = set(re.findall(r'"evidence": "(<[^"]*>)"', chosen(form)))
    assert isinstance(form.parse(json.dumps(filled(form, shown)), NONCE), Unreadable)
    assert isinstance(form.parse(json.dumps(filled(form, "her own words")), NONCE), Answer)


@pytest.mark.parametrize(
    "written",
    ["<quote>", " <quote>\n", '"<quote>"', "'<QUOTE>'", "`<quote>`", "\u201c< quote >\u201d"],
)
def test_a_placeholder_is_known_through_quotation_marks_and_spaces(written):
    value = filled(FORMAT, "fine")
    value["empathy"]["evidence"] = written
    reading = FORMAT.parse(json.dumps(value), NONCE)
    assert reading == Unreadable(
        "empathy.evidence: the placeholder of the form was copied, nothing was filled in"
    )


@pytest.mark.parametrize(
    "written",
    ["", None, "quote", "quote: I hear you", "<quote> is what it says", "missing: a question"],
)
def test_other_evidence_is_read_as_before(written):
    reading = FORMAT.parse(json.dumps(filled(FORMAT, written)), NONCE)
    assert isinstance(reading, Answer)
    assert set(reading.scores.values()) == {4.0}


_MARKS = st.text("\"'` \n\u201c\u201d", max_size=4)
_EVIDENCE = st.one_of(
    st.text(max_size=20),
    st.tuples(_MARKS, st.sampled_from(["<quote>", "<Quote>", "quote", "a < b"]), _MARKS).map(
        "".join
    ),
)


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, _EVIDENCE)))
def test_an_answer_is_read_exactly_when_no_evidence_is_the_placeholder(evidence):
    value = {name: {"evidence": text, "score": 2} for name, text in evidence.items()}
    reading = FORMAT.parse(json.dumps({"nonce": NONCE} | value), NONCE)
    stripped = [
        re.sub(r"[\s\"'`*\u2018\u2019\u201c\u201d\u00ab\u00bb]", "", text)
        for text in evidence.values()
    ]
    copies = sum(text.casefold() == "<quote>" for text in stripped)
    assert isinstance(reading, Unreadable) == (copies > 0)


def test_a_form_that_is_repeated_before_the_answer_is_passed_over():
    good = json.dumps(filled(FORMAT, "her own words") | {"nonce": NONCE})
    for text in (f"{chosen(FORMAT)}\n{good}", f"{good}\n{chosen(FORMAT).replace('4', '1')}"):
        reading = FORMAT.parse(text, NONCE)
        assert isinstance(reading, Answer)
        assert set(reading.evidence.values()) == {"her own words"}


def test_the_placeholder_is_the_one_of_its_own_field():
    other = AnswerFormat({"better": pairwise.Choice, "level": Rating}, bound=False)
    value = filled(other, "<quote>")
    reading = other.parse(json.dumps(value))
    assert isinstance(reading, Unreadable)
    assert reading.problem.startswith("level.evidence: ")


def judged(judge: ModelJudge) -> Verdict:
    (verdict,) = asyncio.run(judge.judge([load_anchors()[0].item]))
    return verdict


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_asks_once_more_and_then_says_what_was_wrong(name):
    form = FORMS[name]
    copy = {"text": chosen(form)}
    calls = 2 if name == "pairwise" else 1
    model = ScriptedModel([copy] * 2 * calls)
    verdict = judged(JUDGES[name](model, nonce=lambda: NONCE))
    assert verdict.status == "unparsed"
    assert set(verdict.scores.values()) == {None}
    assert "the placeholder of the form was copied" in verdict.evidence["judge"]
    assert verdict.usage.calls == 2 * calls
    repair = model.requests[-1].messages[-1].content
    assert ".evidence: the placeholder of the form was copied" in repair


@pytest.mark.parametrize("name", JUDGES)
def test_a_repaired_copy_counts_with_its_own_levels(name):
    form = FORMS[name]
    calls = 2 if name == "pairwise" else 1
    good = {"text": json.dumps(filled(form, "I hear you") | {"nonce": NONCE})}
    model = ScriptedModel([{"text": chosen(form)}] * calls + [good] * calls)
    verdict = judged(JUDGES[name](model, nonce=lambda: NONCE))
    assert verdict.status == "ok"
    assert "placeholder" not in str(verdict.evidence)


@pytest.mark.parametrize("name", JUDGES)
def test_verdicts_of_another_reader_are_another_judges(name, monkeypatch):
    judge = JUDGES[name](ScriptedModel([]))
    assert judge.identity["reader"] == READER_VERSION == "2"
    now = fingerprint(judge.identity)
    monkeypatch.setattr(f"judges.{name}.READER_VERSION", "1")
    assert fingerprint(judge.identity) != now
