"""Random transformations of the image on its way into the model: input diversity and expectation over transformation.

Each sample draws its own parameters from its own generator, so that a result does not depend on the rest of the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cmai_core.options import number, strict_options


class InputTransform(ABC):
    """A random, differentiable map from pixels to pixels of the same shape."""

    @abstractmethod
    def draw(self, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
        """Draw parameters of one transformation per sample (first dimension N), on the device of `like` (N×3×H×W)."""

    @abstractmethod
    def apply(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return transformed pixels N×3×H×W."""

    @abstractmethod
    def describe(self) -> dict:
        """Return plain values for reports."""


def _uniform(generators: Sequence[torch.Generator], count: int, like: torch.Tensor) -> torch.Tensor:
    rows = [torch.rand(count, generator=generator, dtype=like.dtype) for generator in generators]
    return torch.stack(rows).to(like.device)


@strict_options
@dataclass(frozen=True, kw_only=True)
class Diversity(InputTransform):
    """Input diversity (Xie et al. 2019, arXiv 1803.06978, §3.3): shrink to a random size, pad with zeros at random.

    The paper enlarges 299 to 330 pixels; a model of fixed input size needs the picture shrunk instead, as published
    implementations do.

    Attributes:
        probability: that a picture is transformed at all (p of the paper; 0.5).
        lowest: smallest side, as a share of the full one.
    """

    probability: float = 0.5
    lowest: float = 0.9

    def __post_init__(self) -> None:
        number("probability", self.probability, 0.0, 1.0)
        number("lowest", self.lowest, 0.0, 1.0, above_low=True)

    def draw(self, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
        return _uniform(generators, 4, like)

    def apply(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        ratio = self.lowest + drawn[:, 1] * (1.0 - self.lowest)
        tall = (ratio * height).round().clamp(min=1)
        wide = (ratio * width).round().clamp(min=1)
        top = (drawn[:, 2] * (height - tall + 1)).floor().clamp(max=height - 1)
        left = (drawn[:, 3] * (width - wide + 1)).floor().clamp(max=width - 1)
        down = (2 * top + tall) / height - 1
        right = (2 * left + wide) / width - 1
        moved = _placed(pixels, tall / height, wide / width, down, right)
        return torch.where((drawn[:, 0] < self.probability).view(-1, 1, 1, 1), moved, pixels)

    def describe(self) -> dict:
        return {"transform": "diversity", "probability": self.probability, "lowest": self.lowest}


@strict_options
@dataclass(frozen=True, kw_only=True)
class Noise(InputTransform):
    """Gaussian noise of standard deviation `sigma` in pixel units: EOT through randomised smoothing.

    The noisy picture is not clamped, as in smoothing (Cohen et al. 2019).
    """

    sigma: float = 8 / 255

    def __post_init__(self) -> None:
        number("sigma", self.sigma, 0.0)

    def draw(self, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
        shape = like.shape[1:]
        return torch.stack([torch.randn(shape, generator=g, dtype=like.dtype) for g in generators]).to(like.device)

    def apply(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return pixels + self.sigma * drawn

    def describe(self) -> dict:
        return {"transform": "noise", "sigma": self.sigma}


@strict_options
@dataclass(frozen=True, kw_only=True)
class Pose(InputTransform):
    """Rotation, scale, shift and brightness (Athalye et al. 2018, "Synthesizing robust adversarial examples", §3).

    Attributes:
        degrees: largest rotation either way. scale: largest relative change of size. shift: largest shift, as a share
            of the side. brightness: largest additive change of all pixel values. What comes into view is black.
    """

    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    brightness: float = 0.05

    def __post_init__(self) -> None:
        number("degrees", self.degrees, 0.0, 180.0)
        number("scale", self.scale, 0.0, 0.9)
        number("shift", self.shift, 0.0, 1.0)
        number("brightness", self.brightness, 0.0, 1.0)

    def draw(self, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
        return _uniform(generators, 5, like)

    def apply(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        signed = 2 * drawn - 1
        scale = 1 + self.scale * signed[:, 1]
        down, right = (2 * self.shift * signed[:, 2], 2 * self.shift * signed[:, 3])
        angle = math.radians(self.degrees) * signed[:, 0]
        moved = _placed(pixels, scale, scale, down, right, angle)
        return (moved + self.brightness * signed[:, 4].view(-1, 1, 1, 1)).clamp(0, 1)

    def describe(self) -> dict:
        names = ("degrees", "scale", "shift", "brightness")
        return {"transform": "pose"} | {name: getattr(self, name) for name in names}


def _placed(
    pixels: torch.Tensor,
    tall: torch.Tensor,
    wide: torch.Tensor,
    down: torch.Tensor,
    right: torch.Tensor,
    angle: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the picture scaled by `tall` and `wide`, turned, centred at (down, right) in [−1, 1], zeros around it."""
    angle = torch.zeros_like(tall) if angle is None else angle
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [cos / wide, sin / wide, -(cos * right + sin * down) / wide]
    rows += [-sin / tall, cos / tall, (sin * right - cos * down) / tall]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
