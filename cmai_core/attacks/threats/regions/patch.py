"""Patch: whatever lies under a mask may be replaced altogether."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.attacks.threats.regions.region import Generators, changed_positions

if TYPE_CHECKING:
    from cmai_core.attacks.threats.image import ThreatModel


class PatchRegion(LinfRegion):
    """Any value in [0, 1] under a mask, the clean one elsewhere."""

    accepted = "shares of the area from 0 to 1, such as 0.05"

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor, threat: ThreatModel) -> PatchRegion:
        mask = threat.masks(centre)
        lower = torch.where(mask, torch.zeros_like(centre), centre)
        return cls(centre, epsilon, lower, torch.where(mask, torch.ones_like(centre), centre))

    @property
    def mask(self) -> torch.Tensor:
        """Bool N×1×H×W: where pixels may change."""
        return (self.upper > self.lower).any(dim=1, keepdim=True)

    @property
    def reach(self) -> torch.Tensor:
        return torch.ones_like(self.epsilon)

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the share of the picture's area that changed."""
        return changed_positions(pixels, self.centre).to(pixels) / pixels[0, 0].numel()

    def boundary_start(self, generators: Generators) -> torch.Tensor:
        return self.random_start(generators)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.clamp(delta, -0.5, 0.5)

    def compose(self, shared: torch.Tensor) -> torch.Tensor:
        """Return the images with one content for all: what is shared is its deviation from mid-grey."""
        return torch.where(self.mask, self.content(shared), self.centre)

    def content(self, shared: torch.Tensor) -> torch.Tensor:
        return 0.5 + shared
