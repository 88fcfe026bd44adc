"""L1: the sum of the absolute changes of all values is at most ε."""

from __future__ import annotations

import math

import torch

from cmai_core.attacks.threats.regions.region import Generators, Region
from cmai_core.attacks.threats.regions.rounding import round_within

SHARE = 0.01
"""Share of the values that a step changes: the largest hundredth of the gradient (Tramèr & Boneh 2019)."""
MOST_STEPS = 60
"""Of the search for the projection's threshold, which takes about ten."""


class L1Region(Region):
    """‖δ‖₁ ≤ ε within the box.

    The projection is that onto the intersection of ball and box (Croce & Hein 2021, "Mind the box", arXiv 2103.01208,
    §3.1): projecting onto the ball and clamping afterwards would leave most of ε unused, since the ball's corners lie
    far outside the box. Steps are sparse, as in SLIDE (Tramèr & Boneh 2019, arXiv 1904.13000, §4.1).
    """

    sparse = True

    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.centre).abs().flatten(1).sum(dim=1)

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        delta = pixels - self.centre
        room = torch.where(delta > 0, self.upper - self.centre, self.centre - self.lower)
        return torch.clamp(self.centre + project_l1(delta, room, self.epsilon), self.lower, self.upper)

    def steepest_step(
        self, gradient: torch.Tensor, pixels: torch.Tensor | None = None, share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the sign of the largest entries of the gradient, divided by their number.

        Args:
            pixels: where the step starts: values that would leave the box do not count.
            share: N, the share of the values that changes (None: `SHARE` for all).
        """
        if pixels is not None:
            outward = torch.where(gradient > 0, pixels >= self.upper, pixels <= self.lower)
            gradient = gradient.masked_fill(outward, 0.0)
        flat = gradient.flatten(1)
        rank = _rank(flat.shape[1], share)
        most = rank if share is None else int(rank.max())
        chosen = flat.abs().topk(most, dim=1, sorted=share is not None).indices
        signs = flat.gather(1, chosen).sign()
        if share is not None:
            signs = torch.where(torch.arange(most, device=flat.device) < rank, signs, 0.0)
        count = signs.abs().sum(dim=1, keepdim=True).clamp(min=1.0)
        return torch.zeros_like(flat).scatter_(1, chosen, signs / count).view_as(gradient)

    def random_start(self, generators: Generators) -> torch.Tensor:
        """Return uniform draws from the ball, brought into the box.

        Exponential numbers with random signs, divided by their sum and one exponential number more, are uniform in
        the ball (Barthe et al. 2005, "A probabilistic approach to the geometry of the ℓp-ball").
        """
        shape, dtype = self.centre.shape[1:], self.centre.dtype

        def draw(generator: torch.Generator) -> torch.Tensor:
            size = torch.empty(math.prod(shape) + 1, dtype=dtype).exponential_(generator=generator)
            sign = 2 * torch.randint(2, shape, generator=generator, dtype=dtype) - 1
            return sign * (size[:-1] / size.sum()).view(shape)

        return self.project(self.centre + self.epsilon * self.drawn(generators, draw))

    def boundary_start(self, generators: Generators) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        noise = self.drawn(generators, lambda g: torch.randn(shape, generator=g, dtype=dtype))
        return self.project(self.centre + noise)

    def round(self, pixels: torch.Tensor) -> torch.Tensor:
        return round_within(pixels, self.centre, self.epsilon, 1)

    def gradient_size(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.flatten(1).abs().mean(dim=1)

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        return project_l1(delta, delta.abs(), self.epsilon)


def project_l1(delta: torch.Tensor, room: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """Return the nearest z to delta with Σ|z| ≤ ε, |z| ≤ room and the signs of delta.

    It is |z| = clamp(|delta| − λ, 0, room) with the least λ ≥ 0 whose sum is at most ε. The sum falls piecewise
    linearly in λ: Newton's method finds the root in a few steps, and halves the bracket where it would leave it.

    Args:
        delta, room: N×…, room ≥ 0. epsilon: N×1×….
    """
    size, limit, target = delta.abs().flatten(1), room.flatten(1), epsilon.flatten(1)
    kept = torch.minimum(size, limit)
    over = kept.sum(dim=1, keepdim=True) > target
    on_cpu = delta.device.type == "cpu"
    if on_cpu and not bool(over.any()):
        return delta.sign() * kept.view_as(delta)
    low, high = torch.zeros_like(target), size.amax(dim=1, keepdim=True)
    shift, tolerance = low, 64 * torch.finfo(delta.dtype).eps * target
    for _ in range(MOST_STEPS):
        left = size - shift
        kept = torch.minimum(left.clamp(min=0.0), limit)
        excess = kept.sum(dim=1, keepdim=True) - target
        done = ~over | (excess.abs() <= tolerance) | (target == 0)
        if on_cpu and bool(done.all()):  # elsewhere, asking would wait for the device
            break
        low, high = torch.where(excess > 0, shift, low), torch.where(excess > 0, high, shift)
        falling = ((left > 0) & (left < limit)).sum(dim=1, keepdim=True)
        newton = shift + excess / falling
        inside = (newton > low) & (newton < high)
        shift = torch.where(done, shift, torch.where(inside, newton, (low + high) / 2))
    total = kept.sum(dim=1, keepdim=True).clamp(min=torch.finfo(delta.dtype).tiny)
    kept = kept * (target / total).clamp(max=1.0)  # what rounding has left over
    return delta.sign() * kept.view_as(delta)


def _rank(count: int, share: torch.Tensor | None) -> int | torch.Tensor:
    """Return how many of `count` values a share of them is, rounded up, at least one (a tensor N×1 where given so)."""
    return math.ceil(SHARE * count) if share is None else (share * count).ceil().clamp(1, count).long().view(-1, 1)
