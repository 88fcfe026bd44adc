"""L2: the Euclidean length of the change is at most ε."""

from __future__ import annotations

import math

import torch

from cmai_core.attacks.threats.regions.region import Generators, Region, length
from cmai_core.attacks.threats.regions.rounding import round_within


class L2Region(Region):
    """‖δ‖₂ ≤ ε within the box.

    Projection scales δ into the ball, then clamps to the box; the clamp shortens δ elementwise (the centre lies in
    the box), so the result lies in both. It is the exact projection wherever the box is not touched.
    """

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.centre).flatten(1).norm(dim=1)

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.clamp(self.centre + self.shrink(pixels - self.centre), self.lower, self.upper)

    def steepest_step(self, gradient: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        return gradient / length(gradient)

    def random_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype

        def draw(generator: torch.Generator) -> torch.Tensor:
            normal = torch.randn(shape, generator=generator, dtype=dtype)
            radius = torch.rand((), generator=generator, dtype=torch.float64) ** (1.0 / math.prod(shape))
            return normal / normal.norm().clamp(min=1e-12) * radius.to(dtype)

        return self.project(self.centre + self.epsilon * self.drawn(generators, draw))

    def boundary_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype

        def draw(generator: torch.Generator) -> torch.Tensor:
            noise = torch.randn(shape, generator=generator, dtype=dtype)
            return noise / noise.norm()

        return self.project(self.centre + self.epsilon * self.drawn(generators, draw))

    def round(self, pixels: torch.Tensor) -> torch.Tensor:
        return round_within(pixels, self.centre, self.epsilon, 2)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return delta * (self.epsilon / length(delta)).clamp(max=1.0)
