"""Pictures as a model takes them: pixels in [0, 1], normalised inside, so that ε means the same for every model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cmai_core.errors import DataError
from cmai_core.models.core import ModelCore
from cmai_core.models.preprocess import preprocess


class ImageInput(ModelCore):
    """The side of a model that pictures go in by."""

    @property
    def image_size(self) -> int:
        """Side of the square picture that the model reads, in pixels."""
        return self._preprocessing.size

    @property
    def preprocess_config(self) -> Mapping[str, Any]:
        """How pictures are resized and normalised, as plain values; part of the address of stored results."""
        return dataclasses.asdict(self._preprocessing)

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches that the image tower cuts a picture into; None where it has none."""
        return None

    def preprocess(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Resize uint8 images H×W×3 of any sizes to float32 N×3×S×S in [0, 1] on the model's device."""
        way = self._preprocessing
        resize = {"interpolation": way.interpolation, "resize_mode": way.resize_mode, "fill": way.fill}
        return preprocess(images, way.size, **resize).to(self.device)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn pixels in [0, 1] into what the image tower reads.

        Raises:
            DataError: pixels that are not N×3×S×S.
        """
        size = self.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise DataError(
                f"Pixels {tuple(pixels.shape)} do not fit: {self.name} reads N×3×{size}×{size}.",
                "Use model.preprocess.",
            )
        mean, std = self._mean_and_std
        return (pixels - mean.to(pixels.device)) / std.to(pixels.device)

    def encode_image(self, pixels: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Return image embeddings N×D, of unit length if `normalize`."""
        features = self.image_features(pixels)
        return features.embedding if normalize else features.pooled

    @functools.cached_property
    def _mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the channels, each 3×1×1, on the CPU."""
        way = self._preprocessing
        return tuple(torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (way.mean, way.std))
