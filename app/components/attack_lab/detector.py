"""The decisions of a detector around a model, before and after an attack, in words."""

from __future__ import annotations

from app.components.common.theme import number
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult, PairPrediction

AIMS = {"aware": "wrong and accepted", "accept": "accepted", "reject": "rejected"}
"""Objective → what counts as a success."""


def aim(experiment: Experiment) -> str:
    """Return what the attack is on, in words."""
    if experiment.objective == "aware":
        return f"{experiment.task}, {AIMS['aware']}"
    return f"being {AIMS[experiment.objective]}" if experiment.has_detector else experiment.task


def decision(accepted: bool) -> str:
    """Return the detector's word."""
    return "accepted" if accepted else "rejected"


def decisions(prediction: PairPrediction) -> str:
    """Return the detector's words, clean → adversarial; "" without a detector."""
    if prediction.accepted is None:
        return ""
    return " → ".join(decision(accepted) for accepted in prediction.accepted)


def outcome(result: LabResult, role: str) -> str:
    """Return whether the attack succeeded against a model and its detector, as a sentence; "" without a detector."""
    prediction, e = result.predictions[role], result.experiment
    if prediction.accepted is None:
        return ""
    before, after = prediction.accepted
    if e.objective != "aware":
        if result.evaded(role):
            return f"The pair is now {decision(after)}: the attack succeeded."
        if result.evaded(role) is None:
            return f"The pair was {decision(before)} even when clean: there was nothing to gain."
        return f"The pair is still {decision(after)}: no success."
    if e.task not in prediction.answers:
        return f"The picture is {decision(after)}; {e.task} was not asked."
    clean, correct = (answer.correct for answer in prediction.answers[e.task])
    if clean is None or correct is None:
        return f"The picture is {decision(after)}; whether the answer to {e.task} is right, nobody can say."
    if not clean and before:
        return f"The answer to {e.task} was wrong and accepted even when clean: there was nothing to gain."
    if correct:
        return f"The answer to {e.task} is still right: no success."
    if not after:
        return f"The answer to {e.task} is wrong, but the picture is rejected: no success."
    return f"The answer to {e.task} is wrong and the picture is accepted: the attack succeeded."


def detector_line(prediction: PairPrediction) -> str:
    """Return how the threshold was chosen, as a sentence."""
    return (
        f"The detector rejects where S_c is below τ = {number(prediction.tau)}, calibrated to reject at most "
        f"{prediction.false_positive_rate:.0%} of {prediction.calibration_pairs:,} clean validation pairs"
        + (f" ({prediction.calibration})." if prediction.calibration else ".")
    )
