"""Attention diversion: away from where the model looks in the clean picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from cmai_core.attacks.objectives.objective import Objective
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.models.recording import recorded_attention

PIECE = 64


@dataclass(frozen=True)
class AttentionDiversion(Objective):
    """1 − cosine of the attention on the patches, now and in the clean picture; in [0, 1], 0 where both are the same.

    The attention is that of the image embedding: of the class token in the last block, or of the attentional pooler,
    heads averaged. Recording it takes a forward pass of its own. Its gradient is 0 at the clean image: start at random.

    Raises at binding: ModelError for image towers that give out no attention (ResNets, timm).
    """

    extra_forwards = 1

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        device = getattr(model, "device", None) or batch.pixels.device
        with torch.no_grad():
            parts = [looked_at(model, piece.to(device)) for piece in batch.pixels.detach().split(PIECE)]
        return _BoundDiversion(torch.cat(parts))

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return "attention diversion"


@dataclass(frozen=True, eq=False)
class _BoundDiversion(Objective):
    clean: torch.Tensor

    extra_forwards = 1

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundDiversion(self.clean[rows.to(self.clean.device)])

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return 1 - F.cosine_similarity(looked_at(model, pixels), self.clean, dim=1)

    def describe(self) -> str:
        return "attention diversion"


def looked_at(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the attention of the image embedding on each patch, N×P, differentiable in the pixels.

    Raises:
        ModelError: an image tower that gives out no attention.
    """
    parts = model.image_attention()
    name = "pooler" if parts.pooler is not None else list(parts.blocks)[-1]
    with recorded_attention({name: parts.modules[name]}) as weights:
        model.image_features(pixels)
    return parts.start(weights[name]).mean(dim=1)[:, 1:]
