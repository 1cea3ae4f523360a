"""The Scorer: the composite, what is missing, judges that misbehave, flights and the cache."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rundata import StubJudge, make_item, make_manifest, make_run, make_turn, say

from kardiabench.cache import Cache
from kardiabench.errors import ConfigError, PluginError, ScoringError
from kardiabench.manifests import read_manifest
from kardiabench.records import Dialogue, Dimension, Item, Message, Reply, Turn, Usage, Verdict
from kardiabench.scoring import DEFAULT_WEIGHTS, Scorer, composite, item_key
from kardiabench.store import iterate_verdicts

UNIT = Dimension("d", 0.0, 1.0, "a number")
FIVE = tuple(Dimension(name, 1.0, 5.0, "a level") for name in "abcde")
FAILED = {"unparsed", "refused", "error", "skipped"}


def score(scorer: Scorer, items: Sequence[Item]):
    return asyncio.run(scorer.score(items))


def verdict_of(judge, item: Item | None = None, **scorer) -> Verdict:
    (card,) = score(Scorer([judge], {judge.name: 1.0}, **scorer), [item or make_item()])
    return card.verdicts[0]


class MemoryCache:
    """A verdict cache that keeps everything it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, Verdict] = {}

    def get_verdict(self, key: str) -> Verdict | None:
        return self.kept.get(key)

    def put_verdict(self, key: str, verdict: Verdict) -> None:
        self.kept[key] = verdict


# --- the composite --------------------------------------------------------------------------------


def test_the_default_composite_is_a_third_format_a_third_emotion_a_third_rubric():
    dimensions = {"format": [UNIT], "emotion": [UNIT], "rubric": FIVE}
    scores = {
        "format": {"d": 1.0},
        "emotion": {"d": 0.0},
        "rubric": {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 2.5},
    }
    rubric = ((5 - 1) / 4 + (4 - 1) / 4 + (3 - 1) / 4 + (2 - 1) / 4 + (2.5 - 1) / 4) / 5
    expected = (1 + 0 + rubric) / 3
    assert composite(scores, dimensions, DEFAULT_WEIGHTS) == pytest.approx(expected, abs=1e-15)


names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True)
weights = st.floats(1e-6, 1e6)


@st.composite
def judged(draw):
    """Judges with dimensions, weights, and a score or None for each dimension."""
    dimensions, scores, weighted = {}, {}, {}
    for judge in draw(names):
        ranges = draw(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 9)), min_size=1))
        dimensions[judge] = tuple(
            Dimension(f"d{i}", float(low), float(low + width), "x")
            for i, (low, width) in enumerate(ranges[:5])
        )
        scores[judge] = {
            d.name: draw(st.none() | st.floats(d.low, d.high)) for d in dimensions[judge]
        }
        weighted[judge] = draw(weights)
    return dimensions, scores, weighted


def by_hand(dimensions, scores, weighted, missing):
    """The formula in exact fractions."""
    total = Fraction(0)
    for judge, dims in dimensions.items():
        part = Fraction(0)
        for d in dims:
            value = scores[judge][d.name]
            if value is None:
                if missing != "zero":
                    return None
                value = d.low
            part += (Fraction(value) - Fraction(d.low)) / (Fraction(d.high) - Fraction(d.low))
        total += Fraction(weighted[judge]) * part / len(dims)
    return total / sum(map(Fraction, weighted.values()))


@given(judged(), st.sampled_from(["mask", "zero"]))
@settings(max_examples=300)
def test_the_composite_equals_the_formula_and_lies_in_the_unit_interval(case, missing):
    dimensions, scores, weighted = case
    value = composite(scores, dimensions, weighted, missing)
    expected = by_hand(dimensions, scores, weighted, missing)
    if expected is None:
        assert value is None
    else:
        assert 0.0 <= value <= 1.0
        assert value == pytest.approx(float(expected), abs=1e-12)


@given(judged(), st.randoms())
def test_the_order_of_weights_and_judges_changes_no_bit(case, random):
    dimensions, scores, weighted = case
    shuffled = []
    for mapping in (scores, dimensions, weighted):
        pairs = list(mapping.items())
        random.shuffle(pairs)
        shuffled.append(dict(pairs))
    assert composite(*shuffled, "zero") == composite(scores, dimensions, weighted, "zero")


