"""A detector's threshold from clean pairs at a stated false-positive rate."""

from __future__ import annotations

from typing import Any

from cmai_core.data.pair import PairDataset
from cmai_core.defenses.detector import ConsistencyDetector, clean_scores
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
) -> tuple[ConsistencyDetector, Threshold]:
    """The detector of S_c whose τ flags at most a share `fpr` of clean pairs, and what that threshold realises.

    Args:
        model: a model, or a System (calibrated through its preprocessing and smoothing).
        dataset: clean validation pairs. fpr, guarantee: as in `evaluation.detection.threshold_at_fpr`.
        task: S_c is measured with the model's answer to it; None: with the given pair.
        gallery: the dataset that the task is prepared with where the detector is used; None: `dataset`.
        size: pictures at a time.

    Raises:
        DataError: too few pairs for a threshold with this guarantee.
    """
    threshold = calibrate(clean_scores(model, dataset, task=task, size=size), fpr, guarantee=guarantee)
    if not -1.0 <= threshold.tau <= 1.0:
        raise DataError(f"{threshold.count} pairs give no threshold at {fpr:g}.", "Give more pairs, or a higher rate.")
    return ConsistencyDetector(float(threshold.tau), task, dataset if gallery is None else gallery), threshold
