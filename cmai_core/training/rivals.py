"""Captions of earlier batches, which a picture may retrieve instead of its own.

A picture is retrieved for among many more captions than a batch holds: the hardest false one of a batch is seldom what
an attack will find. So the captions of the last steps are kept as they were encoded (a queue, after MoCo: He et al.
2020, arXiv 1911.05722, sec. 3.1), with the scenes they are of, from which their truth for any other scene follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmai_core.training.batches import Arrays, TrainingBatch
from cmai_core.training.losses import unit


@dataclass(frozen=True)
class Rivals:
    """Captions beside those of a batch of B scenes.

    Attributes:
        texts: float32 Q×D of unit length, from the weights of their own step. ids: int64 Q×48.
        truth: bool B×Q, caption (column) is true of the scene (row).
    """

    texts: Tensor
    ids: Tensor
    truth: Tensor


class CaptionQueue:
    """The captions of the last steps, at most `size` of them.

    Args:
        arrays: what the batches are drawn from; it says what is true.
    """

    def __init__(self, size: int, arrays: Arrays):
        self.size, self.arrays = size, arrays
        self._texts: Tensor | None = None
        self._captions = torch.zeros(2, 0, dtype=torch.int64)

    def __len__(self) -> int:
        return self._captions.shape[1]

    def push(self, texts: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Take in a step's captions, and let the oldest go.

        Args:
            texts: N×D, not normalised. rows, columns: int64 N, which scene's which caption.
        """
        new = unit(texts.detach())
        self._texts = (new if self._texts is None else torch.cat([self._texts, new]))[-self.size :]
        self._captions = torch.cat([self._captions, torch.stack([rows, columns]).cpu()], dim=1)[:, -self.size :]

    def beside(self, batch: TrainingBatch) -> Rivals | None:
        """Return the captions with their truth for a batch; None while there are none."""
        if self._texts is None:
            return None
        rows, columns = self._captions.numpy()
        truth = np.array(self.arrays.truth(batch.rows.cpu().numpy(), rows, columns), dtype=bool)
        ids = torch.from_numpy(np.asarray(self.arrays.caption_ids[rows, columns]).astype(np.int64))
        device = self._texts.device
        return Rivals(self._texts, ids.to(device), torch.from_numpy(truth).to(device))

    def state(self) -> dict[str, Any]:
        return {"texts": self._texts, "captions": self._captions}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        texts = state["texts"]
        self._texts, self._captions = None if texts is None else texts.to(device), state["captions"]
