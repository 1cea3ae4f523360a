"""The reward is the Scorer's composite, whatever the batches, the cache, or the judges do."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from misbehaving_judges import content_score
from openai_server import Behaviour, rate_limited, server_error
from rundata import say
from trained_ledger import Rewarding, without_usage

from kardiabench.errors import ConfigError, ScoringError
from kardiabench.models import api
from kardiabench.records import Item, Reply
from trainer.ledger import iterate_rows, row_line
from trainer.rewards import Component, MaskedBudget, component_scores

PLUGIN = Path(__file__).with_name("misbehaving_judges.py")
GOOD = [say("anxious", f"I hear you, number {n}.") for n in range(4)]
TEXTS = [*GOOD, say("sad"), "no spans", "bad <|response_begin|>half", ""]


def odd(tmp_path: Path, how: str = "good", *more: str, **options: Any) -> Rewarding:
    """Rewards by `format`, `emotion` and the judge `odd`, with short limits."""
    spec = ",".join([f"odd:how={how}", *more])
    limits = {"judge_timeout": 0.4, "judge_retries": 0} | options
    return Rewarding(tmp_path / "t", judges=[spec], plugins=[PLUGIN], **limits)


@pytest.fixture
def rubric(server, monkeypatch):
    """Options of a rubric judge on the local server."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-0123456789abcdef")
    api.load_litellm()  # takes seconds, which a training's preflight pays and no judge's limit
    return {"judges": ["rubric"], "judge_model": "openai/judge", "judge_api_base": server.url}


# --- one number, however it is asked for ----------------------------------------------------------


def test_a_reward_is_the_composite_that_the_scorer_gives(tmp_path):
    with odd(tmp_path) as it:
        turns = it.turn_ids(2, each=4)
        rewards = it.call(TEXTS, turns)
        items = [
            Item(it.turns[turn], Reply(turn, text)) for turn, text in zip(turns, TEXTS, strict=True)
        ]
        cards = asyncio.run(it.scorers.rewarded.score(items))
    assert rewards == [card.composite for card in cards]
    assert len(set(rewards)) > 4


def test_its_parts_are_thirds(tmp_path):
    with odd(tmp_path) as it:
        (reward,) = it.call(GOOD[:1], it.turn_ids(1))
        (row,) = it.rows
    parts = [row.score("emotion", "emotion"), row.score("format", "format"), content_score(GOOD[0])]
    assert reward == pytest.approx(sum(parts) / 3, abs=1e-15)


@pytest.mark.parametrize("how", ["good", "at_once"])
@pytest.mark.parametrize("cache", [True, False])
def test_permuted_and_rechunked_batches_give_the_same_composites(tmp_path, how, cache):
    with odd(tmp_path, how, cache=cache) as it:
        pairs = [(turn, text) for turn in it.turn_ids(3) for text in TEXTS]
        known = dict(zip(pairs, it.call(*_columns(pairs)), strict=True))
        assert len(known) == 24

        @settings(max_examples=15, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False), st.integers(1, 24), st.booleans())
        def same(rng: random.Random, size: int, doubled: bool) -> None:
            order = rng.sample(pairs * (1 + doubled), len(pairs) * (1 + doubled))
            for start in range(0, len(order), size):
                chunk = order[start : start + size]
                assert it.call(*_columns(chunk)) == [known[pair] for pair in chunk]

        same()


