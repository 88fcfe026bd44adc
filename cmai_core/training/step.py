"""The loss of one step as a module, so that whatever averages gradients over processes can wrap it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmai_core.training.batches import TrainingBatch
from cmai_core.training.extra_losses import extra_losses
from cmai_core.training.losses import Parts, step_losses, vision_losses
from cmai_core.training.rivals import Rivals
from cmai_core.training.settings import Recipe


class StepLoss(nn.Module):
    """The weighted sum of a recipe's losses.

    Args:
        module: what may learn: "clip" and, where the recipe has them, "heads", "head", "place" and "masked". parts: the
            model inside. recipe: the losses' weights, and how the heads learn. start: the starting model's image tower,
            frozen.
    """

    def __init__(self, module: nn.ModuleDict, parts: Parts, recipe: Recipe, start: nn.Module | None):
        super().__init__()
        self.module = module
        self._rest = (parts, recipe, start)  # in a tuple: parts of `module`, and what never learns, are not registered

    def forward(
        self,
        batch: TrainingBatch,
        pixels: Tensor,
        clean: Tensor,
        generator: torch.Generator,
        vision_alone: bool = False,
        rivals: Rivals | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what to log.

        Args:
            pixels: the batch's images, clean or perturbed; clean: unperturbed. generator: of what is hidden.
            vision_alone: the patch labels' loss alone. rivals: captions beside the batch's.
        """
        parts, recipe, start = self._rest
        there = dict(self.module.items())
        heads, head, masked = there.get("heads"), there.get("head"), there.get("masked")
        if vision_alone:
            return vision_losses(parts, head, batch, pixels)
        loss, seen, step = step_losses(parts, head, batch, pixels, recipe.weights, there.get("place"))
        more, extra = extra_losses(
            step, recipe, heads=heads, masked=masked, start=start, clean=clean, generator=generator, rivals=rivals
        )
        return loss + more, seen | extra
