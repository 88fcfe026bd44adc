"""One attack as the lab runs it: progress that only grows, a picture that stays, an early end wherever it is asked."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from lab_runs import run, setting_of

from app.components.attack_lab.score_card import treatment, unread, verdict
from cmai_core.defenses.detector import clean_scores
from cmai_core.errors import Cancelled, OptionError
from cmai_core.lab.calibration import lab_basis
from cmai_core.lab.experiment import TASKS, Experiment
from cmai_core.lab.result import LabResult
from cmai_core.lab.run import CANCELLED, PREDICTION_STEPS, run_attack
from cmai_core.models.truncation import bundled_truncation, truncation_of
from cmai_core.progress import CancelToken


@pytest.fixture(scope="module")
def setting(tiny_models):
    return setting_of(tiny_models)


def test_progress_only_grows_and_the_picture_stays(setting):
    seen = []
    run(setting, tell=seen.append, restarts=2, b="")  # one model: captions take time
    shares = [progress.fraction for progress in seen]
    assert shares == sorted(shares) and shares[0] < 0.2
    last = seen[-1]  # the last task has begun: S_c and every other task are behind it
    assert last.done == last.total - PREDICTION_STEPS + round(PREDICTION_STEPS * len(TASKS) / (len(TASKS) + 1))
    asking = [p for p in seen if p.stage.startswith("Asking")]
    assert all(task in p.stage and "model A" in p.stage for p, task in zip(asking, TASKS, strict=True))
    assert all(p.data["image"].shape == (128, 128, 3) and p.data["score"] for p in asking)
    attacking = [p for p in seen if p.stage.startswith("Attacking model A")]
    assert attacking and attacking[-1].data["count"] == "8 of 8"


def test_cancelled_while_answers_are_read_it_asks_nothing_more(setting):
    token = CancelToken()

    def tell(progress):
        if progress.stage == "Asking model A: retrieval":
            token.cancel()

    result = run(setting, tell=tell, cancel=token)
    undefended, defended = result.predictions["A"], result.predictions["B"]
    assert set(undefended.answers) == {"zero-shot", "retrieval"} and not defended.answers
    assert defended.skipped == dict.fromkeys(TASKS, CANCELLED)
    assert all(-1 <= prediction.adversarial <= 1 for prediction in result.predictions.values())
    assert not result.first_example.cancelled


def test_cancelled_while_attacking_it_keeps_the_picture_and_s_c(setting):
    token = CancelToken()

    def tell(progress):
        if progress.data.get("score"):
            token.cancel()

    result = run(setting, tell=tell, cancel=token, steps=200, objective="consistency")
    assert result.first_example.cancelled and result.first_example.steps_done <= 2
    assert not result.predictions["A"].answers and result.predictions["A"].adversarial < 1


def test_a_detector_needs_a_threshold_for_every_model(setting):
    with pytest.raises(OptionError):
        run(setting, objective="reject")


def test_a_pair_is_rejected_by_the_threshold_of_its_model(setting):
    """The threshold is that of the clean pairs, and success on the attacked model is what its detector decides."""
    items, models = setting
    told = []
    model = models["A"]
    clean = clean_scores(model, items)
    basis = lab_basis(model, "tabletop", lambda: items, progress=told.append)
    assert basis.calibration.count == 12 and basis.tau() <= min(clean) and basis.rates == (0.01, 0.05)
    assert [p.done for p in told[:12]] == list(range(12)) and model.name in told[0].stage
    tau = float(clean[0]) - 0.01  # just below the pair's own score
    known = tuple(dataclasses.replace(at, tau=tau) for at in basis.calibration.thresholds)
    tight = dataclasses.replace(basis, calibration=dataclasses.replace(basis.calibration, thresholds=known))
    experiment = Experiment(
        pair=items[0].id, caption=items[0].captions[0], objective="reject", steps=5, epsilon=16.0, b=""
    )
    made = run_attack(experiment, items[0], {"A": model}, dataset=items, bases={"A": tight})
    prediction = made.predictions["A"]
    assert (prediction.tau, prediction.calibration_pairs) == (tau, 12) and prediction.accepted == (True, False)
    assert made.evaded("A") and made.first_example.success


def test_calibrating_can_be_cancelled(setting):
    items, models = setting
    token = CancelToken()

    def tell(progress):
        if progress.done == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        lab_basis(models["A"], "tabletop", lambda: items, progress=tell, cancel=token)


def test_a_model_whose_turn_never_came_is_not_said_to_be_attacked(setting):
    """Crafted on each and cancelled during the first: the second has no attacked score, picture, answer or verdict."""
    token = CancelToken()

    def tell(progress):
        if progress.data.get("score"):
            token.cancel()

    result = run(setting, tell=tell, cancel=token, steps=200, craft_on="each", objective="consistency")
    first, second = result.examples["A"], result.examples["B"]
    assert first.begun and first.cancelled and not second.begun and second.success is None
    assert np.array_equal(second.clean, second.adversarial)
    prediction = result.predictions["B"]
    assert (
        not prediction.attacked
        and prediction.adversarial is None
        and prediction.change is None
        and not prediction.answers
    )
    assert list(result.attacked) == ["A"] and result.first_example is first
    assert treatment(prediction, second).startswith("not attacked") and "no alarm" not in verdict(prediction, 0.5)
    assert "cancelled after" in treatment(result.predictions["A"], first)
    pictures = {role: (example.clean, example.adversarial) for role, example in result.examples.items()}
    again = LabResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)), pictures)
    assert not again.examples["B"].begun and not again.predictions["B"].attacked


@pytest.mark.parametrize("options", [{"craft_on": "each"}, {}, {"norm": "text", "recipe": "char"}])
def test_cancelled_before_anything_was_done_nobody_was_attacked(setting, options):
    token = CancelToken()
    token.cancel()
    result = run(setting, cancel=token, objective="consistency", **options)
    assert not result.attacked and not any(example.begun for example in result.examples.values())
    assert all(
        -1 <= prediction.clean <= 1 and prediction.adversarial is None for prediction in result.predictions.values()
    )


def test_a_sentence_longer_than_the_context_is_said(setting):
    items, models = setting
    long = "a red cube left of a blue sphere and behind a yellow cone " * 5
    experiment = Experiment(pair=items[0].id, caption=long, steps=1, b="", objective="consistency")
    model = models["A"]
    prediction = run_attack(experiment, items[0], {"A": model}, dataset=items).predictions["A"]
    found = truncation_of(model, experiment.caption)
    assert (
        found.tokens > found.context and prediction.cut == found.unread == bundled_truncation(experiment.caption).unread
    )
    assert f"{found.read} {found.unread}" == experiment.caption
    ids = model.tokenize([found.read, experiment.caption])
    assert int((ids[0] != 0).sum()) <= found.context == int((ids[1] != 0).sum())
    assert truncation_of(model, found.read) is None and unread(prediction)
