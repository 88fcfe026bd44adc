"""What every run of an attack does: attack a batch, round to 8 bits, ask a model about it.

`cmai attack`, the grid's runner and the lab do it by these functions; each keeps its own records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.evaluation.runs.predictor import ScoredPrediction, pictures, predict_images, predict_pairs
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.data.pair import Batch, PairDataset


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a batch, as they are shown to models.

    Attributes:
        images: uint8 N×H×W×3, the clean pictures where only texts are attacked. texts: one a text of the batch; None
            where only pictures are attacked.
        floats: the pictures before rounding, N×3×H×W; None where they are not at hand.
    """

    images: np.ndarray
    texts: tuple[str, ...] | None
    floats: Any = None

    @staticmethod
    def clean(batch: Batch) -> Examples:
        """Return the batch as it is."""
        return Examples(pictures(batch.pixels), tuple(batch.texts))


def modality_of(attack: Any) -> str:
    """Say what an attack changes: "image", "text" or "joint"."""
    if not hasattr(attack, "text_threat"):
        return "text" if not hasattr(attack.threat, "norm") else "image"
    return "joint"


def attack_batch(
    attack: Any,
    model: Any,
    batch: Batch,
    *,
    seed: int,
    minimum_norm: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    progress_interval: float = 0.05,
) -> tuple[Any, Examples]:
    """Attack a batch.

    Args:
        attack: an `Attack`, `TextAttack` or `JointAttack`. batch: of pixels rounded to 8 bits.
        minimum_norm: take the nearest examples of a minimum-norm search, whatever ε.
        progress_interval: least seconds between two messages.

    Returns:
        its result, and the examples rounded to 8 bits: what a picture file can hold.
    """
    told = {"progress": progress, "progress_interval": progress_interval}
    result = attack(model, batch, seed=seed, cancel=cancel, **told)
    modality = modality_of(attack)
    if modality == "text":
        return result, Examples(pictures(batch.pixels), tuple(result.texts))
    texts = tuple(result.texts) if modality == "joint" else None
    if minimum_norm:
        return result, Examples(pictures(result.minimum), texts, result.minimum)
    return result, Examples(result.images(), texts, result.pixels)


def predict(
    model: Any,
    task: Any,
    dataset: PairDataset | None,
    batch: Batch,
    versions: Sequence[Examples],
    modality: str,
    *,
    answers: bool = False,
    floats: bool = False,
) -> list[list[ScoredPrediction]]:
    """Read what a model says of versions of a batch: clean, attacked.

    Args:
        task: None: nothing is asked. modality: what the attack changes; where that is a text, one row is one text.
        answers: see `predict_images`. floats: read the last version once more as it was before rounding, where it is at
            hand.

    Returns:
        For each version its predictions.
    """
    shown: list[tuple[Any, Any]] = [(version.images, version.texts) for version in versions]
    if floats and (exact := versions[-1].floats) is not None:
        shown.append((exact.to(model.device), versions[-1].texts))
    if modality == "image":
        return predict_images(model, task, dataset, batch, [images for images, _ in shown], answers=answers)
    return predict_pairs(model, task, dataset, batch, shown)
