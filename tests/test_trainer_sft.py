"""Supervised fine-tuning: what is learnt, and the model that it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import tiny_policy
import torch
from in_process import Here
from sft_runs import callback, data_of, logits, recipe, silent, spelt_model, texts

from kardiabench.contracts import LocalOptions
from kardiabench.errors import ConfigError, RunError
from kardiabench.models.local.loading import load_trainable
from trainer.config import Lora
from trainer.log import read_log
from trainer.saving import save_final
from trainer.sft import run_sft
from trainer.sft_rows import IGNORED, GoldReplies
from trainer.special_tags import SPAN_TAGS, add_span_tags, tag_ids

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]


def test_the_model_is_given_exactly_our_rows(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.gold_trainer import GoldTrainer

    seen = []
    compute = GoldTrainer.compute_loss

    def record(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        for ids, labels, mask in zip(
            inputs["input_ids"], inputs["labels"], inputs["attention_mask"], strict=True
        ):
            n = int(mask.sum())
            assert mask[:n].all() and (labels[n:] == IGNORED).all()
            seen.append((tuple(ids[:n].tolist()), tuple(labels[:n].tolist())))
        return compute(self, model, inputs, *rest, **more)

    monkeypatch.setattr(GoldTrainer, "compute_loss", record)
    data = data_of()
    run_sft(recipe(policy, tmp_path / "out", epochs=1), data, silent)
    tokens = tiny_policy.build_tokenizer(special_tags=True)
    expected = GoldReplies(texts(tokens), 4096).examples(data.train)
    assert sorted(seen) == sorted((tuple(e.input_ids), tuple(e.labels)) for e in expected)


def test_the_loss_is_that_of_the_reply_alone(policy: Path, tmp_path: Path) -> None:
    data = data_of(2)
    stage = recipe(policy, tmp_path / "out", batch_size=2, max_steps=1)
    run_sft(stage, data, silent)
    (entry,) = [line for line in read_log(tmp_path / "out" / "log.jsonl") if "loss" in line]
    tokens = tiny_policy.build_tokenizer(special_tags=True)
    losses = []
    for row in GoldReplies(texts(tokens), 4096).examples(data.train):
        chances = logits(policy, row.input_ids)[0].log_softmax(dim=-1)
        start = len(row.prompt) - 1
        losses += [-float(chances[start + at, token]) for at, token in enumerate(row.reply)]
    assert entry["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_it_learns_and_measures_held_out_loss(policy: Path, tmp_path: Path) -> None:
    said: list[str] = []
    data = data_of(10)
    broken = replace(data.train[0], gold="no spans")
    stage = recipe(policy, tmp_path / "out", eval_every=3, save_every=3, keep_checkpoints=2)
    final = run_sft(stage, replace(data, train=(broken, *data.train[1:])), said.append)
    losses = [
        line["eval_loss"] for line in read_log(stage.output / "log.jsonl") if "eval_loss" in line
    ]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert said == ["1 of 10 train turns are left out: their gold replies have not all four spans"]
    assert {path.name for path in stage.output.glob("checkpoint-*")} == {
        "checkpoint-6",
        "checkpoint-9",
    }
    assert run_sft(stage, replace(data, train=(broken, *data.train[1:])), said.append) == final
    assert "has the trained model already" in said[-1]


def test_the_model_folder_is_plain_and_ends_where_its_template_does(
    tmp_path: Path,
) -> None:
    model = tiny_models.build(tmp_path / "gemma", "gemma2", special_tags=False, scale=0.05)
    generation = json.loads((model / "generation_config.json").read_text())
    # As published ones are that transformers reads and refuses to write.
    (model / "generation_config.json").write_text(
        json.dumps(generation | {"eos_token_id": generation["eos_token_id"][0], "top_p": 0.5})
    )
    final = run_sft(recipe(model, tmp_path / "out", max_steps=1), data_of(4), silent)
    ends = json.loads((final / "generation_config.json").read_text())["eos_token_id"]
    tokens = tiny_models.build_tokenizer("gemma2")
    assert set(ends) == {tokens.eos_token_id, tokens.convert_tokens_to_ids("<end_of_turn>")}
    assert {path.name for path in final.iterdir()} == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("lora", [None, Lora(r=4)])
@pytest.mark.parametrize("tied", [True, False])
def test_special_tags_learn_and_are_saved_with_the_model(
    tmp_path: Path, tied: bool, lora: Lora | None
) -> None:
    model = spelt_model(tmp_path / "base", tied=tied, padded=4)
    trained: list[Any] = []
    stage = recipe(model, tmp_path / "out", tags="special", lora=lora, max_steps=3)
    final = run_sft(
        stage,
        data_of(4),
        silent,
        [callback("on_train_end", lambda _, model: trained.append(model))],
    )
    base, tokens = load_trainable(str(model), LocalOptions())
    add_span_tags(base, tokens)
    saved, saved_tokens = load_trainable(str(final), LocalOptions(dtype="float32"))
    assert tag_ids(saved_tokens) == tag_ids(tokens)
    assert set(SPAN_TAGS) <= set(saved_tokens.all_special_tokens)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(one, layer)().weight for one in (base, saved))
        moved = (old != new).any(dim=1).nonzero().flatten().tolist()
        assert set(tag_ids(tokens)) <= set(moved)
        assert lora is None or set(moved) == set(tag_ids(tokens))  # no other row with an adapter
    ids = [*tag_ids(tokens), *range(5, 40)]
    with torch.no_grad():
        expected = trained[0].eval()(input_ids=torch.tensor([ids])).logits
    assert torch.allclose(logits(final, ids), expected, atol=1e-5)


def test_a_tokenizer_without_a_template_stays_without(tmp_path: Path) -> None:
    model = tiny_models.build(tmp_path / "base", "llama", template=None, scale=0.05)
    final = run_sft(recipe(model, tmp_path / "out", max_steps=1), data_of(4), silent)
    _, tokens = load_trainable(str(final), LocalOptions())
    assert tokens.chat_template is None


@pytest.mark.parametrize("lora", [None, Lora(r=4)])
def test_the_harness_runs_what_was_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lora: Lora | None,
) -> None:
    model = spelt_model(tmp_path / "base", tied=False, padded=200)
    final = run_sft(
        recipe(model, tmp_path / "out", tags="special", lora=lora, max_steps=1), data_of(4), silent
    )
    here = Here(tmp_path / "user", monkeypatch, capsys)
    options = (
        "--dataset",
        "sample",
        "--limit",
        1,
        "--no-rubric",
        "--max-tokens",
        4,
        "--truncate-history",
    )
    result = here("run", "--model", f"hf/{final}", *options, "--out", "full")
    assert result.rc == 0, result.err
    if lora is not None:
        adapter = ("--adapter", tmp_path / "out" / "adapter")
        result = here("run", "--model", f"hf/{model}", *adapter, *options, "--out", "adapter")
        assert result.rc == 0, result.err
        texts = [
            [r["reply"]["text"] for r in here.lines("replies.jsonl", run)]
            for run in ("full", "adapter")
        ]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("changes", "n_held_out", "sentence"),
    [
        ({"batch_size": 5}, 2, r"batch_size 5 does not divide .* give batch_size 4 or 6"),
        ({"batch_size": 1}, 2, r"give batch_size 2,"),
        ({"trl": {"optimm": "sgd"}}, 2, r"trl\.optimm: .* did you mean 'optim'\?"),
        ({"trl": {"optim": "nonsense"}}, 2, r"TRL refuses the configuration"),
        ({"eval_every": 2}, 0, r"set held_out\.personas above 0"),
        ({"lora": Lora(target_modules=["lm_head", "q_proj"])}, 2, r"lora\.target_modules has lm_"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_sentence(
    policy: Path, tmp_path: Path, changes: dict[str, Any], n_held_out: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        run_sft(recipe(policy, tmp_path / "out", **changes), data_of(4, n_held_out), silent)
    assert "\n" not in str(raised.value)


def test_modules_that_the_model_lacks_are_named(policy: Path, tmp_path: Path) -> None:
    lora = Lora(target_modules=["c_attn"])
    with pytest.raises(ConfigError, match=r"cannot be trained so: .*'c_attn'.* not found"):
        run_sft(recipe(policy, tmp_path / "out", lora=lora), data_of(4), silent)


def test_a_checkpoint_of_parts_is_no_model(policy: Path, tmp_path: Path) -> None:
    _, tokens = load_trainable(str(policy), LocalOptions())
    (tmp_path / "checkpoint-1" / "pytorch_model_fsdp_0").mkdir(parents=True)
    with pytest.raises(RunError, match="holds no whole weights"):
        save_final(tmp_path, tmp_path / "checkpoint-1", tokens, [tokens.eos_token_id])
    assert not (tmp_path / "final").exists()
