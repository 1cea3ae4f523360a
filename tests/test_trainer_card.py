"""The model card: what it says, that the Hub can read it, and that no name breaks out of it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from training_folder import SECRET, make_folder, recipe, row

from kardiabench.cli import cli
from kardiabench.cli.running import run
from kardiabench.errors import RunError
from kardiabench.records import clean_text
from trainer.card import command, escaped, fenced, front_matter, recipe_text, write_card
from trainer.curve_data import read_folder
from trainer.evaluations import EVALUATIONS
from trainer.facts import facts_of, hub_name
from trainer.ledger import LEDGER, Ledger, read_header
from trainer.log import LOG
from trainer.manifest import MANIFEST
from trainer.public import (
    public_base,
    public_dataset,
    public_local,
    public_model,
    public_recipe,
    public_spec,
    public_text,
)

_PLUGIN = Path(__file__).parents[1] / "examples" / "judge_file.py"
HOSTILE = [
    "a\n---\nb: c",
    "x | y | <img src=x onerror=alert(1)>",
    "[click](https://evil.example) ![](http://evil.example/x.png)",
    "`code` ```",
    "{{ 7*7 }} {% raw %}",
    "$\\href{x}{y}$ **bold** ~~gone~~ @someone www.evil.example",
    "name\u202egnp.exe\x1b[2J\ud800",
    "&lt;script&gt;",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("card") / "out")
    (folder / "final").mkdir()
    return folder


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return write_card(folder, step=4).read_text("utf-8")


def change(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def written(folder: Path, **options: Any) -> str:
    (folder / "final").mkdir(exist_ok=True)
    return write_card(folder, **options).read_text("utf-8")


def test_the_hub_reads_its_front_matter(card: str) -> None:
    assert ModelCard(card).data.to_dict() == {
        "base_model": "Qwen/Qwen3-0.6B",
        "base_model_relation": "finetune",
        "datasets": ["Jhcircle/KardiaBench"],
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["kardiabench", "trl", "grpo"],
    }


def test_it_says_what_the_model_is_and_what_it_is_not_for(card: str) -> None:
    for said in (
        "Not for clinical use",
        "no substitute for professional help",
        "Qwen/Qwen3-0.6B, revision a1b2c3d4",
        "KardiaBench, split train, fingerprint dddddddddddddddd",
        "these weights are those after step 4",
        "CC BY-NC-ND 4.0",
        "| format | rewarded, weight 1 | ffffffffffffffff |",
        "| honest | held out: watched, never rewarded | cccccccccccccccc |",
        "**Alarm at step 6:**",
        "Safety was not judged",
        "kardiabench run --model hf/PATH_OR_NAME_OF_THIS_MODEL --dataset KardiaBench --split test",
        "torch",
    ):
        assert said in card


def test_it_has_the_first_the_chosen_and_the_last_evaluation(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, hacked=False)
    table = [
        line for line in written(folder).splitlines() if re.match(r"\| (first|last|chosen)", line)
    ]
    assert [line.split(" | ")[:2] for line in table] == [["| first", "0"], ["| last, chosen", "6"]]
    found = read_folder(folder).evaluations[-1].held_out
    assert found is not None
    assert f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})" in table[-1]


def test_no_reply_no_dialogue_and_no_path_is_in_it(folder: Path, card: str) -> None:
    assert SECRET in (folder / LEDGER).read_text("utf-8")
    assert SECRET not in card
    assert str(folder.parent) not in card


def test_what_is_missing_is_said_without_where_it_would_be(tmp_path: Path) -> None:
    for name in (LOG, LEDGER):
        folder = make_folder(tmp_path / name)
        (folder / name).unlink()
        (folder / EVALUATIONS).write_text("{}\n", "utf-8")
        text = written(folder)
        assert f"there is no {name}".replace(".j", "\\.j") in text
        assert "evaluations\\.jsonl, byte 0\\:" in text or "evaluations\\.jsonl, byte 0:" in text
        assert "There was no evaluation." in text
        assert str(tmp_path) not in text


def test_the_share_of_masked_candidates_is_the_ledger_s(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, steps=1)
    path = folder / LEDGER
    with Ledger(path, read_header(path), resume_at=1) as ledger:
        ledger.append([row(1, 0, 0), row(1, 0, 1, empathy=None)])
    assert "is not known" in written(folder)
    assert "was missing: 25.00%." in written(folder, source="ledger")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_breaks_out_of_nothing(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path, held_out=clean_text(name))
    path = folder / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    manifest["model"] = {"model": name, "revision": name}
    manifest["data"]["fingerprint"] = name
    manifest["recipe"] |= {"thinking": name, "about": name}
    manifest["recipe"]["data"] |= {"dataset": name, "split": name}
    manifest["recipe"]["judging"] |= {"judge_model": name, "judges": [name]}
    path.write_text(json.dumps(manifest), "utf-8")
    text = written(folder)
    data = ModelCard(text).data.to_dict()
    assert "base_model" not in data
    assert "datasets" not in data
    body = text.split("\n---\n", 1)[1]
    prose = re.sub(r"(?ms)^(`{3,})\w+\n.*?^\1$", "", body)
    shown = re.compile(r"(?m)^!\[(?:[^][\n]|\\\[|\\\])*\]\(curves\.svg\)$")
    assert len(shown.findall(prose)) == 1
    prose = shown.sub("", prose).replace("`--judge-api-base`", "").replace("`api_base`", "")
    assert "<img" not in prose
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)\]\(", prose)
    assert not re.search(r"(?<!\\)`", prose)
    assert not re.search(r"(?<!\\)://", prose)
    assert "www.evil" not in prose
    assert not set(text) & {"\u202e", "\x1b", "\ud800"}
    assert "\n---\n" not in body
    for line in prose.splitlines():
        if line.startswith("| Base model"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


@pytest.mark.parametrize("content", ["```", "a\n````\nb", "~~~", "</details><script>"])
def test_no_content_ends_its_fence(content: str) -> None:
    lines = fenced(content, "yaml").text.splitlines()
    fence = lines[-1]
    assert set(fence) == {"`"}
    assert lines[0] == f"{fence}yaml"
    assert not any(line.startswith(fence) for line in lines[1:-1])


def test_numbers_and_plain_names_stay_readable() -> None:
    assert escaped("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert escaped("0.512 (0.4 to 0.6)") == "0.512 (0.4 to 0.6)"
    assert escaped("-x") == "\\-x"
    assert escaped("a_b|c<d") == "a\\_b\\|c&lt;d"


def test_a_recipe_in_a_card_has_no_place_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-key")
    given = recipe(
        output="/home/alice/out",
        plugins=["/home/alice/p.py"],
        model="/home/alice/models/base",
        judging={"judge_api_base": "http://10.0.0.5/v1", "judges": ["j:file=/home/alice/x.j2"]},
        trl={"run_name": "very-secret-key"},
    )
    text = recipe_text(given)
    for gone in ("alice", "10.0.0.5", "very-secret-key"):
        assert gone not in text
    public = yaml.safe_load(text)
    assert public["model"] == "base"
    assert public["learning_rate"] == 1e-6


def test_a_merged_adapter_is_all_weights_and_the_adapter_beside_it_is_one(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, lora={"r": 8, "alpha": 24})
    merged = written(folder, step=4)
    data = ModelCard(merged).data.to_dict()
    assert (data["library_name"], data["base_model_relation"]) == ("transformers", "finetune")
    assert "| Weights | all weights; a LoRA adapter (r 8, alpha 24) was trained, and is" in merged
    assert "--adapter" not in merged
    assert "kardiabench run --model hf/PATH_OR_NAME_OF_THIS_MODEL" in merged
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", "utf-8")
    path = write_card(folder, adapter, step=4)
    assert path == adapter / "README.md"
    text = path.read_text("utf-8")
    data = ModelCard(text).data.to_dict()
    assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
    assert "| Weights | a LoRA adapter (r 8, alpha 24) of the base model, which it needs |" in text
    assert (
        "hf/Qwen/Qwen3-0.6B --adapter PATH_OR_NAME_OF_THIS_MODEL --model-revision a1b2c3d4" in text
    )
    assert (adapter / "curves.svg").is_file()
    assert (folder / "final" / "README.md").read_text("utf-8") == merged


def test_the_curves_lie_beside_the_card_where_something_was_evaluated(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    text = written(folder)
    (line,) = [one for one in text.splitlines() if one.startswith("![")]
    assert line.startswith("![Rewarded and held-out score\\. rewarded judges: 0.6281 at step 0, ")
    assert line.endswith("](curves.svg)")
    svg = (folder / "final" / "curves.svg").read_text("utf-8")
    assert svg.startswith("<svg ")
    assert SECRET not in svg
    (folder / EVALUATIONS).unlink()
    assert "curves.svg" not in written(folder)
    assert not (folder / "final" / "curves.svg").exists()


def test_the_command_is_one_of_kardiabench() -> None:
    given = recipe(
        judging={"judges": ["format", "rubric", "safety"], "judge_model": "a b"},
        held_out={"judges": ["rubric:as=other"]},
        thinking=False,
        data={"system_prompt": "kardia", "history_content": "response"},
        lora={"r": 4},
    )
    facts = facts_of({"recipe": given, "model": {"revision": "abc"}})
    words = shlex.split(command(given, facts, is_adapter=True))
    assert words[:2] == ["kardiabench", "run"]
    context = run.make_context("run", words[2:], resilient_parsing=True)
    assert context.args == []
    assert [word for word in words if word in ("rubric", "safety", "rubric:as=other", "a b")] == [
        "a b",
        "rubric",
        "safety",
        "rubric:as=other",
    ]
    assert "--no-rubric" in command(recipe(judging={"judges": ["format"]}), facts_of({}))


def parsed(words: list[str]) -> dict[str, Any]:
    """What `kardiabench run` understands: it refuses an option or a value that it doesn't know."""
    assert words[:2] == ["kardiabench", "run"]
    context = run.make_context("run", words[2:])
    assert context.args == []
    return context.params


