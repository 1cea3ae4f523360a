"""The `panel` judge: medians, members that fail, its options, and a run over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping

import pytest
from cli_process import Cli
from openai_server import Behaviour, OpenAIServer, failing
from rundata import make_item

from judges.panel import PanelJudge, build
from judges.rubric import DIMENSIONS, OPTIONS, RubricJudge
from kardiabench.contracts import JudgeContext
from kardiabench.errors import ConfigError
from kardiabench.fingerprints import fingerprint
from kardiabench.models.scripted import ScriptedModel
from kardiabench.records import Item, Verdict
from kardiabench.scoring import Scorer

NAMES = [dimension.name for dimension in DIMENSIONS]
NONCE = "n0"
FAILED = {"status": "error", "detail": "timeout"}
REFUSED = {"status": "refused", "detail": "content_filter"}
BAD = {"text": "no JSON", "repeat": True}


def answer(score: int, nonce: str = NONCE, **changed: int) -> str:
    ratings = {
        name: {"evidence": f"quote {score}", "score": changed.get(name, score)} for name in NAMES
    }
    return json.dumps({"nonce": nonce, **ratings})


def panel(**members: object) -> PanelJudge:
    """Each member answers by its text or entry; a list is several samples."""
    judges = {}
    for name, given in members.items():
        answers = given if isinstance(given, list) else [given]
        entries = [{"text": one} if isinstance(one, str) else one for one in answers]
        model = ScriptedModel(entries, name=name)
        judges[name] = RubricJudge(model, samples=len(answers), nonce=lambda: NONCE)
    return PanelJudge(judges)


def run(judge: PanelJudge, item: Item | None = None) -> Verdict:
    """The verdict as the Scorer lets it pass."""
    (verdict,) = asyncio.run(Scorer([judge]).verdicts(judge, [item or make_item()]))
    return verdict


def test_a_score_is_the_median_of_the_members_and_each_members_scores_are_kept():
    verdict = run(panel(a=answer(4), b=answer(4, empathy=5), c=answer(4, empathy=1)))
    assert verdict.status == "ok"
    assert verdict.scores == dict.fromkeys(NAMES, 4.0)
    assert {name: part["empathy"] for name, part in verdict.parts.items()} == {
        "a": 4.0,
        "b": 5.0,
        "c": 1.0,
    }
    assert verdict.evidence["empathy"] == "quote 4"
    assert verdict.evidence["judge"] == "a 4, b 4.2, c 3.4; sd empathy 1.70"
    assert verdict.usage.calls == 3


def test_of_two_members_the_median_is_the_mean():
    assert run(panel(a=answer(4), b=answer(5))).scores == dict.fromkeys(NAMES, 4.5)


def test_members_that_agree_leave_no_note():
    assert "judge" not in run(panel(a=answer(3), b=answer(3))).evidence


@pytest.mark.parametrize("failure", [FAILED, REFUSED, BAD])
def test_a_member_that_fails_is_left_out_and_named(failure):
    verdict = run(panel(a=failure, b=answer(2), c=answer(4)))
    assert (verdict.status, verdict.scores) == ("partial", dict.fromkeys(NAMES, 3.0))
    assert verdict.parts["a"] == dict.fromkeys(NAMES)
    assert verdict.evidence["empathy"] == "quote 2"
    assert re.search(r"; a (error|refused|unparsed): \w+", verdict.evidence["judge"])


def test_a_member_of_which_a_sample_failed_counts_and_is_named():
    verdict = run(panel(a=[answer(4), FAILED], b=answer(4)))
    assert (verdict.status, verdict.scores) == ("partial", dict.fromkeys(NAMES, 4.0))
    assert verdict.evidence["judge"] == "a partial: samples 1/2, 1 error"


@pytest.mark.parametrize(
    ("members", "status"),
    [((BAD, REFUSED), "refused"), ((REFUSED, FAILED), "error"), ((BAD, BAD), "unparsed")],
)
def test_without_any_member_there_is_no_score(members, status):
    first, second = members
    verdict = run(panel(a=first, b=second))
    assert (verdict.status, verdict.scores) == (status, dict.fromkeys(NAMES))
    assert re.match(r"a \w+: .+; b \w+: ", verdict.evidence["judge"])


def test_replies_that_need_no_judging_are_not_sent_to_anybody():
    judge = panel(a=answer(1), b=answer(2))
    floor = run(judge, make_item(text="no spans"))
    assert (floor.status, floor.scores) == ("ok", dict.fromkeys(NAMES, 1.0))
    assert floor.evidence["judge"].endswith("the model was not asked")
    skipped = run(judge, make_item(text="", status="error", detail="timeout"))
    assert (skipped.status, skipped.scores) == ("skipped", dict.fromkeys(NAMES))
    assert [member.model.requests for member in judge.members] == [[], []]


def test_all_members_are_asked_at_the_same_time():
    class Waiting(ScriptedModel):
        """Answers nobody before all three were asked."""

        async def complete(self, requests):
            async with asyncio.timeout(5):
                await everybody.wait()
            return await super().complete(requests)

    everybody = asyncio.Barrier(3)
    members = {
        name: RubricJudge(Waiting([{"text": answer(3)}], name=name), nonce=lambda: NONCE)
        for name in "abc"
    }
    assert run(PanelJudge(members)).scores == dict.fromkeys(NAMES, 3.0)


# --- options


def open_with(seen: list[tuple[str, Mapping[str, object]]]) -> JudgeContext:
    def open_model(name: str, **options: object) -> ScriptedModel:
        seen.append((name, options))
        return ScriptedModel([], name=name)

    return JudgeContext(open_model, seed=7)


def test_members_have_the_panels_options_and_may_have_a_server_of_their_own():
    seen: list[tuple[str, Mapping[str, object]]] = []
    options = {
        "models": "a/one + b/two@http://127.0.0.1:1/v1+a/one@https://host/v1",
        "api_base": "http://127.0.0.1:2/v1",
        "samples": "2",
        "scope": "reply",
    }
    judge = build(options, open_with(seen))
    assert [(name, one["api_base"]) for name, one in seen] == [
        ("a/one", "http://127.0.0.1:2/v1"),
        ("b/two", "http://127.0.0.1:1/v1"),
        ("a/one", "https://host/v1"),
    ]
    assert {one["temperature"] for _, one in seen} == {1.0}
    assert judge.labels == ("a/one 1", "b/two", "a/one 2")
    members = judge.identity["members"]
    assert [(m["samples"], m["scope"]) for m in members] == [(2, "reply")] * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs the option models with two or more"),
        ({"models": "a/one"}, "needs the option models with two or more"),
        ({"models": "a/one+"}, "needs the option models with two or more"),
        ({"models": "a/one+@http://x"}, "needs the option models with two or more"),
        ({"models": "a/one+b/two+a/one"}, "has 'a/one' twice on one server"),
        (
            {"models": "a/one+a/one@http://x", "api_base": "http://x"},
            "has 'a/one' twice on one server",
        ),
        ({"models": "a+b", "model": "c"}, "judge 'panel' has no option 'model': did you mean"),
        ({"models": "a+b", "samples": "0"}, "samples='0' must be a whole number"),
    ],
)
def test_bad_options_get_one_sentence(options, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        build(options, open_with([]))


def test_the_identity_changes_with_every_member():
    def mark(models: str, **options: str) -> str:
        return fingerprint(build({"models": models, **options}, open_with([])).identity)

    marks = [mark("a+b"), mark("a+c"), mark("a+b+c"), mark("a+b", fence="none")]
    assert len(set(marks)) == len(marks)
    assert mark("a+b") == marks[0]


def test_the_rubrics_checks_find_what_they_need():
    judge = build({"models": "a+b", "order": "reversed"}, open_with([]))
    assert (judge.orders, judge.undefended) == (RubricJudge.orders, RubricJudge.undefended)
    assert {"order", "fence"} < set(OPTIONS)
    assert (len(judge.members), judge.batch_size, judge.time_limit) == (2, 1, None)
    assert "persona_consistency" in judge.messages(make_item())[0].content


# --- over HTTP


def panel_of(server: OpenAIServer) -> tuple[str, ...]:
    models = "+".join(f"openai/{name}" for name in ("low", "high", "mute"))
    return ("--judge", f"panel:models={models},api_base={server.url}")


def by_model(body: dict) -> Behaviour | None:
    """The model `low` gives 2, `high` gives 5, `mute` fails but for the preflight's request."""
    nonce = re.search(r"The nonce of this call is (\w+)", str(body["messages"]))
    if nonce is None:
        return None
    if body["model"] == "mute":
        return failing(500, "down")
    return Behaviour(content=answer({"low": 2, "high": 5}[body["model"]], nonce[1]))


def test_a_run_with_a_panel_counts_every_member_and_goes_on_without_one(
    cli: Cli, server: OpenAIServer, api: list[str]
) -> None:
    server.rule = by_model
    command = [*api, "--limit", "1", "--no-rubric", *panel_of(server), "--out", "out"]
    dry = cli.fast(*command, "--dry-run", "--json")
    asked = [line["model"] for line in dry.json() if line["what"].startswith("judge")]
    assert asked == ["openai/low", "openai/high", "openai/mute"]
    done = cli.fast(*command, "--json")
    assert done.rc == 0, done.err
    found = done.json()["judges"]["panel"]
    turns = done.json()["turns"]["planned"]
    assert found["verdicts"] == {"partial": turns}
    assert (found["coverage"], found["dimensions"]["empathy"]["mean"]) == (1.0, 3.5)
    for line in cli.lines("verdicts.jsonl", cli.folder / "out"):
        if line["verdict"]["judge"] == "panel":
            parts = {name: part["safety"] for name, part in line["verdict"]["parts"].items()}
            assert parts == {"openai/low": 2.0, "openai/high": 5.0, "openai/mute": None}
            assert "openai/mute error: server" in line["verdict"]["evidence"]["judge"]
