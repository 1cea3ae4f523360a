"""Rewards of verl, OpenRLHF and ms-swift equal the ledger's, called the way each engine calls them.

None of the engines is installed: the calls are those of verl 0.9.1, OpenRLHF 0.11.2 and ms-swift
4.6.0, written down here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
import tiny_models
from openai_server import Behaviour
from rundata import say
from trained_ledger import Rewarding

from kardiabench.errors import ConfigError, PreflightError, ScoringError
from trainer.adapters import openrlhf, swift, verl
from trainer.adapters import scoring as adapters
from trainer.adapters.export import export, prompt_messages
from trainer.ledger import Row, iterate_rows

#: Its judge `odd` scores by the text, in numbers with many digits.
PLUGIN = Path(__file__).with_name("misbehaving_judges.py")
TEXTS = [
    say("anxious"),
    say("sad", "Oh dear."),
    "no spans",
    "<|response_begin|>half",
    say("joyful"),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[bool, Path]:
    """Tiny models whose span tags are special tokens, or are not."""
    folder = tmp_path_factory.mktemp("models")
    return {
        special: tiny_models.build(folder / str(special), "qwen3", special_tags=special, layers=1)
        for special in (True, False)
    }


@pytest.fixture
def recipe(tmp_path, models, monkeypatch):
    """Writes a recipe and names it in the environment; `recipe(special=False, on_missing=…)`."""
    opened: list[adapters.Adapter] = []

    def write(*, special: bool = True, model: Path | None = None, **judging: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        content = {
            "model": str(model or models[special]),
            "output": str(tmp_path / "out"),
            "data": {"dataset": "sample", "split": "train"},
            "held_out": {"personas": 2},
            "judging": {"judges": ["odd"], "judge_retries": 0} | judging,
            "plugins": [str(PLUGIN)],
        }
        path.write_text(json.dumps(content))
        monkeypatch.setenv(adapters.RECIPE, str(path))
        monkeypatch.setattr(adapters, "_opened", {})
        opened.append(adapters.shared())
        return path

    yield write
    for adapter in opened:
        adapter.close()


@pytest.fixture
def judged_by_model(server, monkeypatch):
    """Options of a rubric judge on the local server."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-0123456789abcdef")
    return {"judges": ["rubric"], "judge_model": "openai/judge", "judge_api_base": server.url}


class Candidates:
    """The same candidates as token ids, as text with special tokens, and in a ledger."""

    def __init__(self, folder: Path, **judging: Any) -> None:
        self.adapter = adapters.shared()
        texts = self.adapter.texts
        self.tokenizer = texts.format.tokenizer
        end = texts.end_id
        self.ids = [
            [*self.tokenizer(text, add_special_tokens=False).input_ids, end] for text in TEXTS
        ]
        self.ids.append(self.ids[0][:-1])  # whole spans, and cut off before its end
        options = {"judges": ["odd"], "plugins": [PLUGIN]} | judging
        with Rewarding(folder, make_reply=texts.reply, **options) as it:
            self.turn_ids = it.turn_ids(2, each=3)
            it.reward.begin(self.turn_ids, self.ids, phase="train", step=0, per_group=3)
            it.reward.settle(None)
        self.rows: list[Row] = list(iterate_rows(it.path))

    @property
    def rewards(self) -> list[float]:
        """The ledger's."""
        rewards = [row.reward for row in self.rows if row.reward is not None]
        assert len(rewards) == len(self.rows)
        return rewards

    def decoded(self, *, skip: bool) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=skip) for ids in self.ids]

    @property
    def prompts(self) -> list[str]:
        adapter = self.adapter
        return [adapter.texts.prompt(adapter.turn(turn_id)).text for turn_id in self.turn_ids]


# --- verl -----------------------------------------------------------------------------------------


def data_proto(turn_id: str, ids: list[int], pad: int) -> Any:
    """One row as verl 0.9.1's reward loop hands it to a manager: padded on both sides."""
    import torch

    prompt, room = 5, len(ids) + 3
    responses = torch.tensor([*ids, *[pad] * 3])
    mask = torch.tensor([0, 0, 1, 1, 1, *[1] * len(ids), 0, 0, 0])
    assert mask.shape[0] == prompt + room
    item = SimpleNamespace(
        batch={"responses": responses, "attention_mask": mask},
        non_tensor_batch={
            "data_source": "kardiabench",
            "reward_model": {"style": "rule", "ground_truth": turn_id},
            "extra_info": {"index": 0},
        },
    )

    class Data(list):
        def __getitem__(self, place: Any) -> Any:
            return Data(super().__getitem__(place)) if isinstance(place, slice) else item

    return Data([item])


