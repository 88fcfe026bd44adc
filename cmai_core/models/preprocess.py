"""Images as people have them → the square of pixels that a model reads.

The result stays on the 8-bit lattice (k/255), like the image that a person sees, and is not normalised: mean and
standard deviation are applied inside the wrapper, so that ε means the same for every model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cmai_core.errors import DataError, ModelError


def preprocess(
    images: Sequence[np.ndarray],
    size: int,
    *,
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
    fill: int = 0,
) -> torch.Tensor:
    """Resize (antialiased, by Pillow) and crop to size×size: exactly what open_clip's evaluation transform does.

    Args:
        images: uint8 RGB arrays, H×W×3, of any sizes; or one array N×H×W×3.
        size: side of the result in pixels. An image that has it already passes unchanged.
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" (short side to `size`, centre crop), "squash" (both sides to `size`) or "longest" (long
            side to `size`, padded with `fill`).

    Returns:
        float32 N×3×size×size in [0, 1], every value a multiple of 1/255.

    Raises:
        DataError: not uint8 H×W×3, or an empty side.
        ModelError: a model asks for another interpolation or resize mode.
    """
    if interpolation not in ("bicubic", "bilinear"):
        raise ModelError(f"Interpolation {interpolation!r} is not supported.", "Use bicubic or bilinear.")
    if resize_mode not in ("shortest", "squash", "longest"):
        raise ModelError(f"Resize mode {resize_mode!r} is not supported.", "Use shortest, squash or longest.")
    for index, image in enumerate(images):
        _check(image, index)
    if all(image.shape[:2] == (size, size) for image in images):
        stacked = np.stack(list(images)) if len(images) else np.zeros((0, size, size, 3), np.uint8)
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
    else:
        pixels = torch.cat([_fit(image, size, interpolation, resize_mode, fill) for image in images])
    return pixels.to(torch.float32).div(255).contiguous()


def _check(image: np.ndarray, index: int) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"Image {index} is {found}, expected uint8 H×W×3.", "Convert it to 8-bit RGB first.")
    if 0 in image.shape:
        raise DataError(f"Image {index} is empty: {image.shape}.", "Give an image of at least one pixel.")


def _fit(image: np.ndarray, size: int, interpolation: str, resize_mode: str, fill: int) -> torch.Tensor:
    """One image, uint8 1×3×size×size."""
    height, width = image.shape[:2]
    if resize_mode == "squash":
        target = (size, size)
    elif resize_mode == "shortest":
        short = min(height, width)
        target = (int(size * height / short), int(size * width / short))
    else:
        scale = size / max(height, width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
    if target != (height, width):
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        image = np.array(Image.fromarray(image).resize((target[1], target[0]), filters[interpolation]))
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    if resize_mode == "longest":
        pad_left, pad_top = (size - target[1]) // 2, (size - target[0]) // 2
        pads = (pad_left, size - target[1] - pad_left, pad_top, size - target[0] - pad_top)
        return F.pad(pixels, pads, value=fill)
    return pixels[:, :, top : top + size, left : left + size]
