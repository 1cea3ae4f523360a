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
from huggingface_hub import ModelCard
from training_folder import SECRET, make_folder, recipe, row

from kardiabench.errors import RunError
from kardiabench.records import clean_text
from trainer.card import command, escaped, fenced, front_matter, recipe_text, write_card
from trainer.curve_data import read_folder
from trainer.evaluations import EVALUATIONS
from trainer.facts import facts_of, hub_name, last_part
from trainer.ledger import LEDGER, Ledger, read_header
from trainer.log import LOG
from trainer.manifest import MANIFEST

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


def test_an_adapter_is_told_as_one(tmp_path: Path) -> None:
    text = written(make_folder(tmp_path, lora={"r": 8}))
    data = ModelCard(text).data.to_dict()
    assert data["library_name"] == "peft"
    assert data["base_model_relation"] == "adapter"
    assert (
        "hf/Qwen/Qwen3-0.6B --adapter PATH_OR_NAME_OF_THIS_MODEL --model-revision a1b2c3d4" in text
    )


def test_the_command_is_one_of_kardiabench(tmp_path: Path) -> None:
    from kardiabench.cli.running import run

    given = recipe(
        judging={"judges": ["format", "rubric", "safety"], "judge_model": "a b"},
        held_out={"judges": ["rubric:as=other"]},
        thinking=False,
        data={"system_prompt": "kardia", "history_content": "response"},
        lora={"r": 4},
    )
    words = shlex.split(command(given, facts_of({"recipe": given, "model": {"revision": "abc"}})))
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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/name", "owner/name"),
        ("name", "name"),
        ("/a/b/c", "c"),
        ("./c", "c"),
        ("~/models/c", "c"),
        ("a/b/c.jsonl", "c.jsonl"),
        ("C:\\Users\\alice\\c", "c"),
    ],
)
def test_of_a_path_the_last_part_is_shown(name: str, shown: str) -> None:
    assert last_part(name) == shown


@pytest.mark.parametrize("name", ["a b", "../x", "a/b/c", "", "a\n", "-\u0661", ".x", None])
def test_only_a_repository_s_name_is_one(name: str | None) -> None:
    assert hub_name(name) is None


def test_a_folder_is_no_base_model_of_the_hub() -> None:
    facts = facts_of({"model": {"model": "base", "weights": "abc"}})
    assert front_matter(facts, None).base_model is None
    assert replace(facts, revision="abc").hub_model == "base"
