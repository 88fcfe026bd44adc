"""The loss of one step as a module, so that whatever averages gradients over processes can wrap it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmai_core.training.batches import TrainingBatch
from cmai_core.training.extra_losses import extra_losses, features_drift
from cmai_core.training.losses import Parts, step_losses, vision_losses
from cmai_core.training.rivals import Rivals
from cmai_core.training.settings import Recipe


class StepLoss(nn.Module):
    """The weighted sum of a recipe's losses.

    Args:
        module: what may learn: "clip" and, where the recipe has them, "heads", "head", "place" and "masked". parts: the
            model inside. recipe: the losses' weights, and how the heads learn. start, start_text: the starting model's
            towers, frozen, where read.
    """

    def __init__(
        self,
        module: nn.ModuleDict,
        parts: Parts,
        recipe: Recipe,
        start: nn.Module | None,
        start_text: nn.Module | None = None,
    ):
        super().__init__()
        self.module = module
        # In a tuple: parts of `module`, and what never learns, are not registered.
        self._rest = (parts, recipe, start, start_text)

    def forward(
        self,
        batch: TrainingBatch,
        pixels: Tensor,
        clean: Tensor,
        generator: torch.Generator,
        plain: TrainingBatch | None = None,
        only: str = "",
        apart: bool = False,
        rivals: Rivals | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what to log.

        Args:
            batch, pixels: texts and images, clean or perturbed; plain, clean: unperturbed (plain None: `batch`).
            generator: of what is hidden.
            only: "vision": the patch labels' loss alone; "drift": that of the image features alone.
            apart: the loss is of two values, that of the unperturbed batch and that of the other.
            rivals: captions beside the batch's.
        """
        parts, _, start, _ = self._rest
        plain = batch if plain is None else plain
        if only == "vision":
            return vision_losses(parts, dict(self.module.items()).get("head"), batch, pixels)
        if only == "drift":
            loss = features_drift(parts, parts.vision(pixels), start, clean)
            return loss, {"drift": loss}
        loss, seen = self._losses(batch, pixels, clean, generator, plain, rivals)
        if not apart:
            return loss, seen
        other, _ = self._losses(plain, clean, clean, generator, plain, rivals)
        return torch.stack([other, loss]), {**seen, "loss_clean": other, "loss_perturbed": loss}

    def _losses(
        self,
        batch: TrainingBatch,
        pixels: Tensor,
        clean: Tensor,
        generator: torch.Generator,
        plain: TrainingBatch,
        rivals: Rivals | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parts, recipe, start, start_text = self._rest
        there = dict(self.module.items())
        loss, seen, step = step_losses(parts, there.get("head"), batch, pixels, recipe.weights, there.get("place"))
        more, extra = extra_losses(
            step,
            recipe,
            heads=there.get("heads"),
            masked=there.get("masked"),
            start=start,
            clean=clean,
            start_text=start_text,
            clean_ids=plain.caption_ids,
            generator=generator,
            rivals=rivals,
        )
        return loss + more, seen | extra
