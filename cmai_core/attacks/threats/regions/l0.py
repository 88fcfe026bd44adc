"""L0: at most ε pixel positions change."""

from __future__ import annotations

import torch

from cmai_core.attacks.threats.regions.region import Generators, Region, changed_positions


class L0Region(Region):
    """At most ε pixel positions differ from the centre, within the box.

    Projection is exact (Croce & Hein 2019, "Sparse and imperceivable adversarial attacks", §4.1): a position is kept
    where clamping it to the box saves most of its squared change. Steps follow the gradient scaled to a largest entry
    of 1, so that the magnitudes decide which positions survive.
    """

    accepted = "numbers of pixel positions: 0, or finite ones from 1"

    @classmethod
    def fits(cls, epsilon: torch.Tensor) -> torch.Tensor:
        """Flag 0 and numbers from 1: a share of a position, or an ε of another norm, would silently change nothing."""
        return super().fits(epsilon) & ((epsilon == 0) | (epsilon >= 1))

    @property
    def reach(self) -> torch.Tensor:
        return torch.ones_like(self.epsilon)

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return changed_positions(pixels, self.centre).to(pixels)

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        boxed = torch.clamp(pixels, self.lower, self.upper)
        gain = ((pixels - self.centre) ** 2 - (pixels - boxed) ** 2).sum(dim=1).flatten(1)
        order = gain.argsort(dim=1, descending=True, stable=True)
        ranks = torch.empty_like(order).scatter_(
            1, order, torch.arange(gain.shape[1], device=gain.device).expand_as(order)
        )
        kept = (ranks < self.epsilon.flatten(1).floor()).view(len(pixels), 1, *pixels.shape[2:])
        return torch.where(kept, boxed, self.centre)

    def steepest_step(self, gradient: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        largest = gradient.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return gradient / largest.view(-1, *[1] * (gradient.dim() - 1))

    def random_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        budgets = iter(self.epsilon.flatten().tolist())

        def draw(generator: torch.Generator) -> torch.Tensor:
            uniform = torch.rand(shape, generator=generator, dtype=dtype)
            chosen = torch.randperm(shape[-2] * shape[-1], generator=generator) < int(next(budgets))
            return torch.where(chosen.view(1, *shape[-2:]), uniform, torch.nan)

        drawn = self.drawn(generators, draw)
        return torch.where(drawn.isnan(), self.centre, drawn)
