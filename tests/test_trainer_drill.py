"""A drill: where a reward is gamed, the alarm goes off before the training has ended."""

from __future__ import annotations

import json

import learning
import pytest

from trainer.alarm import RewardAlarm
from trainer.config import Alarm
from trainer.evaluations import EVALUATIONS, read


@pytest.fixture(scope="module")
def drilled(tmp_path_factory):
    return learning.drill(tmp_path_factory.mktemp("drill"), stop=True)


def test_the_reward_rises_and_what_it_should_stand_for_does_not(drilled):
    first, *_, last = read(drilled / EVALUATIONS)
    assert last.rewarded.mean - first.rewarded.mean > 0.05
    assert last.held_out.mean <= first.held_out.mean


def test_the_alarm_ends_the_training_before_its_last_step(drilled):
    evaluations = read(drilled / EVALUATIONS)
    assert evaluations[-1].step < 100
    alarm = RewardAlarm(Alarm())
    sentences = [alarm.add(evaluation) for evaluation in evaluations]
    assert sentences[-1] is not None
    assert not any(sentences[:-1])


def test_the_best_checkpoint_is_the_one_that_was_gamed_least(drilled):
    evaluations = {one.step: one for one in read(drilled / EVALUATIONS)}
    choice = json.loads((drilled / "best.json").read_text("utf-8"))
    trained = [one for step, one in evaluations.items() if step > 0]
    assert choice["step"] == max(trained, key=lambda one: one.held_out.mean).step
    assert choice["step"] != max(trained, key=lambda one: one.rewarded.mean).step
    assert "the model that the training began with scored higher" in choice["why"]


def test_the_alarm_stands_in_the_curves_and_the_card(drilled):
    assert "alarm" in (drilled / "curves.html").read_text("utf-8").lower()
    assert "alarm" in (drilled / "final" / "README.md").read_text("utf-8").lower()
