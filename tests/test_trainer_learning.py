"""A tiny model learns from the Scorer's numbers, and every number can be made again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import learning
import pytest
import torch
from click.testing import CliRunner

from kardiabench.cli import cli
from kardiabench.spans import SPAN_NAMES
from trainer.ledger import LEDGER, row_line

TAGS = [f"<|{name}_{end}|>" for name in SPAN_NAMES for end in ("begin", "end")]


@pytest.fixture(scope="module", params=[(s, t) for t in (False, True) for s in range(3)], ids=str)
def learned(request, tmp_path_factory):
    seed, special_tags = request.param
    folder = tmp_path_factory.mktemp("learned")
    model = learning.fine_tune(folder, special_tags=special_tags, seed=seed)
    return special_tags, learning.reinforce(folder, model, f"seed={seed}")


def test_grpo_raises_the_format_reward(learned):
    _, training = learned
    first, last = training.mean("reward", slice(0, 10)), training.mean("reward", slice(-10, None))
    assert first < 0.85, "SFT left nothing to learn"
    assert last - first >= 0.15


def test_the_reward_is_the_judges_part_and_nothing_else(learned):
    _, training = learned
    for line in training.log:
        assert line["reward"] == pytest.approx(line["parts/format"], abs=1e-6)
        assert line["masked_share"] == 0.0
    for row in training.rows:
        assert row.reward == row.composite == row.score("format", "format")
        assert row.reply().spans.complete == bool(row.composite) or row.status == "truncated"


def test_tags_are_seen_whether_special_or_not(learned):
    special_tags, training = learned
    good = [row for row in training.rows if row.composite == 1.0]
    assert good
    assert all(tag in row.text for row in good[:50] for tag in TAGS)
    tokenizer = _tokenizer(training.folder / "final")
    ids = tokenizer(good[0].text, add_special_tokens=False).input_ids
    stripped = tokenizer.decode(ids, skip_special_tokens=True)
    assert any(tag in stripped for tag in TAGS) is not special_tags


def test_the_logged_reward_is_the_ledgers_in_float32(learned):
    _, training = learned
    by_step = defaultdict(list)
    for row in training.rows:
        by_step[row.step].append(row.reward)
    assert len(by_step) == len(training.log) == 100
    for line in training.log:
        rewards = torch.tensor(by_step[line["step"] - 1], dtype=torch.float32)
        assert line["reward"] == torch.nanmean(rewards).item()


def test_advantages_are_those_of_the_rewards(learned):
    _, training = learned
    groups = defaultdict(list)
    for row in training.rows:
        groups[row.step, row.group].append(row)
    for group in groups.values():
        assert [row.candidate for row in group] == list(range(8))
        assert len({row.turn_id for row in group}) == 1
        rewards = torch.tensor([row.reward for row in group], dtype=torch.float32)
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        found = torch.tensor([row.advantage for row in group], dtype=torch.float32)
        assert torch.allclose(found, expected, atol=1e-5)


def test_rescore_gives_the_same_bytes(learned, tmp_path):
    _, training = learned
    again = tmp_path / "again.jsonl"
    command = ["rescore", str(training.folder / LEDGER), "--out", str(again)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert again.read_bytes() == (training.folder / LEDGER).read_bytes()


def test_rescore_names_a_row_that_was_changed(learned, tmp_path):
    _, training = learned
    lines = (training.folder / LEDGER).read_bytes().splitlines(keepends=True)
    row = training.rows[0]
    place = lines.index(row_line(row))
    lines[place] = row_line(replace(row, composite=0.5))
    changed = tmp_path / LEDGER
    changed.write_bytes(b"".join(lines))
    result = CliRunner().invoke(cli, ["rescore", str(changed)])
    assert result.exit_code != 0
    assert row.turn_id in result.output


def _tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