@given(judged())
@settings(max_examples=60, deadline=None)
def test_the_composite_of_verdicts_read_back_has_the_same_bits(tmp_path_factory, case):
    dimensions, scores, weighted = case
    judges = [StubJudge(lambda _, n=n: scores[n], n, dimensions[n]) for n in scores]
    scorer = Scorer(judges, weighted)
    item = make_item()
    (card,) = score(scorer, [item])
    lines = [(item.turn, item.reply, card.verdicts)]
    path = make_run(tmp_path_factory.mktemp("r"), make_manifest(judges, 1, weighted), lines)
    stored = {line.verdict.judge: line.verdict for line in iterate_verdicts(path)}
    scorer_part = read_manifest(path)["protocol"]["scorer"]
    read_dimensions = {
        name: [Dimension(**d) for d in judge["dimensions"]]
        for name, judge in scorer_part["judges"].items()
    }
    read_scores = {name: verdict.scores for name, verdict in stored.items()}
    assert list(stored.values()) == list(card.verdicts)
    assert composite(read_scores, read_dimensions, scorer_part["weights"]) == card.composite


def test_a_judge_that_did_not_run_leaves_no_composite_under_any_policy():
    for missing in ("mask", "zero", "fail_fast"):
        assert composite({"a": {"d": 1.0}}, {"a": [UNIT]}, {"a": 1, "b": 1}, missing) is None


def test_a_judge_without_a_weight_does_not_count():
    scores = {"a": {"d": 0.5}, "b": {"d": None}}
    assert composite(scores, {"a": [UNIT], "b": [UNIT]}, {"a": 2.0}) == 0.5


# --- what is missing ------------------------------------------------------------------------------


def one_fails(item: Item):
    return {"d": None if item.turn.id == "d1/0" else 0.5}


def test_under_mask_a_missing_score_hides_that_composite_only():
    items = [make_item(f"d{n}") for n in range(3)]
    cards = score(Scorer([StubJudge(one_fails)], {"stub": 1.0}), items)
    assert [card.composite for card in cards] == [0.5, None, 0.5]


def test_under_zero_a_missing_score_counts_as_the_bottom_of_its_range():
    judge = StubJudge(lambda _: {"a": 5.0, "b": None}, dimensions=FIVE[:2])
    (card,) = score(Scorer([judge], {"stub": 1.0}, "zero"), [make_item()])
    assert card.composite == 0.5
    assert card.verdicts[0].scores == {"a": 5.0, "b": None}


@pytest.mark.parametrize("status", sorted(FAILED - {"skipped"}))
def test_under_fail_fast_a_failed_judgement_stops_with_a_sentence(status):
    judge = StubJudge()
    judge.judge = lambda items: asyncio.sleep(0, [judge.verdict(i, status=status) for i in items])
    with pytest.raises(ScoringError, match=rf"judge stub failed on turn d0/0 \({status}: read"):
        score(Scorer([judge], {"stub": 1.0}, "fail_fast"), [make_item()])


def test_under_fail_fast_a_reply_that_was_never_generated_is_not_the_judges_failure():
    judge = StubJudge()
    judge.judge = lambda items: asyncio.sleep(
        0, [judge.verdict(i, status="skipped") for i in items]
    )
    (card,) = score(Scorer([judge], {"stub": 1.0}, "fail_fast"), [make_item(status="error")])
    assert card.composite is None


@pytest.mark.parametrize("status", sorted(FAILED))
def test_a_verdict_that_is_not_ok_has_no_score_whatever_the_judge_says(status):
    judge = StubJudge()
    judge.verdict = lambda item: StubJudge.verdict(judge, item, status=status, scores={"d": 0.7})
    assert verdict_of(judge).scores == {"d": None}


# --- judges that misbehave ------------------------------------------------------------------------


class Raising(StubJudge):
    async def judge(self, items):
        self.batches.append([item.turn.id for item in items])
        if any(item.turn.id == "d1/0" for item in items):
            raise RuntimeError("no such\nluck")
        return [self.verdict(item) for item in items]


class Hanging(StubJudge):
    async def judge(self, items):
        await asyncio.sleep(60)


class Escaping(StubJudge):
    async def judge(self, items):
        raise asyncio.CancelledError


class Impatient(StubJudge):
    async def judge(self, items):
        raise TimeoutError("its own limit")


@pytest.mark.parametrize("kind", [Raising, Hanging, Escaping, Impatient])
def test_a_judge_that_fails_on_one_reply_leaves_the_other_judge_alone(kind):
    bad, good = kind(name="bad"), StubJudge(name="good")
    scorer = Scorer([bad, good], {"good": 1.0}, timeout=0.05)
    cards = score(scorer, [make_item(f"d{n}") for n in range(3)])
    assert [card.verdicts[1].scores for card in cards] == [{"d": 1.0}] * 3
    failed = cards[1].verdicts[0]
    assert (failed.status, failed.scores, failed.turn_id) == ("error", {"d": None}, "d1/0")
    assert "\n" not in failed.evidence["judge"]


