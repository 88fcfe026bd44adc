"""Threat models on images: which norm, how much, and the region of pixels they allow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cmai_core.attacks.options import one_of, strict_options
from cmai_core.errors import DataError, OptionError

NORMS = ("linf", "l2")


@strict_options
@dataclass(frozen=True, eq=False)
class ThreatModel:
    """What the attacker may change: ‖adversarial − clean‖ ≤ ε, and pixels stay in [0, 1].

    Attributes:
        norm: "linf" (largest change of any pixel value) or "l2" (Euclidean length over all 3·H·W values).
        epsilon: in pixel units of [0, 1] (4/255, not 4): one number, or one per sample (sequence or 1-D tensor).
            At most 1 for linf; any non-negative number for l2.

    Raises:
        OptionError: unknown norm, or an ε outside its range.
    """

    norm: str = "linf"
    epsilon: float | Sequence[float] | torch.Tensor = 4 / 255

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        try:
            values = torch.as_tensor(self.epsilon, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"epsilon={self.epsilon!r} is not a number.", "Accepted: a number, or one per sample."
            ) from error
        highest = 1.0 if self.norm == "linf" else math.inf
        if values.dim() > 1 or values.numel() == 0:
            raise OptionError(
                f"epsilon has shape {tuple(values.shape)}.",
                "Accepted: one number, or a 1-D sequence with one per sample.",
            )
        if not bool((torch.isfinite(values) & (values >= 0) & (values <= highest)).all()):
            accepted = "numbers from 0 to 1, such as 4/255" if self.norm == "linf" else "finite numbers from 0"
            raise OptionError(f"epsilon={self.epsilon!r} is not accepted for {self.norm}.", f"Accepted: {accepted}.")

    def epsilons(self, count: int) -> torch.Tensor:
        """ε of each of `count` samples: float64 tensor of that length.

        Raises:
            OptionError: one ε per sample was given, for another number of samples.
        """
        values = torch.as_tensor(self.epsilon, dtype=torch.float64).detach().cpu()
        if values.dim() == 1 and len(values) != count:
            raise OptionError(f"{len(values)} values of epsilon for {count} samples.", "Give one, or one per sample.")
        return values.expand(count).clone()

    def around(self, pixels: torch.Tensor) -> Region:
        """The region this threat model allows around clean pixels (N×3×H×W in [0, 1]).

        Raises:
            DataError: pixels outside [0, 1] or not finite (were they normalised already?).
        """
        _check_pixels(pixels)
        epsilon = self.epsilons(len(pixels)).to(pixels).view(-1, *[1] * (pixels.dim() - 1))
        return (LinfRegion if self.norm == "linf" else L2Region).build(pixels.detach(), epsilon)

    def describe(self) -> dict:
        """Plain values for reports: norm and ε (a list where it is per sample)."""
        epsilon = torch.as_tensor(self.epsilon, dtype=torch.float64)
        return {"norm": self.norm, "epsilon": epsilon.tolist()}


def _check_pixels(pixels: torch.Tensor) -> None:
    if pixels.dim() < 2 or not pixels.is_floating_point():
        raise DataError(
            f"Pixels are {pixels.dtype} of shape {tuple(pixels.shape)}.", "Accepted: floating point, N×3×H×W in [0, 1]."
        )
    if pixels.numel() == 0:
        raise DataError("The batch holds no image.", "Give at least one.")
    low, high = (float(v) for v in pixels.detach().aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"Pixels range from {low:.4g} to {high:.4g}, outside [0, 1].",
            "Give un-normalised pixels: the model normalises inside.",
        )


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """The set of images allowed around each clean one, with what a search needs to move in it.

    Attributes:
        centre: clean pixels N×3×H×W.
        epsilon: N×1×1×1.
        lower, upper: elementwise limits (ball ∩ box for linf, the box [0, 1] for l2).
    """

    centre: torch.Tensor
    epsilon: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def select(self, rows: torch.Tensor) -> Region:
        """The region of some rows only."""
        return type(self)(self.centre[rows], self.epsilon[rows], self.lower[rows], self.upper[rows])

    @abstractmethod
    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        """The given images brought back into the region."""

    @abstractmethod
    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Steepest ascent of unit length in this region's norm (0 where the gradient is 0)."""

    @abstractmethod
    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """One random image of the region per sample, each from its own generator."""


class LinfRegion(Region):
    """|δ| ≤ ε elementwise, within the box: one clamp projects exactly."""

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor) -> LinfRegion:
        return cls(centre, epsilon, (centre - epsilon).clamp_(min=0.0), (centre + epsilon).clamp_(max=1.0))

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.clamp(pixels, self.lower, self.upper)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.sign()

    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        uniform = torch.stack([torch.rand(shape, generator=g, dtype=dtype) for g in generators])
        return self.project(self.lower + uniform.to(self.centre.device) * (self.upper - self.lower))


class L2Region(Region):
    """‖δ‖₂ ≤ ε within the box.

    Projection scales δ into the ball, then clamps to the box; the clamp shortens δ elementwise (the centre lies in
    the box), so the result lies in both. It is the exact projection wherever the box is not touched.
    """

    @classmethod
    def build(cls, centre: torch.Tensor, epsilon: torch.Tensor) -> L2Region:
        return cls(centre, epsilon, torch.zeros_like(centre), torch.ones_like(centre))

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        delta = pixels - self.centre
        scale = (self.epsilon / _length(delta)).clamp(max=1.0)
        return torch.clamp(self.centre + delta * scale, self.lower, self.upper)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / _length(gradient)

    def random(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        shape, dtype = self.centre.shape[1:], self.centre.dtype
        dimensions = math.prod(shape)
        draws = []
        for generator in generators:
            normal = torch.randn(shape, generator=generator, dtype=dtype)
            radius = torch.rand((), generator=generator, dtype=torch.float64) ** (1.0 / dimensions)
            draws.append(normal / normal.norm().clamp(min=1e-12) * radius.to(dtype))
        return self.project(self.centre + self.epsilon * torch.stack(draws).to(self.centre.device))


def _length(x: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each sample, N×1×1×1, at least a tiny number so that it may divide."""
    norm = x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return norm.view(-1, *[1] * (x.dim() - 1))