def test_the_command_has_the_reward_s_weights_the_plugin_and_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(
        judging={"judges": ["question"]},
        plugins=["/home/alice/judge_file.py"],
        data={"dataset": "sample", "system_prompt": "/home/alice/prompt.j2"},
        max_tokens=320,
    )
    rewarded = {"judges": {}, "weights": {"format": 0.1, "emotion": 1.0, "question": 2.0}}
    told = command(given, facts_of({"recipe": given, "scorers": {"rewarded": rewarded}}))
    assert "alice" not in told
    words = shlex.split(told)
    understood = parsed(words)
    assert understood["plugins"] == ("judge_file.py",)
    assert understood["judges"] == ("question",)
    assert understood["weights"] == ("format=0.1", "emotion=1", "question=2")
    assert understood["max_tokens"] == 320
    assert understood["system_prompt"] == "prompt.j2"
    words[words.index("--model") + 1] = "baseline/majority"
    (tmp_path / "judge_file.py").write_bytes(_PLUGIN.read_bytes())
    (tmp_path / "prompt.j2").write_text("You listen.", "utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, [*words[1:], "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    unknown = [word.replace("question=2", "nobody=2") for word in words[1:]]
    assert CliRunner().invoke(cli, [*unknown, "--dry-run"]).exit_code != 0


def test_equal_weights_of_the_harness_s_judges_are_left_to_it() -> None:
    def told(**weights: float) -> str:
        given = recipe()
        return command(given, facts_of({"scorers": {"rewarded": {"weights": weights}}}))

    assert "--weight" not in told(rubric=1 / 3, format=1 / 3, emotion=1 / 3)
    assert told(format=1, rubric=1).endswith("--weight format=1 --weight rubric=1")
    third = "--weight format=0.3333333333333333 --weight emotion=1 --weight rubric=1"
    assert told(format=1 / 3, emotion=1, rubric=1).endswith(third)


def test_the_length_of_the_evaluation_after_training_wins() -> None:
    given = recipe(max_tokens=320, final={"max_tokens": 700})
    assert "--max-tokens 700" in command(given, facts_of({}))
    assert "--max-tokens" not in command({"stage": "sft"}, facts_of({}))


def test_a_card_has_the_name_of_its_training_and_says_which_base(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "warm-grpo", model="/home/alice/sft-one/final")
    change(folder, model={"model": "final", "weights": "abc"})
    text = written(folder)
    assert "# warm-grpo, trained with kardiabench" in text
    assert "| Base model | sft-one/final, weights with the fingerprint abc |" in text
    assert "model: sft-one/final" in text
    assert "alice" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("runs/sft/final", "sft/final"),
        ("runs/sft/final/", "sft/final"),
        ("sft/final", "sft/final"),
        ("C:\\runs\\sft\\final", "sft/final"),
        ("./final", "final"),
        ("../final", "final"),
        ("~/final", "final"),
        ("/final", "final"),
        ("C:\\final", "final"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("/a/b/c", "c"),
    ],
)
def test_a_base_model_that_a_training_saved_is_named_by_its_training(name: str, shown: str) -> None:
    assert public_base(name) == shown
    assert public_recipe({"model": name})["model"] == shown