def test_a_batch_that_raises_is_asked_one_by_one_so_that_one_reply_fails_alone():
    cards = score(Scorer([Raising()], {"stub": 1.0}), [make_item(f"d{n}") for n in range(3)])
    assert [card.verdicts[0].status for card in cards] == ["ok", "error", "ok"]
    assert cards[1].verdicts[0].evidence["judge"] == "RuntimeError: no such luck"


def test_a_hanging_judge_is_told_from_one_that_raises_a_timeout_of_its_own():
    assert verdict_of(Hanging(), timeout=0.02).evidence == {"judge": "no verdict in 0.02 s"}
    assert verdict_of(Impatient()).evidence == {"judge": "TimeoutError: its own limit"}


@pytest.mark.parametrize("change", [lambda v: v[1:], lambda v: v + v, lambda v: [], lambda v: None])
def test_a_wrong_number_of_verdicts_is_an_error_on_each_reply(change):
    class Miscounting(StubJudge):
        async def judge(self, items):
            return change([self.verdict(item) for item in items])

    cards = score(Scorer([Miscounting()], {"stub": 1.0}), [make_item("d0"), make_item("d1")])
    assert [card.verdicts[0].status for card in cards] == ["error"] * 2
    assert [card.composite for card in cards] == [None] * 2


@pytest.mark.parametrize("bad", [1.0001, -0.5, math.nan, math.inf, -math.inf, "1", b"1", [1], {}])
def test_a_score_that_is_no_number_of_the_range_is_an_error(bad):
    verdict = verdict_of(StubJudge(lambda _: {"d": bad}))
    assert (verdict.status, verdict.scores) == ("error", {"d": None})
    assert verdict.evidence["judge"].startswith("d ")
    assert verdict.usage == Usage(calls=1, cost=0.25)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({}, "no score for d"),
        ({"d": 1.0, "D": 1.0}, "D is none of its dimensions"),
        ({1: 1.0}, "1 is"),
    ],
)
def test_a_judge_that_mistakes_its_own_dimensions_is_told_so(scores, words):
    assert words in verdict_of(StubJudge(lambda _: scores)).evidence["judge"]


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), Fraction(1, 2), 0.5])
def test_numbers_of_other_libraries_become_plain_ones(number):
    value = verdict_of(StubJudge(lambda _: {"d": number})).scores["d"]
    assert type(value) is float
    assert value == 0.5


@pytest.mark.parametrize("changes", [{"status": "fine"}, {"usage": None}, {"evidence": None}])
def test_a_verdict_that_could_not_be_stored_is_an_error(changes):
    judge = StubJudge()
    judge.verdict = lambda item: replace(StubJudge.verdict(judge, item), **changes)
    assert verdict_of(judge).status == "error"


def test_evidence_becomes_text_that_can_be_written():
    judge = StubJudge()
    judge.verdict = lambda item: StubJudge.verdict(judge, item, evidence={"d": "\ud800", "n": 3})
    assert verdict_of(judge).evidence == {"d": "\ufffd", "n": "3"}


def test_the_scorer_names_judge_turn_and_fingerprint_itself():
    judge = StubJudge()
    wrong = Verdict("other/9", "other", "other", {"d": 1.0})
    judge.verdict = lambda item: wrong
    scorer = Scorer([judge], {"stub": 1.0})
    (card,) = score(scorer, [make_item()])
    found = card.verdicts[0]
    assert (found.turn_id, found.judge) == ("d0/0", "stub")
    assert found.fingerprint == scorer.fingerprints["stub"]


def test_a_key_in_an_error_is_cut_out(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-1")

    class Leaking(StubJudge):
        async def judge(self, items):
            raise RuntimeError("401 for sk-very-secret-1")

    assert "secret" not in verdict_of(Leaking()).evidence["judge"]


# --- what a Scorer refuses ------------------------------------------------------------------------


def test_two_judges_of_one_name_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"'stub' is given twice.*stub:as=OTHER_NAME"):
        Scorer([StubJudge(), StubJudge()])


