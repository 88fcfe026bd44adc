"""One attack as the lab runs it: progress that only grows, a picture that stays, an early end wherever it is asked."""

from __future__ import annotations

import dataclasses

import pytest

from cmai_core.defenses.detector import clean_scores
from cmai_core.errors import Cancelled, OptionError
from cmai_core.lab.calibration import calibrated_threshold
from cmai_core.lab.experiment import TASKS, Experiment
from cmai_core.lab.run import CANCELLED, READING_STEPS, run_attack
from cmai_core.progress import CancelToken


@pytest.fixture(scope="module")
def setting(tiny_models):
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model

    items = load_dataset("tabletop", split="test", limit=12)
    models = {
        role: load_model(f"local-dir:{tiny_models / name}")
        for role, name in (("undefended", "tabletop"), ("defended", "tabletop-cmai"))
    }
    return items, models


def run(setting, *, tell=None, cancel=None, **options):
    items, models = setting
    experiment = Experiment(pair=items[0].id, caption=items[0].captions[0], **{"steps": 4, **options})
    models = {role: model for role, model in models.items() if getattr(experiment, role)}
    return run_attack(experiment, items[0], models, dataset=items, progress=tell, cancel=cancel)


def test_progress_only_grows_and_the_picture_stays(setting):
    seen = []
    run(setting, tell=seen.append, restarts=2, defended="")  # one model: captions take time
    shares = [progress.fraction for progress in seen]
    assert shares == sorted(shares) and shares[0] < 0.2
    last = seen[-1]  # the last task has begun: S_c and every other task are behind it
    assert last.done == last.total - READING_STEPS + round(READING_STEPS * len(TASKS) / (len(TASKS) + 1))
    asking = [p for p in seen if p.stage.startswith("Asking")]
    assert [p.stage for p in asking] == [f"Asking the undefended model: {task}" for task in TASKS]
    assert all(p.data["image"].shape == (128, 128, 3) and p.data["score"] for p in asking)
    attacking = [p for p in seen if p.stage.startswith("Attacking the undefended model")]
    assert attacking and attacking[-1].data["count"] == "8 of 8"


def test_cancelled_while_answers_are_read_it_asks_nothing_more(setting):
    token = CancelToken()

    def tell(progress):
        if progress.stage == "Asking the undefended model: retrieval":
            token.cancel()

    result = run(setting, tell=tell, cancel=token)
    undefended, defended = result.readings["undefended"], result.readings["defended"]
    assert set(undefended.answers) == {"zero-shot", "retrieval"} and not defended.answers
    assert defended.skipped == dict.fromkeys(TASKS, CANCELLED)
    assert all(-1 <= reading.adversarial <= 1 for reading in result.readings.values())
    assert not result.first_craft.cancelled


def test_cancelled_while_attacking_it_keeps_the_picture_and_s_c(setting):
    token = CancelToken()

    def tell(progress):
        if progress.data.get("score"):
            token.cancel()

    result = run(setting, tell=tell, cancel=token, steps=200, objective="consistency")
    assert result.first_craft.cancelled and result.first_craft.steps_done <= 2
    assert not result.readings["undefended"].answers and result.readings["undefended"].adversarial < 1


def test_a_detector_needs_a_threshold_for_every_model(setting):
    with pytest.raises(OptionError, match="no threshold for every model"):
        run(setting, objective="reject")


def test_a_pair_is_rejected_by_the_threshold_of_its_model(setting):
    """The threshold is that of the clean pairs, and success on the crafted model is what its detector decides."""
    items, models = setting
    told = []
    model = models["undefended"]
    clean = clean_scores(model, items)
    threshold = calibrated_threshold(model, items, name="tabletop", progress=told.append)
    assert threshold.count == 12 and threshold.tau <= min(clean) and threshold.stated_fpr == 0.05
    assert [p.done for p in told] == list(range(12)) and "tabletop" in told[0].stage
    tight = dataclasses.replace(threshold, tau=float(clean[0]) - 0.01)  # just below the pair's own score
    experiment = Experiment(
        pair=items[0].id, caption=items[0].captions[0], objective="reject", steps=5, epsilon=16.0, defended=""
    )
    made = run_attack(experiment, items[0], {"undefended": model}, dataset=items, thresholds={"undefended": tight})
    reading = made.readings["undefended"]
    assert (reading.tau, reading.calibration_pairs) == (tight.tau, 12) and reading.accepted == (True, False)
    assert made.evaded("undefended") and made.first_craft.success


def test_calibrating_can_be_cancelled(setting):
    items, models = setting
    token = CancelToken()

    def tell(progress):
        if progress.done == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        calibrated_threshold(models["undefended"], items, progress=tell, cancel=token)
