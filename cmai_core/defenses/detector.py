"""Consistency verification as a detector: S_c below τ, or V_verify below τ_V, flags a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cmai_core.attacks.objectives.detectors import AnswerConsistency, AnswerVerification, Detector, Slack, Verification
from cmai_core.attacks.objectives.objective import Consistency, Objective
from cmai_core.attacks.result import round_to_8bit
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.errors import DataError, OptionError
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.options import number


@dataclass(frozen=True)
class ConsistencyDetector:
    """Flags a picture whose S_c lies below τ.

    S_c is measured by the model's consistency heads; without any, it is the cosine of the model's own embeddings.

    Attributes:
        tau: threshold in [−1, 1]; calibrate it on clean pairs (`clean_scores`, `evaluation.calibration`).
        task: S_c is measured with the text that the model's answer to this task amounts to; None: with the given pair.
        dataset: handed to the task's `prepare`.
    """

    tau: float
    task: Any = None
    dataset: Any = None

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)

    @property
    def consistency(self) -> Objective:
        """The score, not yet bound to a model and a batch."""
        return Consistency() if self.task is None else AnswerConsistency(self.task, dataset=self.dataset)

    def describe(self) -> dict:
        """Return plain values for reports."""
        return {"detector": "consistency", "tau": self.tau, "scores": "pair" if self.task is None else self.task.name}


@dataclass(frozen=True)
class VerificationDetector:
    """Flags a picture whose V_verify lies below τ_V, on a model with consistency heads.

    The score is log V_verify: where V_verify rounds to 0 it still has an order and a gradient.

    Attributes:
        tau: log τ_V, at most 0; `VerificationDetector.at(0.2)` takes τ_V itself.
        task, dataset: as in `ConsistencyDetector`.
    """

    tau: float
    task: Any = None
    dataset: Any = None

    def __post_init__(self) -> None:
        number("tau", self.tau, -math.inf, 0.0)

    @staticmethod
    def at(probability: float, task: Any = None, dataset: Any = None) -> VerificationDetector:
        """Return the detector with τ_V = `probability`, in (0, 1]."""
        number("probability", probability, 0.0, 1.0, above_low=True)
        return VerificationDetector(math.log(probability), task, dataset)

    @property
    def consistency(self) -> Objective:
        """The score, not yet bound to a model and a batch."""
        return Verification(log=True) if self.task is None else AnswerVerification(self.task, dataset=self.dataset)

    def describe(self) -> dict:
        """Return plain values for reports."""
        return {"detector": "verification", "tau": self.tau, "scores": "pair" if self.task is None else self.task.name}


@dataclass(frozen=True)
class AnyDetector:
    """Flags a picture that at least one of several detectors flags.

    The score is how far the nearest of them is from flagging it (`Slack`), so the threshold is 0.
    """

    detectors: tuple[Detector, ...]

    def __post_init__(self) -> None:
        if not self.detectors:
            raise OptionError("No detector was given.", "Give at least one.")

    @property
    def tau(self) -> float:
        return 0.0

    @property
    def consistency(self) -> Objective:
        """The score, not yet bound to a model and a batch."""
        return Slack(tuple(self.detectors))

    def describe(self) -> dict:
        """Return plain values for reports."""
        return {"detector": "any", "of": [detector.describe() for detector in self.detectors]}


def clean_scores(model: Any, dataset: PairDataset, *, task: Any = None, size: int = 64) -> np.ndarray:
    """Return the score that `ConsistencyDetector(task=task)` gives each unattacked pair: float64, one a pair.

    Args:
        model: a model, or a System (its preprocessing and smoothing included); left as found.
        size: pictures at a time.
    """
    return detector_scores(model, dataset, [ConsistencyDetector(0.0, task, dataset)], size=size)[0]


def detector_scores(
    model: Any,
    dataset: PairDataset,
    detectors: Sequence[Detector],
    *,
    texts: Sequence[str] | None = None,
    size: int = 64,
) -> list[np.ndarray]:
    """Return the score that each detector gives each unattacked pair, from one pass over the pictures: float64.

    Args:
        model, size: as for `clean_scores`.
        texts: one for each pair, in the place of its first caption.
    """
    if texts is not None and len(texts) != len(dataset):
        raise DataError(f"{len(texts)} texts for {len(dataset)} pairs.", "Give one text a pair.")
    scores: list[list[np.ndarray]] = [[] for _ in detectors]
    done = 0
    with torch.no_grad(), evaluation_mode(model):
        for batch in batches(model, dataset, size):
            if texts is not None:
                batch = replace(batch, texts=tuple(texts[done : done + len(batch.ids)]))
            done += len(batch.ids)
            sampled = model.for_samples(batch, model.seed) if hasattr(model, "for_samples") else model
            features = sampled.image_features(batch.pixels)
            for found, detector in zip(scores, detectors, strict=True):
                score = detector.consistency.bind(model, batch)
                found.append(score(sampled, batch.pixels, features).double().cpu().numpy())
    return [np.concatenate(found) for found in scores]


def batches(model: Any, dataset: PairDataset, size: int) -> Iterator[Batch]:
    """Yield a dataset's pairs, each picture rounded to 8 bits as a file holds it, with its first caption."""
    for start in range(0, len(dataset), size):
        pairs = tuple(dataset[k] for k in range(start, min(start + size, len(dataset))))
        pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
        texts = tuple(pair.captions[0] for pair in pairs)
        yield Batch(tuple(pair.id for pair in pairs), pixels, texts, tuple(range(len(pairs))), pairs)


def attacked(batch: Batch, pixels: torch.Tensor) -> Batch:
    """Return the batch with other pictures."""
    return replace(batch, pixels=pixels)
