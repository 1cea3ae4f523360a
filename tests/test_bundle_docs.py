"""The page on bundles and the example repository say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from bundle_run import a_bundle, members

from kardiabench import bundle_archive, bundle_cards, bundle_schema
from kardiabench.bundle_archive import BUNDLE_VERSION, INDEX, MOST_BYTES, TEXTS, TURNS
from kardiabench.cli import cli
from kardiabench.cli.submitting import _MOST

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "submit.md").read_text("utf-8")
SITE = ROOT / "examples" / "leaderboard-site"
WORKFLOW: Any = yaml.safe_load((SITE / ".github/workflows/leaderboard.yml").read_text("utf-8"))
#: YAML reads the key `on` as true.
TRIGGERS, JOBS = WORKFLOW[True], WORKFLOW["jobs"]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return members(a_bundle(tmp_path_factory.mktemp("docs"), include_replies=True))


def test_the_page_lists_every_member_and_every_key(content: dict[str, bytes]):
    for name in content:
        shown = re.sub(r"cards/.*\.json", "cards/<judge>.json", name)
        assert f"| `{shown}` |" in PAGE
    for name in json.loads(content[INDEX]):
        assert f"`{name}`" in PAGE
    for member in (TURNS, TEXTS):
        keys = {key for line in content[member].splitlines() for key in json.loads(line)}
        for key in keys:
            assert re.search(rf"\| `{key}[`.]", PAGE), key
    row = json.loads(content[TURNS].splitlines()[0])
    for key in row["verdicts"]["rubric"]:
        assert f"| `verdicts.<judge>.{key}` |" in PAGE


def test_the_page_names_every_field_that_a_manifest_must_have():
    schema = bundle_schema._adapters()[1].json_schema()
    parts = [schema, *schema["$defs"].values()]
    required = {field for part in parts for field in part.get("required", ())}
    assert {"created", "system_prompt_hash", "dimensions", "skipped"} <= required
    for field in required | {"manifest_version"}:
        assert re.search(rf"`([a-z_]+\.)*{field}[`.]", PAGE), field


def test_the_page_names_what_of_a_card_is_published():
    for section, parts in bundle_cards._PARTS.items():
        (row,) = re.findall(rf"^\| `{section}` \| (.*) \|$", PAGE, re.MULTILINE)
        assert set(re.findall("`(.*?)`", row)) == parts
    sentence, mark = bundle_cards._SENTENCE, bundle_cards._MARK
    (line,) = re.findall(
        rf"^.* up to {sentence} characters, under .* up to {mark} .*$", PAGE, re.MULTILINE
    )
    listed = {*bundle_cards._SENTENCES, *bundle_cards._MARKS, *bundle_cards._PRIVATE}
    assert set(re.findall("`(.*?)`", line)) == listed


def test_the_page_has_the_limits_and_the_version():
    assert f"{MOST_BYTES >> 20} MiB" in PAGE
    assert f"`bundle_version` {BUNDLE_VERSION}" in PAGE
    assert f"at most {_MOST} a bundle" in PAGE
    assert f"`{bundle_archive.SUFFIX}`" in PAGE


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_the_workflow_checks_builds_and_publishes_in_this_order():
    assert commands("verify")[-1] == "kardiabench submit verify bundles/*.zip"
    assert commands("build")[-1] == "kardiabench leaderboard build bundles/ -o site/ --strict"
    assert (JOBS["build"]["needs"], JOBS["deploy"]["needs"]) == ("verify", "build")
    assert TRIGGERS["push"]["branches"] == ["main"]


def test_pull_requests_are_verified_only_and_nobody_has_more_rights_than_needed():
    assert TRIGGERS.keys() == {"pull_request", "push", "workflow_dispatch"}
    assert "github.event_name != 'pull_request'" in JOBS["build"]["if"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name for name, job in JOBS.items() if "permissions" in job} == {"deploy"}
    assert JOBS["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert "secrets." not in json.dumps(WORKFLOW, default=str)


def test_actions_are_pinned_to_a_major_version():
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v[0-9]+", action) for action in used)


@pytest.mark.parametrize("job", ["verify", "build"])
def test_its_commands_are_commands(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(SITE)
    _, *arguments = commands(job)[-1].split()
    command: Any = cli
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


def test_it_installs_what_the_readme_says():
    (line,) = [
        line
        for line in (SITE / "requirements.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert line.startswith("kardiabench @ git+https://")
    assert "requirements.txt" in (SITE / "README.md").read_text("utf-8")
    assert commands("verify")[0] == commands("build")[0] == "pip install -r requirements.txt"