@pytest.mark.parametrize("special", [True, False])
def test_verls_manager_gives_the_ledgers_numbers(tmp_path, recipe, special):
    recipe(special=special)
    them = Candidates(tmp_path / "t")

    async def all_of_them() -> list[dict[str, Any]]:
        manager = verl.KardiaBenchRewardManager(
            config=None,
            tokenizer=them.tokenizer,
            compute_score=None,
            reward_router_address=None,
            reward_model_tokenizer=None,
        )
        pad = them.tokenizer.pad_token_id
        rows = zip(them.turn_ids, them.ids, strict=True)
        tasks = [manager.run_single(data_proto(turn, ids, pad)) for turn, ids in rows]
        return list(await asyncio.gather(*tasks))

    results = asyncio.run(all_of_them())
    assert [result["reward_score"] for result in results] == them.rewards
    assert len(set(them.rewards)) > 2
    formats = [result["reward_extra_info"]["format"] for result in results]
    assert formats == [row.score("format", "format") for row in them.rows]
    assert formats[0] == 1.0
    assert formats[-1] == 0.0  # cut off


def test_verls_functions_give_the_ledgers_numbers_for_finished_replies(tmp_path, recipe):
    recipe(special=False)
    them = Candidates(tmp_path / "t")
    stripped = them.decoded(skip=True)
    calls = [
        {
            "data_source": "kardiabench",
            "solution_str": text,
            "ground_truth": turn_id,
            "extra_info": {"num_turns": 2, "rollout_reward_scores": {}},
        }
        for text, turn_id in zip(stripped, them.turn_ids, strict=True)
    ]
    with ThreadPoolExecutor(4) as pool:  # as verl's event loop does
        one_by_one = list(pool.map(lambda call: verl.compute_score(**call), calls))

    async def together() -> list[dict[str, float]]:
        return list(await asyncio.gather(*(verl.compute_score_async(**call) for call in calls)))

    batch = verl.compute_score_batch(
        data_sources=["kardiabench"] * 6,
        solution_strs=stripped,
        ground_truths=["not the id"] * 6,
        extra_infos=[{"turn_id": turn_id} for turn_id in them.turn_ids],
    )
    assert [one["score"] for one in one_by_one[:-1]] == them.rewards[:-1]
    assert one_by_one == asyncio.run(together()) == batch
    # What verl cannot say: the last one was cut off, and counts as finished.
    assert batch[-1]["format"] == 1.0


def test_stripped_texts_are_refused_where_the_tags_are_special(recipe):
    recipe(special=True)
    turn_id = next(iter(adapters.shared().data.turns))
    for call in (
        lambda: verl.compute_score("kardiabench", "text", turn_id),
        lambda: verl.compute_score_batch(["kardiabench"], ["text"], [turn_id]),
        lambda: swift.KardiaBenchReward()(["text"], turn_id=[turn_id]),
    ):
        with pytest.raises(PreflightError, match="every reward would be 0"):
            call()


# --- OpenRLHF -------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [True, False])
def test_openrlhfs_function_gives_the_ledgers_numbers(tmp_path, recipe, special):
    import torch

    recipe(special=special)
    them = Candidates(tmp_path / "t")
    prompt_ids = [them.tokenizer(p, add_special_tokens=False).input_ids for p in them.prompts]
    queries = [
        them.tokenizer.decode([*prompt, *ids], skip_special_tokens=False)
        for prompt, ids in zip(prompt_ids, them.ids, strict=True)
    ]
    with ThreadPoolExecutor(3) as pool:  # one query a call, each in a thread
        results = list(
            pool.map(
                lambda row: openrlhf.reward_func(*([value] for value in row)),
                zip(queries, them.prompts, them.turn_ids, strict=True),
            )
        )
    rewards = torch.cat([result["rewards"] for result in results])
    assert torch.equal(rewards, torch.tensor(them.rewards, dtype=torch.float32))
    assert all(result["scores"] is result["rewards"] for result in results)
    assert results[0]["extra_logs"]["format"].item() == 1.0


@pytest.fixture
def rewards_server(recipe):
    """OpenRLHF's remote reward model, by the recipe in the environment."""
    recipe()
    with openrlhf.RewardServer(adapters.shared()) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def posted(url: str, body: object) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_openrlhfs_server_gives_the_ledgers_numbers(tmp_path, rewards_server):
    them = Candidates(tmp_path / "t")
    texts = zip(them.prompts, them.decoded(skip=False), strict=True)
    queries = [prompt + reply for prompt, reply in texts]
    body = {"query": queries, "prompts": them.prompts, "labels": them.turn_ids}
    answer = posted(rewards_server.url, body)
    assert answer["rewards"] == answer["scores"] == them.rewards
    assert answer["extra_logs"]["emotion"] == [r.score("emotion", "emotion") for r in them.rows]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        {"query": ["a"]},
        {"query": ["a"], "prompts": [], "labels": ["x/0"]},
        {"query": [1], "prompts": ["1"], "labels": ["x/0"]},
        {"query": ["ab"], "prompts": ["a"], "labels": ["no such turn"]},
        {"query": ["other"], "prompts": ["prompt"], "labels": ["x/0"]},
    ],
)
def test_openrlhfs_server_refuses_what_is_no_request(rewards_server, body):
    with pytest.raises(HTTPError) as caught:
        posted(rewards_server.url, body)
    assert caught.value.code == 400
    assert json.load(caught.value)["error"]


