"""The safeguard of single-step training sees a model that ten steps can fool and one cannot, and stays calm else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from cmai_core.training import one_step
from cmai_core.training.batches import draw
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import Training

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 1, "ema": 0.0, "nlvr_share": 0.0}
ONE_STEP = {"inner.steps": 1, "inner.start": "noise", "inner.step_size": 2 / 255}


def training_of(name: str = "tecoa", **changes) -> Training:
    recipe = get_recipe(name, **{**SMALL, **changes})
    training = Training(helpers.model(), recipe, 0, helpers.arrays(seed=5))
    training.total_steps = 100
    return training


class Measured:
    """What the two attacks leave, told beforehand: one step, several."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, parts, heads, batch, inner):
        return self.answers.pop(0)


def test_only_single_step_trainings_are_watched():
    assert training_of().steering.guard is None
    assert training_of(**ONE_STEP).steering.guard is not None


def test_a_real_measurement_leaves_several_steps_no_better_than_one():
    training = training_of(**ONE_STEP)
    training.steering.measure(one_step.EVERY)
    (found,) = training.steering.guard.history
    assert 0 <= found["several_steps"] <= found["one_step"] + 1 / 8 <= 1 + 1 / 8
    assert training.steering.shown()["one_step"] == round(found["one_step"], 5)


def test_overfitting_turns_to_two_steps_for_good_and_survives_a_checkpoint(monkeypatch):
    monkeypatch.setattr(one_step, "_right", Measured(0.8, 0.7, 0.9, 0.3))
    training = training_of(**ONE_STEP)
    steering = training.steering
    steering.measure(one_step.EVERY)
    assert steering.inner.steps == 1 and steering.inner.start == "noise"
    steering.measure(one_step.EVERY + 1)  # not due
    steering.measure(2 * one_step.EVERY)
    assert steering.inner.steps == 2 and steering.inner.start == "uniform"
    assert steering.inner.step_size == pytest.approx(1.5 / 255)
    steering.measure(3 * one_step.EVERY)  # looks no more
    assert [entry["fallen"] for entry in steering.guard.history] == [False, True]
    again = training_of(**ONE_STEP).steering
    again.restore(steering.state())
    assert again.inner == steering.inner
    training.advance(draw(helpers.arrays(), training.recipe, 0, 0, training.edits))  # and it trains on
    assert all(bool(torch.isfinite(p).all()) for p in training.module.parameters())
