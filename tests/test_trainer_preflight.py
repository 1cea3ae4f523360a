"""What is looked at before any weight moves: every complaint is one sentence with a next step."""

from __future__ import annotations

import inspect
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from judge_servers import Nonsense, judge_server
from openai_server import unauthorized

from kardiabench.errors import ConfigError, PreflightError
from kardiabench.preflight import sample_item
from kardiabench.prompts import PromptPlan
from kardiabench.records import Item, Verdict
from trainer import extras
from trainer.config import Grpo, Lora, Sft
from trainer.ledger import Row
from trainer.memory import Memory, check_memory, estimate_of, memory_estimate
from trainer.preflight import (
    check_batches,
    check_judges,
    check_output,
    check_round_trip,
    describe_prompt,
    describe_tags,
)
from trainer.scorers import Scorers, open_scorers
from trainer.shards import Shards, shards_here
from trainer.spread import check_spread
from trainer.texts import Texts


def texts_of(tokenizer: Any, **options: Any) -> Texts:
    return Texts(tokenizer, PromptPlan(), [tokenizer.eos_token_id], **options)


def one_sentence(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert not text.endswith(".")
    return text


# --- tags -----------------------------------------------------------------------------------------


def test_special_and_ordinary_tags_are_told_apart():
    special = describe_tags(tiny_models.build_tokenizer("qwen2", special_tags=True))
    assert special.startswith("the eight span tags are special tokens; rewards read them off")
    ordinary = describe_tags(tiny_models.build_tokenizer("qwen2", special_tags=False))
    assert re.match(
        r"the eight span tags are ordinary text \(<\|response_begin\|> is \d+ tokens\)", ordinary
    )


def test_tags_of_several_kinds_are_listed():
    tokenizer = tiny_models.build_tokenizer("qwen2", special_tags=False)
    tokenizer.add_tokens(["<|emotion_begin|>"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|emotion_end|>"]})
    said = describe_tags(tokenizer)
    assert "<|emotion_begin|> a token of its own" in said
    assert "<|emotion_end|> special" in said
    assert "<|response_begin|>, <|response_end|> ordinary text" in said


def test_tags_as_tokens_that_are_not_special():
    tokenizer = tiny_models.build_tokenizer("qwen2", special_tags=False)
    tokenizer.add_tokens(list(tiny_models.SPAN_TAGS))
    assert "are tokens of their own, not special (<|response_begin|> is 1 token)" in describe_tags(
        tokenizer
    )


@pytest.mark.parametrize("special", [True, False], ids=["special", "ordinary"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_gold_reply_comes_back_in_every_family(family, special):
    tokenizer = tiny_models.build_tokenizer(family, special_tags=special)
    assert "all four spans" in check_round_trip(texts_of(tokenizer), tokenizer)


def test_a_prefill_and_an_open_think_block_are_no_loss():
    opening = "{{ '<|understanding_begin|>' }}"
    for template in (tiny_models._CHATML + opening, tiny_models._CHATML + "{{ '<think>\\n' }}"):
        tokenizer = tiny_models.build_tokenizer("qwen3", think_tags=True, template=template)
        check_round_trip(texts_of(tokenizer), tokenizer)


def lossy(*, lower: bool) -> Any:
    """A tokenizer that does not know the bar of a tag, or that lowers every letter."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(n) for n in range(32, 127) if lower or chr(n) != "|"]
    vocabulary = {letter: n for n, letter in enumerate(["<unk>", "</s>", *letters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    if lower:
        raw.normalizer = normalizers.Lowercase()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = tiny_models._CHATML
    return tokenizer


def test_a_tokenizer_that_loses_a_tag_is_refused_naming_it():
    tokenizer = lossy(lower=False)
    with pytest.raises(PreflightError, match=r"the tag <\|understanding_begin\|> is lost") as error:
        check_round_trip(texts_of(tokenizer), tokenizer)
    assert "tags: special" in one_sentence(error)


def test_a_tokenizer_that_changes_a_span_is_refused_naming_it():
    tokenizer = lossy(lower=True)
    tokenizer.chat_template = tiny_models._CHATML.lower()
    with pytest.raises(PreflightError, match="the span understanding is"):
        check_round_trip(texts_of(tokenizer), tokenizer)


# --- prompts --------------------------------------------------------------------------------------


def test_how_prompts_are_made_is_said():
    turn = sample_item().turn
    tokenizer = tiny_models.build_tokenizer("qwen2")
    texts = texts_of(tokenizer)
    said = describe_prompt(texts, turn)
    assert said == (
        f"prompts: the model's own chat template; {len(texts.prompt(turn).ids)} tokens for turn "
        f"{turn.id}"
    )
    folded = describe_prompt(texts_of(tiny_models.build_tokenizer("gemma2")), turn)
    assert "no system role" in folded
    plain = describe_prompt(texts_of(tiny_models.build_tokenizer("llama", template=None)), turn)
    assert "plain headings" in plain


def test_a_prefill_and_thinking_are_said():
    turn = sample_item().turn
    opening = tiny_models._CHATML + "{{ '<|understanding_begin|>' }}"
    tokenizer = tiny_models.build_tokenizer("qwen2", template=opening)
    assert "begins every reply with '<|understanding_begin|>'" in describe_prompt(
        texts_of(tokenizer), turn
    )
    thinking = tiny_models._CHATML + "{{ '<think>\\n' }}"
    tokenizer = tiny_models.build_tokenizer("qwen3", template=thinking)
    assert "opens a think block" in describe_prompt(texts_of(tokenizer), turn)
    tokenizer = tiny_models.build_tokenizer("qwen3", think_tags=True)
    assert "set thinking to decide" in describe_prompt(texts_of(tokenizer), turn)
    assert "set thinking" not in describe_prompt(texts_of(tokenizer, thinking=False), turn)


def test_a_switch_that_the_template_lacks_is_refused():
    tokenizer = tiny_models.build_tokenizer("qwen2")
    with pytest.raises(PreflightError, match="thinking: false is set") as error:
        describe_prompt(texts_of(tokenizer, thinking=False), sample_item().turn)
    one_sentence(error)


def test_a_template_that_makes_no_prompt_is_refused():
    tokenizer = tiny_models.build_tokenizer("qwen2", template="{{ raise_exception('not today') }}")
    with pytest.raises(PreflightError, match="not today"):
        describe_prompt(texts_of(tokenizer), sample_item().turn)


# --- spread ---------------------------------------------------------------------------------------

GOLD = sample_item().reply.text


def row(group: int, candidate: int, reward: float | None, **changes: Any) -> Row:
    given_ = {
        "step": 0,
        "phase": "train",
        "call": 0,
        "group": group,
        "candidate": candidate,
        "turn_id": f"d/{group}",
        "persona_id": "p",
        "text": f"{GOLD} {candidate}",
        "reasoning": "",
        "status": "ok",
        "detail": "",
        "finish_reason": "stop",
        "tokens": 16,
        "verdicts": (),
        "composite": reward,
        "reward": reward,
    }
    return Row(**(given_ | changes))


def batch(rewards: Sequence[Sequence[float | None]], **changes: Any) -> list[Row]:
    return [
        row(g, c, reward, **changes)
        for g, group in enumerate(rewards)
        for c, reward in enumerate(group)
    ]


def test_rewards_that_differ_in_a_group_are_described():
    assert check_spread(batch([[0.0, 1.0], [0.5, 0.5], [0.5, None]])) == (
        "rewards of the first 6 candidates: 0.000 to 1.000, mean 0.500; 1 of 2 groups without "
        "spread, 1 masked"
    )


@pytest.mark.parametrize(
    ("rewards", "changes", "why"),
    [
        (
            [[0.0, 0.0]] * 2,
            {"text": "hm", "status": "truncated"},
            "cut off at 16 tokens; raise max",
        ),
        ([[0.0, 0.0]] * 2, {"text": "hm"}, "the same text; raise temperature"),
        ([[1.0, 1.0]] * 2, {}, r"the judges see no difference; take harder"),
        ([[1.0, 1.0], [0.5, 0.5]], {}, "in every group of the first batch"),
        ([[1.0, None], [None, None], [0.5, 0.5]], {}, "in every group of the first batch"),
    ],
    ids=["cut off", "repeated", "all pass", "each group", "masked"],
)
def test_rewards_without_spread_stop_it_and_say_why(rewards, changes, why):
    with pytest.raises(PreflightError, match=why) as error:
        check_spread(batch(rewards, **changes))
    one_sentence(error)


def test_groups_of_one_reward_cannot_be_told_to_be_equal():
    with pytest.raises(PreflightError, match="no two candidates of a prompt") as error:
        check_spread(batch([[1.0, None], [None, 0.5]]))
    one_sentence(error)


def test_replies_without_spans_ask_for_sft_first():
    rows = [row(0, n, 0.0, text=f"words {n}") for n in range(4)]
    with pytest.raises(PreflightError, match=r"no candidate has the four spans; train `sft` first"):
        check_spread(rows)
    rows[0] = row(0, 0, 0.0, text="words", status="truncated")
    with pytest.raises(PreflightError, match=r"\(1 were cut off: max_tokens may be too low\)"):
        check_spread(rows)


def test_a_batch_without_a_reward_shows_what_the_judge_said():
    def verdict(why: str) -> Verdict:
        return Verdict("d/0", "rubric", "f", {"empathy": None}, "error", {"judge": why})

    rows = [row(0, n, None, verdicts=(verdict("timeout"),)) for n in range(3)]
    rows.append(row(0, 3, None, verdicts=(verdict("refused"),)))
    with pytest.raises(PreflightError, match=r"judge rubric \(error: timeout\)") as error:
        check_spread(rows)
    one_sentence(error)
    with pytest.raises(PreflightError, match="no verdict"):
        check_spread([])


# --- judges ---------------------------------------------------------------------------------------


def scorers_of(url: str, **judging: Any) -> Scorers:
    given_ = {
        "judges": ["rubric"],
        "judge_model": "openai/judge",
        "judge_api_base": url,
        "cache": False,
        "judge_retries": 0,
    }
    stage = Grpo(model="m", output=Path("out"), judging=given_ | judging)
    return open_scorers(stage, stage.judging, warn=lambda _: None)


@pytest.fixture
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")


def test_judges_that_answer_and_parse_pass_and_can_be_asked_afterwards(server, _key):
    from trainer.scoring_thread import ScoringThread

    scorers = scorers_of(server.url)
    assert check_judges(scorers) == (
        "judges: format, emotion, rubric; each judged a reply of the built-in sample"
    )
    # Another event loop than the check's.
    thread = ScoringThread(scorers.fresh, scorers.limit, pytest.fail)
    item = sample_item()
    items = [item, Item(item.turn, item.reply)]
    cards = thread.finish("train", thread.start("train", items), items)
    assert all(card.composite is not None for card in cards)
    thread.close()


def test_a_judge_that_cannot_be_reached_is_named(_key):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(PreflightError, match=r"openai/judge.*judging\.judge_api_base") as error:
        check_judges(scorers_of(url))
    one_sentence(error)


def test_a_refused_key_and_a_missing_one_are_named(server, monkeypatch, _key):
    server.default = unauthorized()
    with pytest.raises(PreflightError, match="check the key") as error:
        check_judges(scorers_of(server.url))
    assert "0123456789" not in one_sentence(error)
    monkeypatch.delenv("OPENAI_API_KEY")
    server.requests.clear()
    with pytest.raises(PreflightError, match="OPENAI_API_KEY"):
        check_judges(scorers_of("https://api.openai.com/v1", judge_api_base=None))
    assert not server.requests


def test_a_judge_that_does_not_parse_is_named(_key):
    with (
        judge_server(Nonsense()) as server,
        pytest.raises(
            PreflightError, match=r"judge rubric did not judge a sample reply \(unparsed: "
        ) as error,
    ):
        check_judges(scorers_of(server.url))
    assert "judging.judge_model" in one_sentence(error)


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("tiny"), "qwen3")


def config_of(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def grpo(**changes: Any) -> Grpo:
    return Grpo(**({"model": "m", "output": Path("out"), "dtype": "bfloat16"} | changes))


def test_full_training_counts_every_weight_four_times_over(tiny):
    from transformers import AutoModelForCausalLM

    weights = sum(w.numel() for w in AutoModelForCausalLM.from_pretrained(tiny).parameters())
    found = memory_estimate(config_of(tiny), grpo(), tokens=100, reference=True)
    assert (found.weights, found.gradients, found.optimizer) == (
        2 * weights,
        2 * weights,
        4 * weights,
    )
    assert found.reference == 2 * weights
    spread = memory_estimate(config_of(tiny), grpo(), tokens=100, shards=Shards(4, 4))
    assert (spread.weights, spread.optimizer) == (weights // 2, weights)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's use of transformers
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*\.(up|down)_proj"])
def test_an_adapter_is_as_large_as_peft_makes_it(tiny, targets):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    whole = sum(w.numel() for w in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(w.numel() for w in adapted.parameters() if w.requires_grad)
    lora = Lora(r=4, target_modules=targets)
    found = memory_estimate(config_of(tiny), grpo(lora=lora), tokens=100, reference=True)
    assert found.gradients == 2 * trained
    assert found.weights == 2 * (whole + trained)
    assert found.reference == 0


def test_activations_grow_with_rows_and_tokens_and_shrink_with_checkpointing(tiny):
    def activations(tokens: int, **changes: Any) -> int:
        return memory_estimate(config_of(tiny), grpo(**changes), tokens=tokens).activations

    assert activations(200) == 2 * activations(100)
    assert activations(100, per_device_batch_size=16) == 2 * activations(100)
    assert activations(100, gradient_checkpointing=True) < activations(100)


def test_float32_weights_take_twice_as_much(tiny):
    half, full = (
        memory_estimate(config_of(tiny), grpo(dtype=dtype), tokens=100).weights
        for dtype in ("bfloat16", "float32")
    )
    assert full == 2 * half


def test_only_what_surely_exceeds_the_device_is_refused():
    memory = Memory(
        weights=6 * 2**30, gradients=6 * 2**30, optimizer=12 * 2**30, reference=0, activations=2**40
    )
    with pytest.raises(PreflightError, match=r"alone take 18\.0 GiB.*16\.0 GiB free") as error:
        check_memory(memory, 16 * 2**30)
    assert "train an adapter (lora; dtype: bfloat16 instead would round" in one_sentence(error)
    with pytest.raises(PreflightError, match="set dtype: bfloat16"):
        check_memory(memory, 16 * 2**30, lora=True)
    assert "activations 1024.0" in check_memory(memory, 20 * 2**30)


def test_vllm_takes_its_share_of_the_device(tiny):
    found = memory_estimate(
        config_of(tiny), grpo(), tokens=100, vllm_share=0.25, device_bytes=80 * 2**30
    )
    assert found.vllm == 20 * 2**30
    assert found.total > found.vllm


def test_only_scored_tokens_have_logits_and_only_adamw_keeps_two_states(tiny):
    def found(scored: int | None, **trl: Any) -> Memory:
        return memory_estimate(config_of(tiny), grpo(trl=trl), tokens=100, scored=scored)

    rows, vocabulary = grpo().per_device_batch_size, config_of(tiny).vocab_size
    spared = found(None).activations - found(40).activations
    assert spared == rows * 60 * vocabulary * 3 * 4
    assert found(None, optim="adafactor").optimizer == 0
    assert found(None, optim="adamw_torch").optimizer == found(None).optimizer > 0


@pytest.fixture
def _no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_launcher")
def test_a_stage_is_estimated_by_its_model_s_configuration_alone(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "without-weights"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (folder / "model.safetensors").touch()
    model, config = str(folder), config_of(tiny)
    for beta, lora in ((0.0, None), (0.1, None), (0.1, Lora(r=4))):
        stage = grpo(model=model, beta=beta, lora=lora, max_prompt_tokens=300, max_tokens=50)
        expected = memory_estimate(config, stage, tokens=350, scored=50, reference=beta > 0)
        assert estimate_of(stage) == expected
        assert bool(expected.reference) == (beta > 0 and lora is None)
    sft = Sft(model=model, output=Path("out"), max_length=9000)
    assert estimate_of(sft) == memory_estimate(config, sft, tokens=2048)  # the model's context
    monkeypatch.setattr("trainer.memory.processes", lambda: 4)
    whole = estimate_of(sft)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert estimate_of(sft).weights == whole.weights // 4


@pytest.mark.usefixtures("_no_launcher")
def test_colocated_vllm_counts_unless_it_sleeps(tiny, monkeypatch):
    monkeypatch.setattr("trainer.memory._device_bytes", lambda: 80 * 2**30)

    def claimed(**vllm: Any) -> int:
        return estimate_of(grpo(model=str(tiny), vllm=vllm)).vllm

    assert claimed(mode="colocate", gpu_memory_utilization=0.25) == 20 * 2**30
    assert claimed(mode="colocate", sleep=True) == 0
    assert claimed(mode="server") == 0


@pytest.mark.usefixtures("_no_launcher")
def test_a_model_that_is_not_there_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(PreflightError, match="does not exist") as error:
        estimate_of(grpo(model=str(tmp_path / "none")))
    one_sentence(error)


_ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
_STAGE, _OFF = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_OFFLOAD_"


@pytest.mark.usefixtures("_no_launcher")
@pytest.mark.parametrize(
    ("environment", "shards"),
    [
        ({}, (1, 1)),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "false"}, (8, 8)),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, (0, 0)),
        (_ZERO, (1, 8)),
        (_ZERO | {_STAGE: "0"}, (1, 1)),
        (_ZERO | {_STAGE: "3", f"{_OFF}OPTIMIZER_DEVICE": "none"}, (8, 8)),
        (_ZERO | {_STAGE: "3", f"{_OFF}OPTIMIZER_DEVICE": "cpu"}, (8, 0)),
        (_ZERO | {_STAGE: "3", f"{_OFF}PARAM_DEVICE": "cpu"}, (0, 8)),
        (_ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "x.json"}, (0, 0)),
    ],
)
def test_how_a_launcher_spreads_a_training(environment, shards, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shards_here(8) == Shards(*shards)


# --- batches --------------------------------------------------------------------------------------


def test_a_step_is_spelt_out():
    assert check_batches(256, 8, 2, 8) == (
        "a step: 256 rows = 8 rows x 2 processes x 16 accumulated; 32 prompts"
    )
    assert check_batches(8, 8) == "a step: 8 rows = 8 rows"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (100, 8, 8),
            "batch_size 100 does not divide into per_device_batch_size 8 x 8 processes; give "
            "batch_size 64 or 128",
        ),
        (
            (96, 7, 1),
            "batch_size 96 does not divide into per_device_batch_size 7; give batch_size 91 or 98, "
            "or per_device_batch_size 6 or 8",
        ),
        (
            (8, 16, 1),
            "batch_size 8 does not divide into per_device_batch_size 16; give batch_size 16, or "
            "per_device_batch_size 8",
        ),
        (
            (20, 4, 1, 8),
            "batch_size 20 does not divide into per_device_batch_size 4 in whole groups of 8 "
            "candidates; give batch_size 16 or 24",
        ),
    ],
)
def test_sizes_that_do_not_divide_come_with_the_nearest_that_do(arguments, said):
    with pytest.raises(ConfigError) as error:
        check_batches(*arguments)
    assert one_sentence(error) == said


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 5), st.none() | st.integers(2, 9))
def test_every_size_that_is_suggested_divides(size, rows, world, candidates):
    try:
        check_batches(size, rows, world, candidates)
    except ConfigError as error:
        hint = str(error).partition("; give ")[2]
    else:
        return
    sizes, _, others = hint.partition(", or per_device_batch_size")
    for number in re.findall(r"\d+", sizes):
        check_batches(int(number), rows, world, candidates)
    for number in re.findall(r"\d+", others):
        check_batches(size, int(number), world, candidates)


# --- the output folder ----------------------------------------------------------------------------


def test_a_new_an_empty_and_an_own_folder_are_fine(tmp_path):
    check_output(tmp_path / "deep/er")
    assert not (tmp_path / "deep").exists()
    (tmp_path / ".lock").touch()
    check_output(tmp_path)
    (tmp_path / "ledger.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    check_output(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "ledger.jsonl", "notes.txt"]


def test_other_peoples_files_a_file_and_a_place_without_rights_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "zebra").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex and 1 more") as error:
        check_output(tmp_path)
    one_sentence(error)
    with pytest.raises(ConfigError, match="is a file"):
        check_output(tmp_path / "zebra")
    with pytest.raises(ConfigError, match="nothing can be written in"):
        check_output(tmp_path / "zebra/out")
    with pytest.raises(ConfigError, match="nothing can be written in /proc"):
        check_output(Path("/proc/out"))


# --- packages -------------------------------------------------------------------------------------


@pytest.fixture
def versions(monkeypatch):
    """What is installed, over what really is; None: not."""
    known: dict[str, str | None] = {}
    real = extras._installed
    monkeypatch.setattr(
        extras, "_installed", lambda name: known[name] if name in known else real(name)
    )
    return known


def test_missing_packages_come_with_the_install_line(versions):
    extras.require("trl", "peft")
    versions.update(trl=None, peft=None)
    with pytest.raises(PreflightError) as error:
        extras.require("torch", "trl", "peft")
    assert one_sentence(error) == "training needs trl and peft: pip install 'kardiabench[train]'"


def test_a_package_that_is_too_old_is_named(versions):
    versions["trl"] = "0.9.1"
    with pytest.raises(PreflightError, match=r"trl >=1\.16, and 0\.9\.1 is installed"):
        extras.require("trl")


def test_the_vllm_range_is_that_of_the_installed_trl():
    """TRL's metadata and the numbers that its own check compares with."""
    from trl.import_utils import is_vllm_available

    source = inspect.getsource(is_vllm_available)
    low, high = re.findall(r'Version\("([\d.]+)"\) <= .* <= Version\("([\d.]+)"\)', source)[0]
    assert {str(part) for part in extras.vllm_range()} == {f">={low}", f"<={high}"}


def test_vllm_missing_or_of_another_version_comes_with_the_install_line(versions):
    wanted = re.escape(f"pip install 'vllm{extras.vllm_range()}'")
    versions["vllm"] = None
    with pytest.raises(PreflightError, match=wanted):
        extras.check_vllm_range()
    versions["vllm"] = "0.3.0"
    with pytest.raises(PreflightError, match=f"vLLM 0.3.0 is installed.*{wanted}"):
        extras.check_vllm_range()
    newest = max(part.version for part in extras.vllm_range() if part.operator == "<=")
    versions["vllm"] = f"{newest}+cu129"
    assert extras.check_vllm_range() == f"{newest}+cu129"


def test_a_tracker_that_is_missing_comes_with_the_install_line(versions):
    versions.update(wandb=None, trackio=None, tensorboard="2.21.0")
    extras.check_reports(["tensorboard"])
    with pytest.raises(PreflightError, match="pip install wandb trackio"):
        extras.check_reports(["tensorboard", "wandb", "trackio"])


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch):
    import torch

    extras.check_bf16("bfloat16")  # as this machine is
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    extras.check_bf16("float32")
    with pytest.raises(PreflightError, match="bfloat16: Old GPU does not compute in it"):
        extras.check_bf16("bfloat16")