def test_a_secret_in_a_spec_or_a_recipe_is_left_out() -> None:
    key = "sk-" + "a" * 30
    spec = f"j:api_key=abc,apiKey=x,auth-token=x,mirror={key},{key},max_tokens=3"
    assert public_spec(spec) == "j:max_tokens=3"
    given = {"judging": {"judges": [spec]}, "trl": {"hub_token": "x", "seed": 1, "name": key}}
    assert public_recipe(given) == {"judging": {"judges": ["j:max_tokens=3"]}, "trl": {"seed": 1}}


def test_a_licence_is_only_what_somebody_gave(folder: Path) -> None:
    assert "license" not in ModelCard(write_card(folder).read_text("utf-8")).data.to_dict()
    text = write_card(folder, licence="apache-2.0").read_text("utf-8")
    assert ModelCard(text).data.license == "apache-2.0"
    assert "given under: apache-2.0." in text


def test_an_sft_card_has_no_rewards(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / EVALUATIONS).unlink()
    stage = json.loads((folder / MANIFEST).read_text("utf-8"))["recipe"] | {"stage": "sft"}
    change(folder, recipe=stage, scorers={})
    text = written(folder)
    assert "## Rewards" not in text
    assert "None: this stage rewards nothing." in text
    assert ModelCard(text).data.tags == ["kardiabench", "trl", "sft"]


