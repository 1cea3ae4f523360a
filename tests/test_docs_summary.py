"""docs/summary.md names every key that a run writes, and no key that no run writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kardiabench.calibration import make_calibration
from kardiabench.cli import cli
from kardiabench.curves import fit_curve
from kardiabench.files import write_json
from kardiabench.manifests import MANIFEST_VERSION, read_manifest
from kardiabench.settings import RunSettings
from kardiabench.summary import SCHEMA_VERSION

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "summary.md").read_text("utf-8")
FILES = ("summary.json", "manifest.json", "replies.jsonl", "verdicts.jsonl")
ROW = re.compile(r"^\| `([^`]+)` \|([^|]*)\| ?(.*) \|$", re.MULTILINE)


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """The meaning of each key of the tables in `text`."""
    return {key: meaning for key, _, meaning in ROW.findall(text)}


def table_after(text: str, words: str) -> dict[str, str]:
    return rows(text.split(words)[1].split("\n\n")[1])


ESTIMATE = table_after(section("summary.json"), "An *estimate* is")
USAGE = table_after(section("summary.json"), "*Usage* is")


def documented(name: str) -> dict[str, str]:
    """The keys of a file with their meanings; keys that point to a shared table are spelt out."""
    found: dict[str, str] = {}
    text = section(name).split("\n\nAn *estimate* is")[0]
    for key, meaning in rows(text).items():
        shared = ESTIMATE if "*estimate*" in meaning else USAGE if "*usage*" in meaning else {}
        if shared:
            found |= {key.replace("…", inner): words for inner, words in shared.items()}
        else:
            found[key] = meaning
    return found


def pattern(key: str) -> re.Pattern[str]:
    """`judges.<judge>.coverage` as a pattern of paths; `…` is anything below."""
    escaped = re.escape(key).replace(re.escape("…"), ".+")
    return re.compile(re.sub(r"<\w+>", r"[^\\x00]+?", escaped))


def paths(value: object, path: str = "") -> Iterator[str]:
    """Every path to a value that is no object or list, and to those that are empty."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from paths(inner, f"{path}[]")
    else:
        yield path


def is_documented(path: str, value_keys: dict[str, str]) -> bool:
    return any(
        pattern(key).fullmatch(path) or key.startswith((f"{path}.", f"{path}["))
        for key in value_keys
    )


def call(*arguments: str) -> None:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0


def calibrate(run: Path, file: Path) -> None:
    """Score a run again with a calibration of its judge `smoke`."""
    smoke = read_manifest(run)["protocol"]["scorer"]["judges"]["smoke"]
    grid = np.linspace(1.0, 5.0, 60)
    curves = {
        d["name"]: fit_curve(grid, grid, None, d["low"], d["high"]) for d in smoke["dimensions"]
    }
    write_json(file, make_calibration("smoke", smoke["fingerprint"], curves, {}, {}))
    call("score", str(run), "--judge", "smoke", "--quiet", "--calibration", str(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict[str, list[object]]:
    """The records of each file of both demo runs, one of them with a calibration."""
    out = tmp_path_factory.mktemp("demo")
    call("demo", "--quiet", "--out", str(out))
    calibrate(out / "majority", tmp_path_factory.mktemp("calibration") / "calibration.json")
    found: dict[str, list[object]] = {name: [] for name in FILES}
    for name in FILES:
        for file in sorted(out.glob(f"*/{name}")):
            text = file.read_text("utf-8")
            whole = [text] if name.endswith(".json") else text.splitlines()
            found[name] += map(json.loads, whole)
    return found


def written(records: list[object]) -> set[str]:
    return {path for record in records for path in paths(record)}


@pytest.mark.parametrize("name", FILES)
def test_every_key_that_a_run_writes_is_documented(run, name):
    keys = documented(name)
    assert run[name]
    missing = sorted(path for path in written(run[name]) if not is_documented(path, keys))
    assert missing == []


@pytest.mark.parametrize("name", FILES)
def test_every_documented_key_is_written_unless_the_page_says_when(run, name):
    found = written(run[name])
    unwritten = [
        key
        for key, meaning in documented(name).items()
        if "only" not in meaning
        and not any(pattern(key).fullmatch(path) for path in found)
        and not any(path.startswith((f"{key}.", f"{key}[")) for path in found)
    ]
    assert unwritten == []


def test_a_calibrated_run_writes_every_documented_key_of_its_means(run):
    found = written(run["summary.json"])
    keys = [key for key in documented("summary.json") if "calibrated" in key]
    assert len(keys) == 8
    assert [key for key in keys if not any(pattern(key).fullmatch(path) for path in found)] == []


def test_an_undocumented_key_would_be_found():
    keys = documented("summary.json")
    assert is_documented("judges.rubric.dimensions.empathy.pooled", keys)
    assert is_documented("format.problems.missing:response", keys)
    for path in ("new", "turns.new", "judges.rubric.new", "composite.new", "timing.p50"):
        assert not is_documented(path, keys)


def test_the_versions_are_those_of_the_code():
    assert f"`summary.json` has `schema_version` {SCHEMA_VERSION}" in PAGE
    assert f"`manifest.json` has `manifest_version` {MANIFEST_VERSION}" in PAGE


def test_config_holds_every_option_of_a_run(run):
    for manifest in run["manifest.json"]:
        assert set(manifest["config"]) == {field.name for field in fields(RunSettings)}


def test_no_file_of_a_run_holds_a_nan(run):
    for records in run.values():
        json.dumps(records, allow_nan=False)
