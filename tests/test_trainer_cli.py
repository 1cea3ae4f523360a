"""`kardiabench train` as its user has it: what is printed, refused, written and left alone."""

from __future__ import annotations

import json
from pathlib import Path

import learning
import pytest
import tiny_policy
import yaml
from click.testing import CliRunner

from kardiabench.cli import cli
from kardiabench.errors import ConfigError, PreflightError, RunError
from trainer.recipe_files import built_in, launch_configs, load_stage, read_recipe

PLUGIN = Path(__file__).with_name("reward_plugin.py")
SHORT = ("judging.judges=[letters]", "judging.weights={letters: 1}", f"plugins=[{PLUGIN}]")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny_policy.build_policy(folder / "model", special_tags=True, seed=0)
    tiny_policy.write_rows(folder / "rows", dialogues=32)
    return folder


def train(*words):
    return CliRunner().invoke(cli, ["train", *map(str, words)])


def words(place, output, *given):
    data = (f"model={place / 'model'}", f"data.dataset={place / 'rows'}", f"output={output}")
    return ["grpo", "--config", "grpo-tiny", "--quiet", *data, *SHORT, *given]


@pytest.mark.parametrize("name", sorted(built_in()))
def test_every_recipe_is_valid_and_says_what_it_is(name):
    stage = load_stage(read_recipe(name)["stage"], name, [])
    assert stage.about
    assert yaml.safe_load(train("recipes", name).output)["about"]


def test_recipes_lists_them_all_and_launch_configurations_can_be_printed():
    listed = train("recipes").output
    assert all(name in listed for name in (*built_in(), *launch_configs()))
    assert yaml.safe_load(train("recipes", "accelerate/fsdp").output)["distributed_type"] == "FSDP"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["learning_rat=1"], "learning_rat in grpo-tiny: there is no such field; did you mean"),
        (["lora.rr=3"], "lora.rr in grpo-tiny: there is no such field"),
        (["batch_size=33"], "batch_size 33 is no multiple of candidates 8"),
        (["x"], "'x' is not key=value"),
        (["judging.masked_budget=3"], "judging.masked_budget in grpo-tiny"),
        (["eval_every=5", "save_every=2"], "eval_every 5 is no multiple of save_every 2"),
        (["judging.weights={letters: 1e9}"], "judging.weights: letters"),
        (["learning_rate=.inf"], "learning_rate in grpo-tiny"),
        (["seed=-1"], "seed in grpo-tiny"),
        (["batch_size=512", "per_device_batch_size=256"], "a step takes 64 prompts"),
        (["judging.judges=['letters:api_key=hunter2']"], "'api_key' looks like a secret"),
        (["judging.judge_api_base=http://u:p@localhost:1/v1"], "carries credentials"),
        (["held_out.judges=[letters]"], "a judge that is rewarded cannot watch"),
        (["trl=" + "[" * 3000], "trl: the value is no YAML"),
    ],
)
def test_a_wrong_field_is_one_sentence(place, tmp_path, given, said):
    result = train(*words(place, tmp_path / "out", *given))
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("num_generation=4", "did you mean 'num_generations'"),
        ("output_dir=/tmp/x", "trl.output_dir is the recipe's own business"),
        ("reward_weights=[2]", "trl.reward_weights is the recipe's own business"),
        ("use_vllm=true", "trl.use_vllm is the recipe's own business"),
    ],
)
def test_what_trl_may_not_be_told(place, tmp_path, argument, said):
    result = train(*words(place, tmp_path / "out", f"trl.{argument}"))
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)


@pytest.mark.parametrize("given", [["trl.foo=1"], ["trl.learning_rate=1"]])
def test_check_refuses_what_the_training_would(place, tmp_path, given):
    result = train(*words(place, tmp_path / "out", "--check", *given))
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "out").exists()


def test_check_refuses_a_folder_of_another_training(place, tmp_path):
    assert train(*words(place, tmp_path / "out", "max_steps=1")).exit_code == 0
    result = train(*words(place, tmp_path / "out", "max_steps=2", "--check"))
    assert isinstance(result.exception, RunError)
    assert "recipe.max_steps: 1 -> 2" in str(result.exception)


def test_sft_is_checked_with_its_own_replies(place, tmp_path):
    data = (f"model={place / 'model'}", f"data.dataset={place / 'rows'}", f"output={tmp_path}/o")
    result = train("sft", "--config", "sft-tiny", "--check", *data)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "o").exists()
    short = train("sft", "--config", "sft-tiny", "--check", *data, "max_length=20")
    assert "max_length" in str(short.exception)


