"""ARM under constraints, on scripted sequences of clean accuracy and S_c, and on a training that answers to it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from cmai_core.defenses.constraint import Constraint, ConstraintSettings
from cmai_core.defenses.controller import Range
from cmai_core.errors import OptionError

SETTINGS = ConstraintSettings(tau=0.7)
START = 0.8


def run(measured, settings=SETTINGS):
    """Measure the starting model, then (mean S_c, clean accuracy) one after another."""
    out = [Constraint.begin(settings).updated(0.0, START)]
    for mean, clean in measured:
        out.append(out[-1].updated(mean, clean))
    return out


def bounds(level, settings=SETTINGS):
    return [
        (getattr(settings, n).low, getattr(level, n), getattr(settings, n).high) for n in ("beta", "epsilon", "share")
    ]


def test_the_starting_model_is_what_accuracy_is_held_against_and_moves_nothing():
    begun = Constraint.begin(SETTINGS)
    first = begun.updated(-1.0, START)
    assert first.start == first.clean == START and first.level == begun.level and first.mean is None
    assert begun.level.epsilon == pytest.approx(3 / 255)


def test_the_defence_rises_to_its_bounds_while_accuracy_holds_and_consistency_is_wanted():
    steps = run([(0.5, START)] * 100)
    assert all(a.level.epsilon <= b.level.epsilon for a, b in itertools.pairwise(steps))
    assert [round(high - value, 9) for _, value, high in bounds(steps[-1].level)] == [0, 0, 0]


def test_it_falls_to_its_lower_bounds_when_accuracy_does_not_come_back():
    steps = run([(0.5, START)] * 50 + [(0.5, START - 0.1)] * 100)
    assert [round(value - low, 9) for low, value, _ in bounds(steps[-1].level)] == [0, 0, 0]
    every = itertools.chain.from_iterable(bounds(step.level) for step in steps)
    assert all(low - 1e-12 <= value <= high + 1e-12 for low, value, high in every)


def test_consistency_that_is_high_enough_lets_beta_down_and_nothing_else():
    last = run([(0.95, START)] * 100)[-1].level
    assert last.beta == SETTINGS.beta.low
    assert last.epsilon == pytest.approx(SETTINGS.epsilon.high) and last.share == pytest.approx(SETTINGS.share.high)


def test_beta_is_no_higher_than_accuracy_allows():
    last = run([(0.0, START - 0.1)] * 100)[-1]
    assert last.need == 1 and last.level.beta == SETTINGS.beta.low


def test_one_bad_measurement_moves_a_price_by_a_bounded_part():
    steady = run([(0.7, START - SETTINGS.drop)] * 50)[-1]
    after = steady.updated(-1.0, 0.0)
    assert abs(after.price - steady.price) <= SETTINGS.rate + 1e-12
    assert abs(after.need - steady.need) <= SETTINGS.rate + 1e-12
    # And it is the average that counts.
    assert after.clean == pytest.approx(SETTINGS.momentum * steady.clean)


def test_a_training_that_answers_to_it_settles_where_the_constraint_binds():
    """Clean accuracy follows ε with a lag and noise: it loses 5 points at 6/255, and at 3.5/255 the 2.5 allowed."""
    rng = np.random.default_rng(0)
    controller, clean, seen, drops = Constraint.begin(SETTINGS).updated(0.0, START), START, [], []
    for _ in range(400):
        clean += 0.3 * (START - 0.01 * (255 * controller.level.epsilon - 1) - clean)
        controller = controller.updated(0.7, clean + rng.normal(0, 0.004))
        seen.append(255 * controller.level.epsilon)
        drops.append(START - clean)
    assert np.mean(drops[-200:]) == pytest.approx(SETTINGS.drop, abs=0.003)
    assert np.mean(seen[-200:]) == pytest.approx(3.5, abs=0.3)
    assert max(drops) < 1.6 * SETTINGS.drop and np.std(seen[-200:]) < 0.7


def test_it_goes_on_from_its_state_as_if_never_stopped():
    rng = np.random.default_rng(1)
    measured = [(float(m), float(c)) for m, c in zip(rng.uniform(0.5, 0.9, 40), rng.uniform(0.7, 0.8, 40), strict=True)]
    whole = run(measured)
    half = Constraint.begin(SETTINGS).restored(json.loads(json.dumps(whole[20].state())))
    for mean, clean in measured[20:]:
        half = half.updated(mean, clean)
    assert half == whole[-1]


def test_measurements_are_due_at_the_start_and_then_after_the_heads_have_learned():
    settings = replace(SETTINGS, every=25, after=100)
    assert [step for step in range(160) if settings.due(step)] == [0, 100, 125, 150]


def test_levels_are_whole_steps_within_their_range():
    grid = Range(0.25, 0.75, 0.0625)
    assert [grid.at(x) for x in (0.0, 0.4, 1.0)] == [0.25, 0.4375, 0.75]
    assert Range(1.0, 1.0, 0.0).at(0.5) == 1.0


@pytest.mark.parametrize("wrong", [{"tau": 2.0}, {"drop": 0.0}, {"price": 1.5}, {"rate": -0.1}, {"clean_pairs": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(OptionError):
        replace(SETTINGS, **wrong)
