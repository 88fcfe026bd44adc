"""Changes made to every picture before a model sees it. Rounding has no useful gradient: attacks go around (BPDA)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from cmai_core.options import number, strict_options, whole

BLOCK = 8

# Quantisation steps of the JPEG standard (ITU-T T.81, tables K.1 and K.2), for quality 50 and values up to 255.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


class Preprocessing(Protocol):
    """Pixels N×3×H×W in [0, 1] → the same; each picture by itself."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor: ...

    def describe(self) -> dict: ...


@strict_options
@dataclass(frozen=True, kw_only=True)
class Quantise:
    """Pixel values rounded to `levels` evenly spaced ones (bit depth: Xu et al. 2018, arXiv 1704.01155).

    Attributes:
        levels: at least 2; 8 is three bits.
    """

    levels: int = 8

    def __post_init__(self) -> None:
        whole("levels", self.levels, 2)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        steps = self.levels - 1
        return (pixels.clamp(0, 1) * steps).round() / steps

    def describe(self) -> dict:
        return {"preprocessing": "quantise", "levels": self.levels}


@strict_options
@dataclass(frozen=True, kw_only=True)
class BlockCompression:
    """What JPEG loses: cosine transform of 8×8 blocks of luminance and chrominance, coefficients rounded.

    As a defence: Dziugaite et al. 2016, arXiv 1608.00853. Without subsampling of the chrominance and without entropy
    coding, which loses nothing; sides that are no multiple of 8 are continued with their last row or column.

    Attributes:
        quality: 1 to 100, as in libjpeg.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        whole("quality", self.quality, 1)
        number("quality", self.quality, 1.0, 100.0)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = pixels.shape
        forth, back = (m.to(pixels) for m in _colour_matrices())
        planes = torch.einsum("dc,nchw->ndhw", forth, pixels.clamp(0, 1) * 255)
        planes = F.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate") - 128 * _first(planes)
        tall, wide = planes.shape[-2] // BLOCK, planes.shape[-1] // BLOCK
        blocks = planes.view(count, channels, tall, BLOCK, wide, BLOCK).transpose(3, 4)
        basis = _cosines().to(pixels)
        steps = self._steps().to(pixels)[:, None, None]
        rounded = ((basis @ blocks @ basis.T) / steps).round() * steps
        restored = (basis.T @ rounded @ basis).transpose(3, 4).reshape(planes.shape) + 128 * _first(planes)
        colours = torch.einsum("dc,nchw->ndhw", back, restored[..., :height, :width])
        return (colours / 255).clamp(0, 1)

    def _steps(self) -> torch.Tensor:
        """Return 3×8×8, in units of 1/255."""
        scale = 5000 / self.quality if self.quality < 50 else 200 - 2 * self.quality
        tables = torch.tensor([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], dtype=torch.float64)
        return ((tables * scale + 50) / 100).floor().clamp(1, 255)

    def describe(self) -> dict:
        return {"preprocessing": "block compression", "quality": self.quality}


@functools.cache
def _colour_matrices() -> tuple[torch.Tensor, torch.Tensor]:
    """Return RGB → luminance and two chrominances centred at 0 (ITU-R BT.601), and back."""
    rows = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    forth = torch.tensor(rows, dtype=torch.float64)
    return forth, torch.linalg.inv(forth)


@functools.cache
def _cosines() -> torch.Tensor:
    """Return the orthonormal cosine transform of length 8 (DCT-II)."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _first(planes: torch.Tensor) -> torch.Tensor:
    """Return 1 for the luminance, 0 for the chrominances: only the former is shifted to be centred."""
    return torch.tensor([1.0, 0.0, 0.0], dtype=planes.dtype, device=planes.device).view(1, 3, 1, 1)