def test_an_empty_folder_still_gives_a_card_that_says_so(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "| Base model | not known |" in text
    assert "the folder has no training\\.json" in text
    assert ModelCard(text).data.tags == ["kardiabench", "trl"]


def test_a_card_needs_a_model_s_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="give the folder that the trained model is in"):
        write_card(tmp_path)


def test_other_data_are_not_called_kardiabench(tmp_path: Path) -> None:
    text = written(make_folder(tmp_path, data={"dataset": "sample"}))
    assert "CC BY-NC-ND" not in text
    assert "datasets" not in ModelCard(text).data.to_dict()


def test_no_address_and_no_path_is_in_card_or_command_and_no_judge_is_renamed(
    tmp_path: Path,
) -> None:
    server = "http://10.0.0.5:8000/v1"
    judges = [
        f"rubric:api_base={server}",
        f"rubric:as=o,model=hosted_vllm/Qwen/Qwen3-8B,api_base={server}",
        f"panel:models=openai/a@{server}+hosted_vllm/Qwen/Qwen3-4B@{server}",
    ]
    given = recipe(
        judging={
            "judges": judges,
            "judge_model": "hosted_vllm/Qwen/Qwen3-32B",
            "judge_api_base": server,
        },
        held_out={"judges": ["rubric:as=p,model=hf//home/alice/models/judge"]},
        data={"dataset": "/home/alice/rows.jsonl", "system_prompt": "/home/alice/prompt.j2"},
        lora={"target_modules": r".*\.(up|down)_proj"},
        trl={"run_name": f"at {server}", "logging_dir": "/home/alice/logs"},
        vllm={"mode": "server", "server_base_url": server},
    )
    folder = make_folder(tmp_path)
    change(folder, recipe=given)
    text = written(folder)
    for gone in ("10.0.0.5", "http:", "8000", "alice"):
        assert gone not in text
    specs = [
        "rubric",
        "rubric:as=o,model=hosted_vllm/Qwen/Qwen3-8B",
        "panel:models=openai/a+hosted_vllm/Qwen/Qwen3-4B",
        "rubric:as=p,model=hf/judge",
    ]
    told = "--judge-model hosted_vllm/Qwen/Qwen3-32B " + " ".join(f"--judge {s}" for s in specs)
    assert told in text
    (block,) = re.findall(r"(?ms)^```yaml\n(.*?)^```$", text)
    public = yaml.safe_load(block)
    assert public["judging"]["judges"] == specs[:3]
    assert public["judging"]["judge_model"] == "hosted_vllm/Qwen/Qwen3-32B"
    assert public["held_out"]["judges"] == specs[3:]
    assert public["data"]["dataset"] == "rows.jsonl"
    assert public["data"]["system_prompt"] == "prompt.j2"
    assert public["lora"]["target_modules"] == r".*\.(up|down)_proj"
    assert public["trl"] == {"run_name": "at", "logging_dir": "logs"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/name", "owner/name"),
        ("name", "name"),
        ("/a/b/c", "c"),
        ("./c", "c"),
        ("~/models/c", "c"),
        ("a/b/c", "c"),
        ("models/c.gguf", "c.gguf"),
        ("C:\\Users\\alice\\c", "c"),
    ],
)
def test_of_a_local_model_s_path_the_last_part_is_shown(name: str, shown: str) -> None:
    assert public_local(name) == shown
    assert public_model(f"hf/{name}") == f"hf/{shown}"


