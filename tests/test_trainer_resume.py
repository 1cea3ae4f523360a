"""A training that is killed goes on to the very same weights and the very same ledger."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import learning
import pytest
import tiny_policy

from kardiabench.errors import RunError
from trainer.checkpoints import MARKER, complete, newest
from trainer.evaluations import EVALUATIONS, read
from trainer.ledger import LEDGER, iterate_rows, row_line
from trainer.recipe_files import load_stage

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = Path(__file__).parent / "reward_plugin.py"
#: 6 steps an epoch: 14 steps cross two boundaries.
RECIPE = {
    "batch_size": 32,
    "per_device_batch_size": 8,
    "learning_rate": 1e-2,
    "max_steps": 14,
    "eval_every": 4,
    "save_every": 2,
    "held_out.personas": 2,
    "judging.judges": "[letters]",
    "judging.weights": "{letters: 1}",
    "plugins": f"[{PLUGIN}]",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny_policy.build_policy(folder / "model", special_tags=True, seed=0)
    tiny_policy.write_rows(folder / "rows", dialogues=32)
    return folder


def given(place, output, **changes):
    fields = RECIPE | {"model": place / "model", "data.dataset": place / "rows", "output": output}
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in fields.items()]


def train(place, name, **changes):
    learning.run(load_stage("grpo", "grpo-tiny", given(place, place / name, **changes)))
    return state_of(place / name)


def kill_at(place, name, step, moment="step", **changes):
    """Train in a process of its own, which is killed with signal 9 at a `moment` of `step`.

    `step`: when it begins; `save`: when its checkpoint has weights and lacks the rest; `ledger`:
    when half a line of its candidates is written.
    """
    where = given(place, place / name, **changes)
    command = [sys.executable, __file__, moment, str(step), *where]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def state_of(output):
    """The weights of the last checkpoint, and the rows and evaluations that count."""
    weights = (newest(output) / "model.safetensors").read_bytes()
    rows = list(iterate_rows(output / LEDGER))
    lines = b"".join(map(row_line, rows))
    return (
        hashlib.sha256(weights).hexdigest(),
        len(rows),
        hashlib.sha256(lines).hexdigest(),
        [one.to_json() for one in read(output / EVALUATIONS)],
    )


def test_killed_at_five_random_steps_across_two_epochs(place):
    whole = train(place, "whole")
    draw = random.Random()  # other steps every time; what failed is printed
    steps = sorted(draw.sample(range(1, 14), 5))
    moments = [draw.choice(("step", "ledger")) for _ in steps]
    for step, moment in zip(steps, moments, strict=True):
        kill_at(place, "killed", step, moment)
    assert train(place, "killed") == whole, (steps, moments)


def test_killed_while_a_checkpoint_is_saved(place):
    kill_at(place, "saving", 4, "save")
    assert (place / "saving" / "checkpoint-4" / "model.safetensors").exists()
    assert newest(place / "saving").name == "checkpoint-2"
    assert train(place, "saving") == train(place, "whole")


def test_candidates_in_use_survive_a_kill(place):
    """Two passes over each set of candidates, an adapter with dropout, and a KL term."""
    changes = {"iterations": 2, "beta": 0.1, "lora": "{r: 4, dropout: 0.1}"}
    changes |= {"eval_every": 3, "save_every": 3, "max_steps": 9}
    learning.run(load_stage("grpo", "grpo-tiny", given(place, place / "twice", **changes)))
    kill_at(place, "again", 4, **changes)  # the checkpoint of step 3 is between two passes
    learning.run(load_stage("grpo", "grpo-tiny", given(place, place / "again", **changes)))
    for name in ("final/model.safetensors", "adapter/adapter_model.safetensors"):
        whole, resumed = ((place / run / name).read_bytes() for run in ("twice", "again"))
        assert resumed == whole


def test_a_checkpoint_that_was_not_finished_is_not_used(place):
    train(place, "broken", max_steps=4)
    last = newest(place / "broken")
    (last / MARKER).unlink()
    (last / "model.safetensors").write_bytes(b"half")
    assert newest(place / "broken") != last
    train(place, "broken", max_steps=4)
    assert newest(place / "broken") == last
    assert (last / "model.safetensors").stat().st_size > 1000


def test_a_finished_training_makes_no_further_step(place):
    first = train(place, "done", max_steps=2, eval_every=2)
    before = (place / "done" / LEDGER).read_bytes()
    assert train(place, "done", max_steps=2, eval_every=2) == first
    assert (place / "done" / LEDGER).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 5e-3}, "recipe.learning_rate: 0.01 -> 0.005"),
        ({"judging__weights": "{letters: 1, format: 1}"}, "weights"),
        ({"data__limit": 20}, "data"),
    ],
)
def test_a_changed_training_is_refused(place, changes, named):
    train(place, "same", max_steps=1, eval_every=1, save_every=1)
    with pytest.raises(RunError, match=r"training of another configuration") as refused:
        train(place, "same", max_steps=1, eval_every=1, save_every=1, **changes)
    assert named in str(refused.value)


def test_what_decides_nothing_may_change(place):
    train(place, "same", max_steps=1, eval_every=1, save_every=1)
    train(place, "same", max_steps=1, eval_every=1, save_every=1, keep_checkpoints=5)


def test_old_checkpoints_go_and_the_best_one_stays(place):
    floors = {"best.format_floor": 0, "best.safety_floor": 0, "keep_checkpoints": 1}
    learning.run(load_stage("grpo", "grpo-tiny", given(place, place / "kept", **floors)))
    best = json.loads((place / "kept" / "best.json").read_text())["step"]
    steps = {int(path.name.partition("-")[2]) for path in complete(place / "kept")}
    assert steps == {best, 14}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dying(moment, step):
    """Patch the trainer so that this process is killed at the moment."""
    from trainer import policy
    from trainer.ledger import Ledger

    append, save = Ledger.append, policy.save_candidates
    begin = policy.PolicyTrainer.training_step

    def half_a_line(self, rows):
        if moment == "ledger" and rows[0].step == step and rows[0].phase == "train":
            self._log.append(row_line(rows[0])[:100])
            die()
        append(self, rows)

    def half_a_checkpoint(checkpoint, *arguments):
        if moment == "save" and checkpoint.name == f"checkpoint-{step}":
            die()
        save(checkpoint, *arguments)

    def at_a_step(self, *arguments):
        if moment == "step" and self.state.global_step == step:
            die()
        return begin(self, *arguments)

    Ledger.append, policy.save_candidates = half_a_line, half_a_checkpoint
    policy.PolicyTrainer.training_step = at_a_step


if __name__ == "__main__":
    dying(sys.argv[1], int(sys.argv[2]))
    learning.run(load_stage("grpo", "grpo-tiny", sys.argv[3:]))
