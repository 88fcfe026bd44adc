"""Consistency verification as a detector: S_c below τ flags a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cmai_core.attacks.detectors import AnswerConsistency
from cmai_core.attacks.evaluator import at_rest
from cmai_core.attacks.objectives import Consistency, Objective
from cmai_core.attacks.options import number
from cmai_core.attacks.result import round_to_8bit
from cmai_core.data.pair import Batch, PairDataset


@dataclass(frozen=True)
class ConsistencyDetector:
    """Flags a picture whose S_c lies below τ.

    Heads: identity, so that S_c is the cosine of the model's own embeddings.

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
        """Plain values for reports."""
        return {"detector": "consistency", "tau": self.tau, "scores": "pair" if self.task is None else self.task.name}


def clean_scores(model: Any, dataset: PairDataset, *, task: Any = None, size: int = 64) -> np.ndarray:
    """The score that `ConsistencyDetector(task=task)` gives each unattacked pair: float64, one a pair.

    Args:
        model: a model, or a System (its preprocessing and smoothing included); left as found.
        size: pictures at a time.
    """
    detector = ConsistencyDetector(0.0, task, dataset)
    scores = []
    with torch.no_grad(), at_rest(model):
        for batch in batches(model, dataset, size):
            sampled = model.for_samples(batch, model.seed) if hasattr(model, "for_samples") else model
            score = detector.consistency.bind(model, batch)
            scores.append(score(sampled, batch.pixels, sampled.image_features(batch.pixels)).double().cpu().numpy())
    return np.concatenate(scores)


def batches(model: Any, dataset: PairDataset, size: int) -> Iterator[Batch]:
    """A dataset's pairs, each picture rounded to 8 bits as a file holds it, with its first caption."""
    for start in range(0, len(dataset), size):
        pairs = tuple(dataset[k] for k in range(start, min(start + size, len(dataset))))
        pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
        texts = tuple(pair.captions[0] for pair in pairs)
        yield Batch(tuple(pair.id for pair in pairs), pixels, texts, tuple(range(len(pairs))), pairs)


def attacked(batch: Batch, pixels: torch.Tensor) -> Batch:
    """The batch with other pictures."""
    return replace(batch, pixels=pixels)
