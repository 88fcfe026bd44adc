"""Images of any size to the square of pixels that a model reads.

The result stays on the 8-bit lattice (k/255), like the image that a person sees, and is not normalised: mean and
standard deviation are applied inside the model, so that ε means the same for every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cmai_core.errors import DataError, ModelError

_INTERPOLATIONS = ("bicubic", "bilinear")
_RESIZE_MODES = ("shortest", "squash", "longest")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SMALLEST, _LARGEST = 1e-4, 1e4


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Attributes:
        size: side of the square in pixels.
        mean, std: of the three channels, in units of [0, 1]; applied inside the model.
        interpolation, resize_mode, fill: see `preprocess`.
    """

    size: int
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Read open_clip's `preprocess_cfg`; keys that are missing or null have open_clip's defaults.

        Raises:
            ModelError: an impossible value: sides that differ, a list of another length than three, a standard
                deviation that is not positive, a value that is not finite, an unknown way to resize.
        """
        given = {key: value for key, value in config.items() if value is not None}
        interpolation = given.get("interpolation", "bicubic")
        resize_mode = given.get("resize_mode", "shortest")
        _check_way(interpolation, resize_mode)
        if given.get("mode", "RGB") != "RGB":
            raise ModelError(f"Pictures in the mode {given['mode']!r} are not supported.", "Use RGB.")
        return cls(
            _square(given.get("size", 224)),
            _channels("mean", given.get("mean", _MEAN), -_LARGEST),
            _channels("std", given.get("std", _STD), _SMALLEST),
            interpolation,
            resize_mode,
            _byte(given.get("fill_color", 0)),
        )


def _square(size: Any) -> int:
    sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= 4096 for side in sides)
    if len(sides) != 2 or not whole:
        raise ModelError(f"Pictures of the size {size!r} cannot be.", "Give a side from 1 to 4096 pixels.")
    if sides[0] != sides[1]:
        raise ModelError(
            f"The model reads pictures of {sides[0]}×{sides[1]} pixels; only squares are supported.",
            "Choose a model with square pictures.",
        )
    return sides[0]


def _channels(name: str, values: Any, low: float) -> tuple[float, ...]:
    is_list = isinstance(values, (list, tuple)) and len(values) == 3
    numbers = is_list and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numbers or not all(low <= v <= _LARGEST for v in values):
        shown = repr(values)[:80]
        raise ModelError(
            f"The {name} of the pictures' channels is {shown}.",
            f"Give three numbers from {low:g} to {_LARGEST:g}, for red, green and blue.",
        )
    return tuple(float(v) for v in values)


def _byte(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        raise ModelError(f"The fill colour is {value!r}.", "Give a whole number from 0 to 255.")
    return value


def _check_way(interpolation: Any, resize_mode: Any) -> None:
    if interpolation not in _INTERPOLATIONS:
        raise ModelError(f"Interpolation {interpolation!r} is not supported.", "Use bicubic or bilinear.")
    if resize_mode not in _RESIZE_MODES:
        raise ModelError(f"Resize mode {resize_mode!r} is not supported.", "Use shortest, squash or longest.")


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
    _check_way(interpolation, resize_mode)
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
    """Resize and crop one image: uint8 1×3×size×size."""
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
