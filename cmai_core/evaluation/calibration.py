"""A detector's threshold from clean pairs at a stated false-positive rate."""

from __future__ import annotations

import math
from typing import Any

from cmai_core.attacks.options import one_of
from cmai_core.data.pair import PairDataset
from cmai_core.defenses.detector import ConsistencyDetector, VerificationDetector, detector_scores
from cmai_core.errors import DataError
from cmai_core.evaluation.detection import Threshold, calibrate


def calibrated_detector(
    model: Any,
    dataset: PairDataset,
    fpr: float = 0.05,
    *,
    task: Any = None,
    gallery: Any = None,
    guarantee: str = "calibration",
    size: int = 64,
    score: str = "consistency",
) -> tuple[ConsistencyDetector | VerificationDetector, Threshold]:
    """The detector whose τ flags at most a share `fpr` of clean pairs, and what that threshold realises.

    Args:
        model: a model, or a System (calibrated through its preprocessing and smoothing).
        dataset: clean validation pairs. fpr, guarantee: as in `evaluation.detection.threshold_at_fpr`.
        task: the score is measured with the model's answer to it; None: with the given pair.
        gallery: the dataset that the task is prepared with where the detector is used; None: `dataset`.
        size: pictures at a time.
        score: "consistency" (S_c) or "verification" (V_verify; the threshold is that of log V_verify).

    Raises:
        DataError: too few pairs for a threshold with this guarantee.
        OptionError: the model has no verifier.
    """
    one_of("score", score, ("consistency", "verification"))
    kind = ConsistencyDetector if score == "consistency" else VerificationDetector
    (clean,) = detector_scores(model, dataset, [kind(0.0, task, dataset)], size=size)
    threshold = calibrate(clean, fpr, guarantee=guarantee)
    highest = 1.0 if score == "consistency" else 0.0
    if not (math.isfinite(threshold.tau) and threshold.tau <= highest):
        raise DataError(f"{threshold.count} pairs give no threshold at {fpr:g}.", "Give more pairs, or a higher rate.")
    return kind(float(threshold.tau), task, dataset if gallery is None else gallery), threshold