def test_check_says_what_it_found_and_writes_nothing(place, tmp_path):
    result = train(*words(place, tmp_path / "out", "--check"))
    assert result.exit_code == 0, result.output
    assert "the eight span tags are special tokens" in result.stderr
    assert "a gold reply comes back" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_first_batch_without_spread_is_refused_and_the_mended_recipe_starts_anew(place, tmp_path):
    plain = ["grpo", "--config", "grpo-tiny", "--quiet", f"model={place / 'model'}"]
    plain += [f"data.dataset={place / 'rows'}", f"output={tmp_path / 'out'}", "max_steps=1"]
    result = train(*plain)  # no reply of an untrained model has the spans
    assert isinstance(result.exception, PreflightError)
    assert "sft" in str(result.exception)
    mended = train(*words(place, tmp_path / "out", "max_steps=1"))
    assert mended.exit_code == 0, mended.output
    assert len(list((tmp_path / "out").glob("ledger*"))) == 1


def test_a_folder_in_use_is_refused(place, tmp_path):
    from kardiabench.files import lock_folder

    (tmp_path / "out").mkdir()
    lock = lock_folder(tmp_path / "out")
    try:
        result = train(*words(place, tmp_path / "out", "max_steps=1"))
    finally:
        lock.release()
    assert isinstance(result.exception, RunError)
    assert "in use" in str(result.exception)
    assert "give another folder" in str(result.exception)


def test_a_held_out_judge_that_is_rewarded_under_another_name_is_refused(place, tmp_path):
    result = train(*words(place, tmp_path / "out", "held_out.judges=['letters:as=other']"))
    assert isinstance(result.exception, ConfigError)
    assert "other is the rewarded judge letters under another name" in str(result.exception)


def test_a_final_run_is_one_that_the_leaderboard_takes(place, tmp_path):
    out = tmp_path / "out"
    result = train(*words(place, out, "max_steps=1", "final={limit: 2, max_tokens: 16}"))
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["protocol"]["scorer"]["weights"] == {"letters": 1.0}
    assert manifest["config"]["split"] == "test"
    site = CliRunner().invoke(
        cli, ["leaderboard", "build", str(out / "run"), "-o", str(tmp_path / "site")]
    )
    assert site.exit_code == 0, site.output
    assert (tmp_path / "site" / "index.html").exists()


def test_reports_go_to_tensorboard(place, tmp_path):
    out = tmp_path / "out"
    result = train(*words(place, out, "max_steps=1", "report_to=[tensorboard]"))
    assert result.exit_code == 0, result.output
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = Path(out).rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert "train/reward" in events.Tags()["scalars"]
    assert "train/parts/letters" in events.Tags()["scalars"]


def test_gdpo_gives_trl_every_part_and_the_ledger_keeps_the_composite(place, tmp_path):
    out = tmp_path / "out"
    both = ("judging.weights={letters: 3, format: 1}", "normalize=gdpo", "max_steps=2")
    result = train(*words(place, out, *both))
    assert result.exit_code == 0, result.output
    trained = learning.Learned(out)
    for line in trained.log:
        rows = [row for row in trained.rows if row.step == line["step"] - 1]
        mean = sum(row.composite for row in rows) / len(rows)
        assert line["reward"] == pytest.approx(mean, abs=1e-6)
        letters = [row.score("letters", "letters") for row in rows]
        assert line["rewards/letters/mean"] == pytest.approx(sum(letters) / len(letters), abs=1e-6)
    assert any(row.advantage for row in trained.rows)


def test_curves_are_drawn_anew_from_the_ledger(place, tmp_path):
    out = tmp_path / "out"
    assert train(*words(place, out, "max_steps=1")).exit_code == 0
    (out / "curves.html").unlink()
    result = train("curves", out)
    assert result.output.strip() == str(out / "curves.html")
    assert (out / "curves.html").exists()
    assert isinstance(train("curves", tmp_path / "none").exception, ConfigError)


def test_export_writes_rows_for_another_engine(place, tmp_path):
    data = (f"model={place / 'model'}", f"data.dataset={place / 'rows'}", f"output={tmp_path}/o")
    file = tmp_path / "rows.jsonl"
    result = train("export", "--engine", "swift", "--config", "grpo-tiny", "--out", file, *data)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert rows
    assert all(row["turn_id"] for row in rows)