def test_a_weight_for_a_judge_that_does_not_run_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"--weight stib: .*did you mean 'stub'\?"):
        Scorer([StubJudge()], {"stib": 1.0})


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e300, 1e-300])
def test_a_weight_that_is_no_sensible_number_is_refused(weight):
    with pytest.raises(ConfigError, match="--weight stub="):
        Scorer([StubJudge()], {"stub": weight})


def test_no_weights_at_all_are_refused():
    with pytest.raises(ConfigError, match="no judge has a weight"):
        Scorer([StubJudge()], {})


def test_the_default_weights_may_name_judges_that_do_not_run():
    (card,) = score(Scorer([StubJudge()]), [make_item()])
    assert card.composite is None


@pytest.mark.parametrize(
    ("dimensions", "words"),
    [
        ((), "no dimension"),
        ((UNIT, UNIT), "two dimensions of one name"),
        ((Dimension("d", 1.0, 1.0, ""),), r"the range of d is 1.0..1.0"),
        ((Dimension("d", 5.0, 1.0, ""),), r"the range of d is 5.0..1.0"),
        ((Dimension("d", 0.0, math.inf, ""),), "the range of d is 0.0..inf"),
        ((Dimension("d", math.nan, 1.0, ""),), "the range of d is nan..1.0"),
    ],
)
def test_a_judge_whose_dimensions_cannot_be_scaled_is_refused(dimensions, words):
    with pytest.raises(PluginError, match=words):
        Scorer([StubJudge(dimensions=dimensions)])


# --- order and batches ----------------------------------------------------------------------------


def by_text(item: Item):
    return {"d": (len(item.reply.text) % 7) / 7}


pool = [make_item(f"d{n}", n % 3, f"{say()}{'x' * (n % 5)}") for n in range(12)]


