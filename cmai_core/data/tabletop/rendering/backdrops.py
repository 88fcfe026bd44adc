"""Backdrops: soft studio gradients behind the table, in screen space."""

from __future__ import annotations

import numpy as np
from numba import njit

BACKDROPS = ("dove", "dusk", "sand", "sage", "graphite", "mist", "plum", "teal night", "amber")
TRAIN_BACKDROPS = (0, 1, 2, 3, 4, 5)
SHIFT_BACKDROPS = (6, 7, 8)

# Linear RGB of the upper rim, of the glow in the middle.
BACKDROP_COLOURS = np.array(
    [
        [0.30, 0.31, 0.33, 0.62, 0.62, 0.62],
        [0.055, 0.075, 0.12, 0.22, 0.26, 0.34],
        [0.33, 0.28, 0.22, 0.64, 0.57, 0.48],
        [0.16, 0.20, 0.175, 0.40, 0.45, 0.40],
        [0.022, 0.024, 0.028, 0.11, 0.115, 0.125],
        [0.30, 0.36, 0.42, 0.66, 0.70, 0.74],
        [0.075, 0.030, 0.085, 0.30, 0.16, 0.30],
        [0.010, 0.045, 0.055, 0.06, 0.20, 0.21],
        [0.20, 0.095, 0.030, 0.62, 0.36, 0.16],
    ]
)


@njit(nogil=True, inline="always")
def backdrop(colours, sx, sy):
    """Radiance (linear RGB) at screen position sx, sy in [-1, 1], y up; `colours`: six values of BACKDROP_COLOURS."""
    dy = sy - 0.42
    glow = 1.0 / (1.0 + 1.1 * sx * sx + 3.2 * dy * dy)
    glow = glow * glow
    return (
        colours[0] + (colours[3] - colours[0]) * glow,
        colours[1] + (colours[4] - colours[1]) * glow,
        colours[2] + (colours[5] - colours[2]) * glow,
    )
