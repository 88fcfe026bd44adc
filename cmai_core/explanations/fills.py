"""What takes the place of removed image content: a baseline for integrated gradients, a fill for deletion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from cmai_core.errors import OptionError

FILLS = ("grey", "blur", "mean")


def fill_image(pixels: torch.Tensor, kind: str) -> torch.Tensor:
    """Return an image of the same shape (N×3×S×S, values in [0, 1]) without the content.

    Args:
        kind: "grey": 0.5 everywhere; "mean": each image's own mean colour; "blur": a Gaussian blur with a standard
            deviation of a tenth of the image's side, which keeps colours and light and loses shapes.

    Raises:
        OptionError: another kind.
    """
    if kind == "grey":
        return torch.full_like(pixels, 0.5)
    if kind == "mean":
        return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels).clone()
    if kind == "blur":
        return gaussian_blur(pixels, 0.1 * min(pixels.shape[2:]))
    raise OptionError(f"Unknown fill {kind!r}.", f"Choose from {', '.join(FILLS)}.")


def gaussian_blur(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur by a separable Gaussian with edges repeated; cut off at three standard deviations."""
    radius = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, -1)
    x = F.pad(pixels, (radius,) * 4, mode="replicate")
    x = F.conv2d(x, kernel.unsqueeze(2), groups=pixels.shape[1])
    return F.conv2d(x, kernel.unsqueeze(3), groups=pixels.shape[1])