def _columns(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [text for _, text in pairs], [turn for turn, _ in pairs]


def test_cold_and_warm_cache_give_the_same_rows(tmp_path, rubric, server):
    written = []
    for folder in ("cold", "warm"):
        with Rewarding(tmp_path / folder, **rubric) as it:
            written.append(it.batch(TEXTS, it.turn_ids(2, each=4)))
        hits = server.hits
    assert written[0] == written[1]
    assert hits == len(set(TEXTS[:5]))  # what has no response is settled without a call


def test_a_step_that_is_read_early_is_the_same_as_one_that_is_not(tmp_path):
    with odd(tmp_path) as it:
        alone = it.call(TEXTS, it.turn_ids(1, each=8))
        it.reward.begin(it.turn_ids(1, each=8), it.ids(TEXTS), phase="train", step=3, per_group=8)
        begun = asyncio.run(it.reward(completion_ids=[], turn_id=[]))
        rows = it.reward.settle([0.5] * 8)
    assert alone == begun == [row.reward for row in rows]
    assert [row.advantage for row in rows] == [0.5] * 8
    assert [(row.step, row.group, row.candidate) for row in rows] == [(3, 0, n) for n in range(8)]


def test_trl_is_told_the_components_and_the_masked_share(tmp_path):
    metrics: dict[str, list[float]] = defaultdict(list)
    extras: dict[str, list[Any]] = {}
    with odd(tmp_path, "nan") as it:
        rewards = it.call(
            TEXTS,
            it.turn_ids(1, each=8),
            log_metric=lambda name, value: metrics[name].append(value),
            log_extra=extras.__setitem__,
            trainer_state=SimpleNamespace(global_step=7),
        )
        cards, scorer = it.cards(), it.scorers.rewarded
    assert rewards.count(None) == 1
    assert metrics["masked_share"] == [1 / 8]
    for name in ("format", "emotion", "odd"):
        parts = [component_scores(card, scorer)[name] for card in cards]
        known = [part for part in parts if part is not None]
        assert extras[name] == parts
        assert metrics[f"parts/{name}"] == known  # TRL averages them, over all processes
    assert {row.step for row in it.rows} == {7}


def test_components_are_masked_where_the_composite_is(tmp_path):
    with odd(tmp_path, "nan") as it:
        it.reward.begin(it.turn_ids(1, each=8), it.ids(TEXTS), phase="train", step=0, per_group=8)
        part = Component(it.reward, it.scorers.rewarded, "format")
        parts = asyncio.run(part())
        rows = it.reward.settle(None)
    assert [value is None for value in parts] == [row.composite is None for row in rows]
    assert parts[0] == 1.0


# --- judges that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nan", "inf", "outside", "text", "fail_on_bad"])
def test_one_bad_item_masks_itself_and_no_other(tmp_path, how):
    with odd(tmp_path, how) as it:
        rewards = it.call(TEXTS, it.turn_ids(1, each=8))
    assert [reward is None for reward in rewards] == ["bad" in text for text in TEXTS]
    assert all(row.reward is None for row in it.rows if "bad" in row.text)


@pytest.mark.parametrize("how", ["fail", "cancel", "exit", "hang", "interrupt", "exit_in_a_task"])
def test_a_judge_that_judges_nothing_masks_and_never_freezes(tmp_path, how):
    with odd(tmp_path, how, limit=4) as it:
        started = time.monotonic()
        rewards = it.call(TEXTS, it.turn_ids(1, each=8))
        seconds = time.monotonic() - started
        assert rewards == [None] * 8
        assert seconds < 3.5, "it waited for the last limit"
        assert all(v.scores["d"] is None for row in it.rows for v in row.verdicts[-1:])


def test_a_judge_that_blocks_the_loop_costs_its_limit_and_no_more(tmp_path):
    with odd(tmp_path, "block", "seconds=6", "fails=1", limit=1) as it:
        started = time.monotonic()
        assert it.call(TEXTS, it.turn_ids(1, each=8)) == [None] * 8
        assert time.monotonic() - started < 2.5
        assert "holds up all others" in it.warnings[0]
        after = it.call(TEXTS, it.turn_ids(1, each=8))
        assert time.monotonic() - started < 4
    assert after.count(None) == 0


def test_a_judge_that_will_not_be_cancelled_costs_its_limit_and_no_more(tmp_path):
    with odd(tmp_path, "stubborn", "seconds=5", limit=1.5) as it:
        started = time.monotonic()
        assert it.call(GOOD, it.turn_ids(1, each=4)) == [None] * 4
        assert time.monotonic() - started < 3


def test_one_threads_failure_takes_no_later_batch_with_it(tmp_path):
    with odd(tmp_path, "block", "seconds=3", "fails=1", limit=0.5) as it:
        turn = next(iter(it.turns))
        items = [Item(it.turns[turn], Reply(turn, text)) for text in GOOD]
        stuck = [it.thread.start("train", items) for _ in range(3)]
        assert [c.composite for c in it.thread.finish("train", stuck[0], items)] == [None] * 4
        later = it.thread.start("train", items)  # in a new loop
        for future in stuck[1:]:
            assert [c.composite for c in it.thread.finish("train", future, items)] == [None] * 4
        assert None not in [c.composite for c in it.thread.finish("train", later, items)]
    assert len(it.warnings) == 1


@pytest.mark.parametrize("how", ["exit_in_a_task", "interrupt", "fail"])
def test_a_judge_that_recovers_is_heard_again(tmp_path, how):
    with odd(tmp_path, how, "fails=1", limit=4, judge_retries=0) as it:
        first = it.call(GOOD[:1], it.turn_ids(1))
        second = it.call(GOOD[:1], it.turn_ids(1))
    assert first == [None]
    assert second[0] == pytest.approx((1 + content_score(GOOD[0])) / 3, abs=1 / 3 + 1e-12)
    assert second[0] is not None


def test_a_failure_is_asked_for_again_within_the_step(tmp_path):
    with odd(tmp_path, "fail", "fails=1", judge_retries=1) as it:
        assert None not in it.call(GOOD[:1], it.turn_ids(1))


def test_the_breaker_opens_says_so_and_closes(tmp_path):
    options = {"breaker_failures": 2, "breaker_rest": 2}
    with odd(tmp_path, "hang", "fails=2", **options) as it:
        seconds, rewards = [], []
        for _ in range(5):
            started = time.monotonic()
            rewards += it.call(GOOD[:1], it.turn_ids(1))
            seconds.append(time.monotonic() - started)
        statuses = [row.verdicts[-1].status for row in it.rows]
    assert statuses == ["error", "error", "skipped", "skipped", "ok"]
    assert [reward is None for reward in rewards] == [True] * 4 + [False]
    assert max(seconds[2:4]) < 0.3 < min(seconds[:2])
    opened, closed = it.warnings
    assert "failed on 2 batches in a row" in opened
    assert "left alone for 2 batches" in opened
    assert "judges again" in closed


def test_fail_fast_raises_and_zero_is_the_bottom_of_the_range(tmp_path):
    with (
        odd(tmp_path, "fail", on_missing="fail_fast") as it,
        pytest.raises(ScoringError, match="judge odd failed"),
    ):
        it.call(GOOD[:1], it.turn_ids(1))
    with odd(tmp_path / "zero", "fail", on_missing="zero") as it:
        (reward,) = it.call(GOOD[:1], it.turn_ids(1))
        (row,) = it.rows
    scores = [row.score("format", "format"), row.score("emotion", "emotion"), 0.0]
    assert reward == pytest.approx(sum(scores) / 3)
    assert row.verdicts[-1].status == "error"


@pytest.mark.parametrize(
    "behaviour",
    [
        rate_limited(retry_after=0),
        rate_limited(),
        server_error(503),
        Behaviour(content="I would say four out of five."),
        Behaviour(content=None),
        Behaviour(content=""),
        Behaviour(raw=b"<html>502 Bad Gateway</html>"),
        Behaviour(raw=b"\xff\x00"),
        Behaviour(choices=[]),
        Behaviour(finish_reason="length", content='{"relevance": {"sco'),
        Behaviour(drop=True),
        Behaviour(delay=30),
        Behaviour(drip=5),
    ],
    ids=lambda b: f"{b.status} {str(b.content)[:12]!r} {b.raw!r:.9} {b.drop:d} {b.delay} {b.drip}",
)
def test_whatever_a_server_answers_is_masked_in_bounded_time(tmp_path, rubric, server, behaviour):
    server.default = behaviour
    with Rewarding(tmp_path / "t", judge_timeout=1.0, judge_retries=0, **rubric) as it:
        started = time.monotonic()
        rewards = it.call([GOOD[0], "no spans"], it.turn_ids(1, each=2))
        seconds = time.monotonic() - started
    assert rewards[0] is None
    assert rewards[1] is not None  # nothing to ask about
    assert seconds < 4
    assert it.rows[0].verdicts[-1].status in ("error", "unparsed", "refused")
    assert all(value is None for value in it.rows[0].verdicts[-1].scores.values())


def test_some_429s_and_some_garbage_change_no_number(tmp_path, rubric, server):
    with Rewarding(tmp_path / "calm", cache=False, **rubric) as it:
        calm = it.batch(GOOD, it.turn_ids(1, each=4))
    server.script(rate_limited(retry_after=0), Behaviour(content="hm"), server_error(500))
    with Rewarding(tmp_path / "stormy", cache=False, judge_retries=3, **rubric) as it:
        stormy = it.batch(GOOD, it.turn_ids(1, each=4))
    assert [row.reward for row in stormy] == [row.reward for row in calm]
    assert None not in [row.reward for row in calm]


def test_a_stormy_ledger_is_a_calm_one_where_it_is_not_masked(tmp_path, rubric, server):
    with Rewarding(tmp_path / "calm", cache=False, **rubric) as it:
        calm = it.batch(GOOD, it.turn_ids(1, each=4))
    hits = iter(range(10**6))
    server.rule = lambda _: Behaviour(content="hm") if next(hits) % 2 else None
    options = {"judge_retries": 0, "cache": False, **rubric}
    with Rewarding(tmp_path / "stormy", **options) as it:
        stormy = it.batch(GOOD, it.turn_ids(1, each=4))
    for row, known in zip(stormy, calm, strict=True):
        assert row.reward in (None, known.reward)
        if row.reward is not None and "repaired" not in str(row.verdicts[-1].evidence):
            assert without_usage(row) == without_usage(known)


def test_too_many_masked_end_the_training_as_soon_as_the_window_cannot_be_saved():
    budget = MaskedBudget(0.2, window=10)
    budget.add(1.0)
    budget.add(1.0)  # all that a window may have
    for _ in range(9):
        budget.add(0.0)  # the first is out of sight then
    budget.add(0.9)
    with pytest.raises(ScoringError, match="more than 20% of 10 batches"):
        for _ in range(2):
            budget.add(1.0)


def test_a_row_for_a_turn_that_is_not_there_is_refused(tmp_path):
    with odd(tmp_path) as it, pytest.raises(ConfigError, match="'nothing/0', which the dataset"):
        it.call(GOOD[:1], ["nothing/0"])


def test_judges_work_while_the_caller_does_something_else(tmp_path):
    with odd(tmp_path, "good", "seconds=0.3", judge_timeout=5) as it:
        started = time.monotonic()
        it.reward.begin(it.turn_ids(1), it.ids(GOOD[:1]), phase="train", step=0, per_group=1)
        assert time.monotonic() - started < 0.15
        time.sleep(0.35)
        at = time.monotonic()
        it.reward.cards()
        assert time.monotonic() - at < 0.1
        it.reward.settle(None)


# --- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_gives_back_every_bit(tmp_path):
    with odd(tmp_path, "nan") as it:
        it.batch(TEXTS, it.turn_ids(2, each=4), advantages=[1 / 3] * 8)
    assert list(iterate_rows(it.path)) == it.rows
    lines = it.path.read_bytes().splitlines(keepends=True)[1:]
    assert [row_line(row) for row in it.rows] == lines


def test_a_torn_last_line_is_cut_and_the_next_step_stands_behind_whole_ones(tmp_path):
    with odd(tmp_path) as it:
        it.batch(TEXTS)
        whole = it.path.read_bytes()
    it.path.write_bytes(whole + row_line(it.rows[0])[:-20])
    assert list(iterate_rows(it.path)) == it.rows
    with odd(tmp_path) as again:
        again.batch(GOOD, step=1)
    assert again.path.read_bytes().startswith(whole)
    assert len(list(iterate_rows(it.path))) == 4  # from the beginning: step 0 was done again


# --- texts from token ids -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    import tiny_models

    return tiny_models.build_tokenizer("qwen3", special_tags=True, think_tags=True)


def by_ids(tmp_path: Path, tokenizer: Any, **options: Any) -> Rewarding:
    """Rewards from token ids of a tokenizer whose span tags are special tokens."""
    from kardiabench.prompts import PromptPlan
    from trainer.texts import Texts

    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]  # as Qwen's generation config has it
    texts = Texts(tokenizer, PromptPlan(), ends, **options)
    return Rewarding(tmp_path / "t", judges=["format"], make_reply=texts.reply)


def encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def test_special_tags_are_rewarded_where_trls_own_text_would_get_nothing(tmp_path, tokenizer):
    ids = [*encoded(tokenizer, GOOD[0]), tokenizer.eos_token_id]
    stripped = tokenizer.decode(ids, skip_special_tokens=True)
    assert "response_begin" not in stripped
    with by_ids(tmp_path, tokenizer) as it:
        turn = it.turn_ids(1)
        (reward,) = asyncio.run(it.reward(completion_ids=[ids], turn_id=turn))
        (row,) = it.rows
        blind = Item(it.turns[turn[0]], Reply(turn[0], stripped))
        (card,) = asyncio.run(it.scorers.rewarded.score([blind]))
    assert row.text == GOOD[0]
    assert row.score("format", "format") == 1.0
    assert reward >= 0.5
    assert card.composite == 0.0


def test_end_and_padding_are_dropped_and_a_missing_end_is_truncated(tmp_path, tokenizer):
    body, end, pad = encoded(tokenizer, GOOD[0]), tokenizer.eos_token_id, tokenizer.pad_token_id
    with by_ids(tmp_path, tokenizer) as it:
        completions = [[*body, end], [*body, end, pad, pad], body, [end]]
        asyncio.run(
            it.reward(completion_ids=completions, turn_id=it.turn_ids(1, each=len(completions)))
        )
        rows = it.rows
    assert [row.text for row in rows[:3]] == [GOOD[0]] * 3
    assert [row.status for row in rows] == ["ok", "ok", "truncated", "ok"]
    assert [row.score("format", "format") for row in rows] == [1, 1, 0, 0]
    assert rows[3].text == ""


