"""Regions: the images that a threat model allows around clean ones, and the moves that searches make in them.

A norm is a row of `cmai_core.budget.NORMS` and a subclass of `Region`, which the row names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cmai_core.attacks.result import round_to_8bit
from cmai_core.budget import norm_of
from cmai_core.errors import OptionError
from cmai_core.registry import imported

if TYPE_CHECKING:
    from cmai_core.attacks.threats.image import ThreatModel

Generators = Sequence[torch.Generator]


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """The images allowed around each clean one, with what a search needs to move among them.

    Attributes:
        centre: clean pixels N×3×H×W. epsilon: N×1×1×1.
        lower, upper: elementwise limits, N×3×H×W (of the box [0, 1], or tighter ones).
        accepted: the values of ε that a threat model takes, in words. highest: the largest.
        sparse: whether steepest steps change few values, so that searches also adapt how many (Auto-PGD).
    """

    accepted: ClassVar[str] = "finite numbers from 0"
    highest: ClassVar[float] = torch.inf
    sparse: ClassVar[bool] = False

    centre: torch.Tensor
    epsilon: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    @classmethod
    def fits(cls, epsilon: torch.Tensor) -> torch.Tensor:
        """Flag the values of ε (float64) that are accepted."""
        return torch.isfinite(epsilon) & (epsilon >= 0) & (epsilon <= cls.highest)

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor, threat: ThreatModel) -> Region:
        """Make the region that a threat model allows around clean pixels; by default within the box [0, 1]."""
        return cls(centre, epsilon, torch.zeros_like(centre), torch.ones_like(centre))

    def select(self, rows: torch.Tensor) -> Region:
        """Return the region of some rows only."""
        return type(self)(self.centre[rows], self.epsilon[rows], self.lower[rows], self.upper[rows])

    @property
    def reach(self) -> torch.Tensor:
        """How far a step may usefully be, N×1×1×1 in pixel units: ε where ε is a length, else the whole range 1."""
        return self.epsilon

    @abstractmethod
    def distance(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return how far pixels lie from the centre, in the units of ε: length N."""

    @abstractmethod
    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring images back into the region."""

    @abstractmethod
    def steepest_step(self, gradient: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        """Return the steepest ascent of unit length in this region's norm (0 where the gradient is 0).

        Args:
            pixels: where the step starts; a norm whose steps change few values leaves out those at the box's edge.
        """

    @abstractmethod
    def random_start(self, generators: Generators) -> torch.Tensor:
        """Return one random image of the region for each sample, each from its own generator."""

    def boundary_start(self, generators: Generators) -> torch.Tensor:
        """Return random images as far out as the region reaches, as Auto-PGD starts; by default any of the region."""
        return self.random_start(generators)

    def round(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pictures of the region in multiples of 1/255, as files hold them, near to the given ones.

        Rounding to the nearest level may leave the ball; here what must goes back towards the clean picture by one
        level. Where the clean picture is no picture of 8 bits itself, no such picture may lie within a small ε, and the
        nearest one stands.
        """
        return round_to_8bit(pixels)

    def gradient_size(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return what momentum divides each gradient by (N): its Euclidean length, unless a paper says otherwise."""
        return gradient.flatten(1).norm(dim=1)

    # One perturbation for all images

    def shrink(self, delta: torch.Tensor) -> torch.Tensor:
        """Bring perturbations into the ball, the box left aside.

        Raises:
            OptionError: perturbations of this norm cannot be shared.
        """
        raise OptionError(f"One perturbation for all does not go with {type(self).__name__}.", "Accepted: linf, l2.")

    def compose(self, shared: torch.Tensor) -> torch.Tensor:
        """Return the images that one shared perturbation 1×3×H×W gives."""
        return self.project(self.centre + shared)

    def content(self, shared: torch.Tensor) -> torch.Tensor:
        """Return the shared perturbation as it is handed out."""
        return shared

    # For regions of this kind

    def drawn(self, generators: Generators, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
        """Stack one draw for each sample, on the pixels' device."""
        return torch.stack([draw(generator) for generator in generators]).to(self.centre.device)


def region_class(norm: str) -> type[Region]:
    """Return the region class of a norm.

    Raises:
        OptionError: there is no such norm.
    """
    return imported(norm_of(norm).region)


def length(x: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean length of each sample, N×1×1×1, at least a tiny number so that it may divide."""
    norm = x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return norm.view(-1, *[1] * (x.dim() - 1))


def changed_positions(pixels: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Count the pixel positions that differ in any channel: int64 of length N."""
    return (pixels != clean).any(dim=1).flatten(1).sum(dim=1)