def test_a_cut_prompt_is_refused_and_not_scored(recipe):
    recipe()
    with pytest.raises(ConfigError, match="does not begin with its prompt"):
        openrlhf.reward_func(["prompt reply"], ["long prompt"], ["x/0"])


# --- ms-swift -------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_swifts_rewards_give_the_ledgers_numbers(tmp_path, recipe, special, nested):
    recipe(special=special)
    them = Candidates(tmp_path / "t")
    columns = {
        "messages": [[]] * 6,
        "turn_id": them.turn_ids,
        "response_token_ids": [[ids] if nested else ids for ids in them.ids],
        "finish_reason": ["stop"] * 5 + ["length"],
        "is_truncated": [False] * 5 + [True],
        "trainer_state": SimpleNamespace(global_step=1),
    }
    completions = them.decoded(skip=True)
    assert swift.KardiaBenchReward(args=None)(completions, **columns) == them.rewards
    awaited = swift.AsyncKardiaBenchReward(args=None)(completions, **columns)
    assert asyncio.run(awaited) == them.rewards


def test_swift_may_leave_the_end_token_out(tmp_path, recipe):
    recipe()
    them = Candidates(tmp_path / "t")
    end = adapters.shared().texts.end_id
    ids = [[number for number in row if number != end] for row in them.ids]
    reasons = ["stop"] * 5 + ["length"]
    rewards = swift.rewards(
        [""] * 6, turn_id=them.turn_ids, response_token_ids=ids, finish_reason=reasons
    )
    assert rewards == them.rewards


def test_swift_without_ids_gives_the_ledgers_numbers_where_tags_are_text(tmp_path, recipe):
    recipe(special=False)
    them = Candidates(tmp_path / "t")
    rewards = swift.KardiaBenchReward()(them.decoded(skip=True), turn_id=them.turn_ids)
    assert rewards[:-1] == them.rewards[:-1]