def test_a_prefill_of_the_template_is_put_back(tmp_path, tokenizer):
    import copy

    ahead = copy.deepcopy(tokenizer)
    ahead.chat_template = tokenizer.chat_template.replace(
        "{{- '<|im_start|>assistant\\n' -}}",
        "{{- '<|im_start|>assistant\\n<|understanding_begin|>' -}}",
    )
    assert ahead.chat_template != tokenizer.chat_template
    rest = GOOD[0].removeprefix("<|understanding_begin|>")
    with by_ids(tmp_path, ahead) as it:
        ids = [*encoded(ahead, rest), ahead.eos_token_id]
        (reward,) = asyncio.run(it.reward(completion_ids=[ids], turn_id=it.turn_ids(1)))
    assert it.rows[0].text == GOOD[0]
    assert reward >= 0.5


def test_thinking_is_no_part_of_the_text(tmp_path, tokenizer):
    ids = [*encoded(tokenizer, f"<think>hm</think>{GOOD[0]}"), tokenizer.eos_token_id]
    with by_ids(tmp_path, tokenizer) as it:
        asyncio.run(it.reward(completion_ids=[ids], turn_id=it.turn_ids(1)))
    assert (it.rows[0].text, it.rows[0].reasoning) == (GOOD[0], "hm")
