"""The sample site with a real language model in it (Gemma 3 270M): what `make site-real` does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.real_model, pytest.mark.timeout(1200)]


def run(*command: object) -> str:
    ran = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_the_sample_site_shows_four_models_a_real_one_among_them(tmp_path: Path) -> None:
    run("examples/sample-site/make_runs.py", tmp_path / "runs", "--real-model", "--limit", 2)
    site = tmp_path / "site"
    told = run("-m", "leaderboard", "build", tmp_path / "runs", "-o", site, "--strict")
    assert "4 runs (4 ranked) of 1 protocol" in told
    content = json.loads((site / "leaderboard.json").read_text("utf-8"))
    runs = {one["model"]: one for one in content["protocols"][0]["runs"]}
    assert set(runs) == {
        "baseline/majority", "baseline/tfidf", "replay/most-alike.jsonl", "openai/gemma-3-270m",
    }  # fmt: skip
    gemma = runs["openai/gemma-3-270m"]
    assert gemma["turns_answered"] == gemma["turns_planned"] > 4
    assert gemma["figures"]["format.format"]["mean"] < 1  # a base model knows no spans
    assert gemma["latency_p50"] > 0
    assert gemma["tokens_out_per_turn"] > 1
    page = (site / gemma["page"]).read_text("utf-8")
    assert "missing:response" in page
