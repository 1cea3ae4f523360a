"""Two processes train together: their groups, ledgers, rewards and evaluations are one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import tiny_policy
import torch
from click.testing import CliRunner

from kardiabench.cli import cli
from trainer.evaluations import EVALUATIONS, read
from trainer.ledger import in_order, iterate_rows, ledgers_of
from trainer.log import LOG, read_log

ROOT = Path(__file__).resolve().parent.parent


def launch(folder, *given):
    """Two processes on the processor, as `accelerate launch` starts them on GPUs."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "trainer", "grpo", "--config", "grpo-tiny"),
        *(f"model={folder / 'model'}", f"data.dataset={folder / 'rows'}"),
        *(f"output={folder / 'out'}", "plugins=[" + str(ROOT / "tests/reward_plugin.py") + "]"),
        *("judging.judges=[letters]", "judging.weights={letters: 1}", "max_steps=4"),
        *("eval_every=2", "per_device_batch_size=4", "batch_size=8", *given),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    tiny_policy.build_policy(folder / "model", special_tags=True, seed=0)
    tiny_policy.write_rows(folder / "rows", dialogues=32)
    ended = launch(folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


def rows_of(trained, phase):
    ledgers = ledgers_of(trained / "out")
    assert [path.name for path in ledgers] == ["ledger.jsonl", "ledger.rank1.jsonl"]
    rows = in_order(row for path in ledgers for row in iterate_rows(path))
    return [row for row in rows if row.phase == phase]


def test_a_group_that_is_spread_over_processes_is_one(trained):
    groups = defaultdict(list)
    for row in rows_of(trained, "train"):
        groups[row.step, row.call, row.group].append(row)
    assert len(groups) == 4
    for group in groups.values():
        assert sorted(row.candidate for row in group) == list(range(8))
        assert {row.rank for row in group} == {0, 1}
        assert len({row.turn_id for row in group}) == 1
        group.sort(key=lambda row: row.candidate)
        rewards = torch.tensor([row.reward for row in group], dtype=torch.float32)
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        found = torch.tensor([row.advantage for row in group], dtype=torch.float32)
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_logged_reward_is_that_of_all_processes(trained):
    by_step = defaultdict(list)
    for row in rows_of(trained, "train"):
        by_step[row.step].append(row)
    lines = [line for line in read_log(trained / "out" / LOG) if "reward" in line]
    assert len(lines) == 4
    for line in lines:
        rows = sorted(by_step[line["step"] - 1], key=lambda row: row.candidate)
        rewards = torch.tensor([row.reward for row in rows], dtype=torch.float32)
        assert line["reward"] == torch.nanmean(rewards).item()
        assert line["parts/letters"] == pytest.approx(line["reward"], abs=1e-6)


def test_every_held_out_turn_is_evaluated_once(trained):
    turns = defaultdict(list)
    for row in rows_of(trained, "eval"):
        turns[row.step].append(row.turn_id)
        assert row.advantage is None
    evaluations = read(trained / "out" / EVALUATIONS)
    assert [one.step for one in evaluations] == [0, 2, 4]
    for one in evaluations:
        assert one.turns == len(set(turns[one.step])) == 8


def test_rescore_takes_the_ledgers_of_all_processes(trained):
    result = CliRunner().invoke(cli, ["rescore", str(trained / "out")])
    assert result.exit_code == 0, result.output


def test_another_number_of_processes_is_refused(trained):
    command = [
        *(sys.executable, "-m", "trainer", "grpo", "--config", "grpo-tiny"),
        *(f"model={trained / 'model'}", f"data.dataset={trained / 'rows'}"),
        *(f"output={trained / 'out'}", f"plugins=[{ROOT / 'tests/reward_plugin.py'}]"),
        *("judging.judges=[letters]", "judging.weights={letters: 1}", "max_steps=4"),
        *("eval_every=2", "per_device_batch_size=4", "batch_size=8"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "processes: 2 -> 1" in ended.stderr
