"""Pictures for the other parts."""

from __future__ import annotations

import numpy as np

import cmai_core as cmai


def noise():
    """Four labelled pictures of noise."""
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
    classes = ("red", "green", "blue")
    return cmai.InMemory(pictures, labels=["red", "green", "blue", "red"], classes=classes, name="noise")
