"""ARM's controller on scripted sequences of S_c."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from cmai_core.defenses.controller import Controller, ControllerSettings, Range
from cmai_core.errors import OptionError

SETTINGS = ControllerSettings(tau=0.7, momentum=0.5, patience=2)


def levels(means, settings=SETTINGS, variance=0.0):
    controller = Controller.start(settings)
    out = [controller]
    for mean in means:
        out.append(out[-1].updated(mean, variance))
    return out


def test_it_begins_at_the_low_end_and_waits_before_it_moves():
    run = levels([0.5, 0.5, 0.5])
    assert run[0].level.beta == SETTINGS.beta.low and run[0].level.share == SETTINGS.share.low
    assert run[1].level == run[0].level
    assert run[2].level.beta == SETTINGS.beta.low + SETTINGS.beta.step
    assert run[2].level.epsilon > run[0].level.epsilon and run[2].level.share > run[0].level.share


def test_a_score_that_never_recovers_drives_it_to_the_upper_bounds_and_no_further():
    last = levels([-1.0] * 500)[-1].level
    assert (last.beta, last.epsilon, last.share) == (SETTINGS.beta.high, SETTINGS.epsilon.high, SETTINGS.share.high)


def test_it_lets_go_down_to_the_lower_bounds_when_the_score_is_high():
    last = levels([-1.0] * 500 + [0.95] * 500)[-1].level
    assert (last.beta, last.epsilon, last.share) == (SETTINGS.beta.low, SETTINGS.epsilon.low, SETTINGS.share.low)


def test_within_the_hysteresis_nothing_moves():
    driven = levels([0.5] * 4)[-1]
    quiet = driven
    for _ in range(200):
        quiet = quiet.updated(SETTINGS.tau + SETTINGS.hysteresis / 2, 0.0)
    # The average has to come up first; from then on the level stays.
    settled = quiet.updated(SETTINGS.tau + SETTINGS.hysteresis / 2, 0.0)
    assert settled.level == quiet.level and settled.asked == 0


def test_noise_around_the_threshold_does_not_make_it_run_away():
    rng = np.random.default_rng(0)
    run = levels(SETTINGS.tau + SETTINGS.hysteresis / 2 + rng.normal(0, 0.02, 1000))
    changes = sum(a.level != b.level for a, b in itertools.pairwise(run))
    assert changes < 100
    assert all(SETTINGS.beta.low <= c.level.beta <= SETTINGS.beta.high for c in run)


def test_a_loop_through_a_model_that_answers_to_it_settles():
    """A training whose S_c rises with β and falls back slowly: neither bound is where it ends."""
    controller, score = Controller.start(SETTINGS), 0.5
    seen = []
    for _ in range(600):
        controller = controller.updated(score, 0.0)
        score += 0.1 * (0.55 + 0.15 * controller.level.beta - score)
        seen.append(controller.level.beta)
    assert SETTINGS.beta.low < np.mean(seen[-200:]) < SETTINGS.beta.high
    assert abs(np.mean(seen[-100:]) - np.mean(seen[-200:-100])) <= SETTINGS.beta.step


def test_a_high_variance_alone_raises_the_defence():
    assert levels([0.95] * 3, variance=2 * SETTINGS.variance)[-1].level.beta > SETTINGS.beta.low
    assert levels([0.95] * 3, variance=0.0)[-1].level.beta == SETTINGS.beta.low


def test_it_goes_on_from_its_state_as_if_never_stopped():
    rng = np.random.default_rng(1)
    means = rng.uniform(0.4, 1.0, 40)
    whole = levels(means)
    half = Controller.start(SETTINGS).restored(json.loads(json.dumps(whole[20].state())))
    for mean in means[20:]:
        half = half.updated(mean, 0.0)
    assert half == whole[-1]


@pytest.mark.parametrize(
    "wrong", [{"tau": 2.0}, {"tau": 0.5, "variance": 0.0}, {"tau": 0.5, "every": 0}, {"tau": 0.5, "patience": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(OptionError):
        ControllerSettings(**wrong)
    with pytest.raises(OptionError):
        Range(1.0, 0.5, 0.1)
