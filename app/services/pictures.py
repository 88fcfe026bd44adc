"""Pictures as data: URLs, cached by content: a rerun that shows the same picture does not compress it again."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cmai_core.lab.images import data_url, thumbnail

if TYPE_CHECKING:
    import numpy as np

CACHED = 512
MOST_BYTES = 3 * 256 * 256
"""Largest picture that is cached: those of the models' size are, whole photographs are not."""


def picture_url(image: np.ndarray, kind: str = "PNG", quality: int = 90, side: int = 0) -> str:
    """Return the data: URL of a uint8 H×W×3 picture, or of its thumbnail of `side` pixels."""
    if image.nbytes > MOST_BYTES:
        return data_url(thumbnail(image, side) if side else image, kind, quality)
    return _url(image.tobytes(), image.shape, kind, quality, side)


@lru_cache(maxsize=CACHED)
def _url(pixels: bytes, shape: tuple[int, ...], kind: str, quality: int, side: int) -> str:
    import numpy as np

    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    return data_url(thumbnail(image, side) if side else image, kind, quality)