@given(st.lists(st.sampled_from(pool), max_size=12), st.randoms(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_permuted_and_rechunked_batches_give_equal_scorecards(items, random, size):
    def scorer() -> Scorer:
        return Scorer(
            [StubJudge(by_text), StubJudge(by_text, "other")], {"stub": 2.0, "other": 1.0}
        )

    expected = {card.turn_id: card for card in score(scorer(), items)}
    shuffled = random.sample(items, len(items))
    again = scorer()
    chunks = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
    cards = [card for chunk in chunks for card in score(again, chunk)]
    assert [card.turn_id for card in cards] == [item.turn.id for item in shuffled]
    for card in cards:
        wanted = expected[card.turn_id]
        assert (card.composite, [v.scores for v in card.verdicts]) == (
            wanted.composite,
            [v.scores for v in wanted.verdicts],
        )


def test_no_items_give_no_scorecards_and_ask_nobody():
    judge = StubJudge()
    judge.cacheable = False
    assert score(Scorer([judge], {"stub": 1.0}), []) == []
    assert judge.batches == []


# --- single flight --------------------------------------------------------------------------------


class Slow(StubJudge):
    """Answers when `gate` opens."""

    gate: asyncio.Event

    async def judge(self, items):
        self.batches.append([item.turn.id for item in items])
        await self.gate.wait()
        return [self.verdict(item) for item in items]


def twins(count: int) -> list[Item]:
    """Equal content under different names of turn, dialogue and persona."""
    base = make_turn("d0", 0)
    turns = [replace(base, dialogue=replace(base.dialogue, id=f"t{n}")) for n in range(count)]
    return [Item(turn, Reply(turn.id, say())) for turn in turns]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run_slow(scenario):
    """Run `scenario(scorer, judge)` with a slow judge whose gate is shut."""

    async def main():
        judge = Slow()
        judge.gate = asyncio.Event()
        scorer = Scorer([judge], {"stub": 1.0})
        result = await asyncio.wait_for(scenario(scorer, judge), 5)
        assert scorer._flights == {}
        return judge, result

    return asyncio.run(main())


def test_equal_items_of_one_batch_are_asked_for_once():
    judge = StubJudge()
    cards = score(Scorer([judge], {"stub": 1.0}), twins(3))
    assert len(judge.asked) == 1
    assert [card.turn_id for card in cards] == ["t0/0", "t1/0", "t2/0"]
    assert {verdict.turn_id for card in cards for verdict in card.verdicts} == {
        "t0/0",
        "t1/0",
        "t2/0",
    }


def test_equal_items_in_flight_at_the_same_time_are_asked_for_once():
    async def scenario(scorer, judge):
        tasks = [asyncio.create_task(scorer.score([item])) for item in twins(4)]
        await settle()
        judge.gate.set()
        return [cards[0] for cards in await asyncio.gather(*tasks)]

    judge, cards = run_slow(scenario)
    assert len(judge.asked) == 1
    assert [card.turn_id for card in cards] == [f"t{n}/0" for n in range(4)]


def test_a_batch_shares_what_is_in_flight_and_asks_for_the_rest():
    async def scenario(scorer, judge):
        one, other = twins(2)
        first = asyncio.create_task(scorer.score([one]))
        await settle()
        second = asyncio.create_task(scorer.score([make_item("d7"), other, make_item("d8")]))
        await settle()
        judge.gate.set()
        return await first, await second

    judge, (_, cards) = run_slow(scenario)
    assert judge.batches == [["t0/0"], ["d7/0", "d8/0"]]
    assert [card.verdicts[0].status for card in cards] == ["ok"] * 3


def test_when_the_asker_is_cancelled_those_who_waited_ask_for_themselves():
    async def scenario(scorer, judge):
        tasks = [asyncio.create_task(scorer.score([item])) for item in twins(3)]
        await settle()
        tasks[0].cancel()
        await settle()
        judge.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    judge, (first, second, third) = run_slow(scenario)
    assert isinstance(first, asyncio.CancelledError)
    assert len(judge.asked) == 2
    assert [cards[0].verdicts[0].status for cards in (second, third)] == ["ok", "ok"]


def test_when_one_who_waits_is_cancelled_the_others_get_their_verdict():
    async def scenario(scorer, judge):
        tasks = [asyncio.create_task(scorer.score([item])) for item in twins(3)]
        await settle()
        tasks[1].cancel()
        await settle()
        judge.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    judge, (first, second, third) = run_slow(scenario)
    assert isinstance(second, asyncio.CancelledError)
    assert len(judge.asked) == 1
    assert [cards[0].verdicts[0].status for cards in (first, third)] == ["ok", "ok"]


def test_a_failure_is_shared_by_its_flight_and_then_forgotten():
    class Once(StubJudge):
        async def judge(self, items):
            self.batches.append([item.turn.id for item in items])
            await asyncio.sleep(0.01)
            if len(self.batches) == 1:
                raise RuntimeError("down")
            return [self.verdict(item) for item in items]

    async def main():
        scorer = Scorer([judge], {"stub": 1.0}, cache=cache)
        one, two, three = twins(3)
        before = await asyncio.gather(scorer.score([one]), scorer.score([two]))
        return [cards[0].verdicts[0].status for cards in (*before, await scorer.score([three]))]

    judge, cache = Once(), MemoryCache()
    assert asyncio.run(main()) == ["error", "error", "ok"]
    assert [verdict.status for verdict in cache.kept.values()] == ["ok"]


def test_one_scorer_serves_one_event_loop_after_another():
    scorer = Scorer([StubJudge()], {"stub": 1.0})
    assert [score(scorer, twins(2))[1].composite for _ in range(3)] == [1.0] * 3


# --- the cache ------------------------------------------------------------------------------------


def test_a_cached_verdict_equals_a_fresh_one(tmp_path):
    judge = StubJudge(lambda _: {"d": 0.1 + 0.2})
    cache = Cache(tmp_path / "c.sqlite")
    fresh = score(Scorer([judge], {"stub": 1.0}, cache=cache), twins(2))
    again = score(Scorer([judge], {"stub": 1.0}, cache=cache), twins(2))
    assert again == fresh
    assert len(judge.asked) == 1


@pytest.mark.parametrize("status", sorted(FAILED))
def test_failed_verdicts_never_enter_the_cache(status):
    judge, cache = StubJudge(), MemoryCache()
    judge.verdict = lambda item: StubJudge.verdict(judge, item, status=status)
    verdict_of(judge, cache=cache)
    assert cache.kept == {}


def test_broken_verdicts_never_enter_the_cache():
    cache = MemoryCache()
    verdict_of(StubJudge(lambda _: {"d": math.nan}), cache=cache)
    assert cache.kept == {}


def test_only_what_was_paid_for_now_is_reported(tmp_path):
    cache, paid = MemoryCache(), []
    for _ in range(2):
        score(Scorer([StubJudge()], {"stub": 1.0}, cache=cache, on_usage=paid.append), twins(3))
    assert [usage.cost for usage in paid] == [0.25]


def test_a_judge_of_another_identity_has_its_own_verdicts():
    cache = MemoryCache()
    for version in (1, 2):
        verdict_of(StubJudge(version=version), cache=cache)
    assert len(cache.kept) == 2


def test_a_cached_verdict_with_other_dimensions_is_not_used():
    cache, judge = MemoryCache(), StubJudge()
    scorer = Scorer([judge], {"stub": 1.0}, cache=cache)
    score(scorer, [make_item()])
    (key,) = cache.kept
    cache.kept[key] = replace(cache.kept[key], scores={"other": 1.0})
    assert score(scorer, [make_item()])[0].composite == 1.0
    assert len(judge.asked) == 2


def test_a_judge_that_is_cheaper_than_a_look_up_is_asked_each_time():
    judge, cache = StubJudge(), MemoryCache()
    judge.cacheable = False
    for _ in range(2):
        verdict_of(judge, cache=cache)
    assert (len(judge.asked), cache.kept) == (2, {})


# --- what an item is ------------------------------------------------------------------------------


def changed(**changes) -> Turn:
    turn = make_turn("d0", 1)
    return replace(turn, dialogue=replace(turn.dialogue, **changes))


CONTENT = {
    "profile": "other",
    "mbti": "ESTP",
    "emotion": "proud",
    "situation": "other",
    "messages": (Message("system", "other"), *make_turn("d0", 1).dialogue.messages[1:]),
}


@pytest.mark.parametrize("field", CONTENT)
def test_whatever_a_judge_may_read_of_the_dialogue_is_in_the_key(field):
    reply = Reply("d0/1", say())
    assert item_key(changed(**{field: CONTENT[field]}), reply) != item_key(changed(), reply)


@pytest.mark.parametrize(
    "change",
    [{"gold": "other"}, {"gold_emotion": "proud"}, {"end": 2}],
    ids=lambda c: next(iter(c)),
)
def test_whatever_a_judge_may_read_of_the_turn_is_in_the_key(change):
    reply = Reply("d0/1", say())
    assert item_key(replace(changed(), **change), reply) != item_key(changed(), reply)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"},
        {"status": "truncated"},
        {"detail": "refusal"},
        {"finish_reason": "length"},
        {"reasoning": "hm"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_whatever_a_judge_may_read_of_the_reply_is_in_the_key(change):
    reply = Reply("d0/1", say())
    assert item_key(changed(), replace(reply, **change)) != item_key(changed(), reply)


def test_names_and_what_a_reply_took_are_not_in_the_key():
    reply = Reply("d0/1", say())
    other = replace(reply, turn_id="x/9", latency=3.0, usage=Usage(calls=4))
    named = changed(id="x", persona_id="y")
    assert isinstance(named.dialogue, Dialogue)
    assert item_key(named, other) == item_key(changed(), reply)


def test_the_identity_of_a_scorer_is_json_that_says_all():
    scorer = Scorer([StubJudge()], {"stub": 2.0}, "zero")
    identity = json.loads(json.dumps(scorer.identity))
    assert identity["weights"] == {"stub": 2.0}
    assert identity["missing"] == "zero"
    assert identity["judges"]["stub"]["fingerprint"] == scorer.fingerprints["stub"]
    assert identity["judges"]["stub"]["dimensions"][0]["high"] == 1.0


def test_verdicts_of_judges_whose_models_are_elsewhere_are_not_shared(tmp_path):
    """The address is no part of the fingerprint, but another server may have another model."""
    cache, item = Cache(tmp_path / "cache.sqlite"), make_item()
    asked = []

    class Counting(StubJudge):
        cacheable = True

        async def judge(self, items):
            asked.append(len(items))
            return await super().judge(items)

    for endpoint in ("http://a", "http://b", "http://a"):
        scorer = Scorer([Counting()], {"stub": 1.0}, cache=cache, endpoints={"stub": endpoint})
        asyncio.run(scorer.score([item]))
    assert asked == [1, 1]


def test_a_key_in_evidence_is_cut_out(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345678")
    judge, item = StubJudge(), make_item()
    telling = judge.verdict(item, evidence={"judge": "it said abcdefgh12345678"})
    judge.judge = lambda items: asyncio.sleep(0, [telling])
    (card,) = asyncio.run(Scorer([judge], {"stub": 1.0}).score([item]))
    assert card.verdicts[0].evidence == {"judge": "it said [redacted]"}


def test_a_judge_may_leave_time_to_its_model():
    class Slow(StubJudge):
        time_limit = None

        async def judge(self, items):
            await asyncio.sleep(0.05)
            return await super().judge(items)

    (card,) = asyncio.run(Scorer([Slow()], {"stub": 1.0}, timeout=0.01).score([make_item()]))
    assert card.verdicts[0].status == "ok"