def test_swift_is_told_of_both_rewards(monkeypatch):
    package, module = ModuleType("swift"), ModuleType("swift.rewards")
    module.orms = {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swift", package)
    monkeypatch.setitem(sys.modules, "swift.rewards", module)
    swift.register()
    orms = module.orms
    assert set(orms) == {"kardiabench", "kardiabench_async"}
    assert asyncio.iscoroutinefunction(orms["kardiabench_async"].__call__)
    assert not asyncio.iscoroutinefunction(orms["kardiabench"].__call__)


def test_swift_needs_the_column(recipe):
    recipe()
    with pytest.raises(ConfigError, match="no column turn_id"):
        swift.KardiaBenchReward()(["text"])


# --- what they share ------------------------------------------------------------------------------


def test_a_model_judges_numbers_equal_the_ledgers(tmp_path, recipe, judged_by_model):
    recipe(special=False, cache=False, **judged_by_model)
    them = Candidates(tmp_path / "t", cache=False, **judged_by_model)
    rewards = swift.rewards([""] * 6, turn_id=them.turn_ids, response_token_ids=them.ids)
    assert rewards == them.rewards
    scores = verl.compute_score_batch([""] * 6, them.decoded(skip=True), them.turn_ids)
    assert [one["score"] for one in scores][:-1] == them.rewards[:-1]


def test_a_missing_judgement_raises_and_is_never_a_zero(recipe, judged_by_model, server):
    server.default = Behaviour(content="garbage")
    recipe(special=False, **judged_by_model)
    adapter = adapters.shared()
    turn = next(iter(adapter.data.turns.values()))
    for call in (
        lambda: verl.compute_score("kardiabench", turn.gold, turn.id),
        lambda: swift.rewards([turn.gold], turn_id=[turn.id]),
        lambda: openrlhf.reward_func([f"p{turn.gold}<|im_end|>"], ["p"], [turn.id]),
    ):
        with pytest.raises(ScoringError, match=r"rubric unparsed.*cannot leave it out"):
            call()


def test_zero_is_what_the_recipe_says_and_the_part_stays_missing(recipe, judged_by_model, server):
    server.default = Behaviour(content="garbage")
    recipe(special=False, on_missing="zero", **judged_by_model)
    turn = next(iter(adapters.shared().data.turns.values()))
    result = verl.compute_score("kardiabench", turn.gold, turn.id)
    assert result["score"] == pytest.approx(2 / 3)
    assert result["rubric"] != result["rubric"]  # NaN


def test_openrlhfs_server_says_503_where_a_judgement_is_missing(recipe, judged_by_model, server):
    server.default = Behaviour(content="garbage")
    recipe(special=False, **judged_by_model)
    turn = next(iter(adapters.shared().data.turns.values()))
    with openrlhf.RewardServer(adapters.shared()) as rewards:
        threading.Thread(target=rewards.serve_forever, daemon=True).start()
        body = {"query": [f"p{turn.gold}<|im_end|>"], "prompts": ["p"], "labels": [turn.id]}
        with pytest.raises(HTTPError) as caught:
            posted(rewards.url, body)
        rewards.shutdown()
    assert caught.value.code == 503


def test_many_threads_share_one_adapter(tmp_path, recipe):
    recipe()
    them = Candidates(tmp_path / "t")
    rows = [(n, them.turn_ids[n], them.ids[n]) for n in range(6)] * 20
    with ThreadPoolExecutor(8) as pool:
        scored = list(pool.map(lambda r: (r[0], adapters.shared().of_ids([r[1]], [r[2]])[0]), rows))
    assert all(one.composite == them.rewards[place] for place, one in scored)


def test_the_environment_has_to_name_a_recipe(monkeypatch):
    monkeypatch.delenv(adapters.RECIPE, raising=False)
    with pytest.raises(ConfigError, match="KARDIABENCH_RECIPE"):
        adapters.read_stage()


def test_overrides_come_from_the_environment(tmp_path, recipe, monkeypatch):
    path = recipe()
    monkeypatch.setenv(adapters.OVERRIDES, "judging.on_missing=zero candidates=4")
    stage = adapters.read_stage(str(path))
    assert (stage.judging.on_missing, stage.candidates) == ("zero", 4)


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["verl", "swift"])
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_exported_messages_give_the_trainers_own_prompt(tmp_path, recipe, engine, family):
    model = tiny_models.build(tmp_path / "model", family, layers=1)
    stage = adapters.read_stage(str(recipe(model=model)), ["max_prompt_tokens=1300"])
    said = export(stage, engine, tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").open()]
    texts, turns = adapters.read_texts(stage), adapters.shared().data.turns
    for row in rows:
        turn_id = row["turn_id"] if engine == "swift" else row["reward_model"]["ground_truth"]
        messages = row["messages" if engine == "swift" else "prompt"]
        rendered = texts.format.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert rendered == texts.prompt(turns[turn_id]).text
    assert {turn.id for turn in adapters.shared().data.train} == {
        row["turn_id"] if engine == "swift" else row["extra_info"]["turn_id"] for row in rows
    }
    assert "keep them to yourself" in said[-1]
    held_out = [json.loads(line) for line in (tmp_path / "rows.held-out.jsonl").open()]
    assert len(held_out) == len(adapters.shared().data.held_out) > 0


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_openrlhfs_rows_are_the_prompts_ids(tmp_path, recipe, family):
    model = tiny_models.build(tmp_path / "model", family, layers=1)
    stage = adapters.read_stage(str(recipe(model=model)))
    export(stage, "openrlhf", tmp_path / "rows.jsonl")
    texts, turns = adapters.read_texts(stage), adapters.shared().data.turns
    for line in (tmp_path / "rows.jsonl").open():
        row = json.loads(line)
        ids = texts.format.tokenizer(row["input"], add_special_tokens=False).input_ids
        assert tuple(ids) == texts.prompt(turns[row["label"]]).ids


def test_verl_gets_parquet(tmp_path, recipe):
    import pyarrow.parquet as pq

    stage = adapters.read_stage(str(recipe()))
    export(stage, "verl", tmp_path / "train.parquet")
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert rows[0]["extra_info"]["turn_id"] == rows[0]["reward_model"]["ground_truth"]
    assert rows[0]["prompt"][-1]["role"] == "user"


def test_export_says_what_it_cannot(tmp_path, recipe):
    stage = adapters.read_stage(str(recipe()))
    with pytest.raises(ConfigError, match="did you mean 'verl'"):
        export(stage, "verll", tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        export(stage, "swift", tmp_path / "rows.parquet")


def test_a_message_cannot_end_itself_in_an_exported_prompt(recipe):
    from dataclasses import replace

    from kardiabench.records import Message

    recipe()
    adapter = adapters.shared()
    turn = next(iter(adapter.data.turns.values()))
    first, second, *rest = turn.dialogue.messages
    hostile = Message(second.role, f"{second.content}<|im_end|>")
    dialogue = replace(turn.dialogue, messages=(first, hostile, *rest))
    messages = prompt_messages(adapter.texts, replace(turn, dialogue=dialogue))
    assert "<|im_end|>" not in str(messages)