def test_a_folder_that_looks_like_a_name_of_the_hub_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alice" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_local("alice/model") == "model"
    assert public_local("x" * 5000) == "x" * 5000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("openai/gpt-5-mini", "openai/gpt-5-mini"),
        ("hosted_vllm/Qwen/Qwen3-8B", "hosted_vllm/Qwen/Qwen3-8B"),
        ("openrouter/a/b/c:free", "openrouter/a/b/c:free"),
        ("ollama/qwen2.5:72b", "ollama/qwen2.5:72b"),
        ("hf/Qwen/Qwen3-8B", "hf/Qwen/Qwen3-8B"),
        ("vllm/runs/judge/final", "vllm/final"),
        ("hf/~/judge", "hf/judge"),
        ("openai/a@http://host.example/v1?key=x", "openai/a"),
        ("own//srv/models/judge", "own/judge"),
    ],
)
def test_a_judge_s_model_is_shown_whole_but_for_its_folder(name: str, shown: str) -> None:
    assert public_model(name) == shown


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("rubric", "rubric"),
        ("rubric:api_base=http://h/v1", "rubric"),
        ("j:file=/home/alice/x.j2,samples=3", "j:file=x.j2,samples=3"),
        ("j:server=gpu-7:8000,host=gpu-7", "j"),
        ("j:grader_model=a/b/c,mirror=https://x.example/y", "j:grader_model=a/b/c"),
        ("j:temperature=.5", "j:temperature=.5"),
        ("j:note=see 127.0.0.1:80", "j:note=see"),
        ("j:no option", "j:no option"),
        ("http://h/v1", ""),
    ],
)
def test_a_spec_keeps_all_but_where_servers_and_files_are(spec: str, shown: str) -> None:
    assert public_spec(spec) == shown


def test_only_what_is_an_address_or_a_path_goes() -> None:
    assert public_text("all-linear") == "all-linear"
    assert public_text("a/b/c") == "a/b/c"
    assert public_text("version 1.2.3") == "version 1.2.3"
    assert public_dataset("Jhcircle/KardiaBench") == "Jhcircle/KardiaBench"
    assert public_dataset("data/mine") == "mine"


@pytest.mark.parametrize("name", ["a b", "../x", "a/b/c", "", "a\n", "-\u0661", ".x", None])
def test_only_a_repository_s_name_is_one(name: str | None) -> None:
    assert hub_name(name) is None


def test_a_folder_is_no_base_model_of_the_hub() -> None:
    facts = facts_of({"model": {"model": "base", "weights": "abc"}})
    assert front_matter(facts, None).base_model is None
    assert replace(facts, revision="abc").hub_model == "base"
