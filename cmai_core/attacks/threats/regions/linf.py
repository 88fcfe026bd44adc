"""L∞: no value changes by more than ε."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cmai_core.attacks.result import LEVELS
from cmai_core.attacks.threats.regions.region import Generators, Region

if TYPE_CHECKING:
    from cmai_core.attacks.threats.image import ThreatModel

# What single precision may add to a level: of 1/255 a thousandth.
SLACK = 1e-3


class LinfRegion(Region):
    """|δ| ≤ ε elementwise, within the box: one clamp projects exactly."""

    accepted = "numbers from 0 to 1, such as 4/255"
    highest = 1.0

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor, threat: ThreatModel) -> LinfRegion:
        return cls(centre, epsilon, (centre - epsilon).clamp_(min=0.0), (centre + epsilon).clamp_(max=1.0))

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.centre).abs().flatten(1).amax(dim=1)

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.clamp(pixels, self.lower, self.upper)

    def steepest_step(self, gradient: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        return gradient.sign()

    def random_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        uniform = self.drawn(generators, lambda g: torch.rand(shape, generator=g, dtype=dtype))
        return self.project(self.lower + uniform * (self.upper - self.lower))

    def boundary_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype

        def draw(generator: torch.Generator) -> torch.Tensor:
            noise = 2 * torch.rand(shape, generator=generator, dtype=dtype) - 1
            return noise / noise.abs().max()

        return self.project(self.centre + self.epsilon * self.drawn(generators, draw))

    def round(self, pixels: torch.Tensor) -> torch.Tensor:
        levels = (pixels * LEVELS).round()
        low, high = (self.lower * LEVELS - SLACK).ceil(), (self.upper * LEVELS + SLACK).floor()
        return torch.where(low <= high, torch.clamp(levels, low, high), levels) / LEVELS

    def gradient_size(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the mean absolute value, as MI-FGSM (Dong et al. 2018, eq. 6)."""
        return gradient.flatten(1).abs().mean(dim=1)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return torch.clamp(delta, -self.epsilon, self.epsilon)
