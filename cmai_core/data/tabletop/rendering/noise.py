"""Integer-hashed value noise in the plane: the same on every machine, no tables, no state."""

from __future__ import annotations

import math

from numba import njit


@njit(nogil=True, inline="always")
def hash01(ix, iy, seed):
    """Return a pseudo-random value in [0, 1) for a lattice point."""
    h = (ix * 374761393 + iy * 668265263 + seed * 362437) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 1103515245) & 0xFFFFFFFF
    h = h ^ (h >> 15)
    return h * (1.0 / 4294967296.0)


@njit(nogil=True)
def value_noise(x, y, seed):
    """Smooth noise in [0, 1], one cell per unit."""
    fx = math.floor(x)
    fy = math.floor(y)
    ix = int(fx)
    iy = int(fy)
    u = x - fx
    v = y - fy
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    a = hash01(ix, iy, seed)
    b = hash01(ix + 1, iy, seed)
    c = hash01(ix, iy + 1, seed)
    d = hash01(ix + 1, iy + 1, seed)
    return (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v


@njit(nogil=True)
def detail(x, y, seed, footprint):
    """Noise around 0 in [-0.5, 0.5] that fades out where a cell is smaller than the pixel's footprint (in cells)."""
    if footprint >= 1.2:
        return 0.0
    return (value_noise(x, y, seed) - 0.5) * min(1.0, 2.0 - footprint * (2.0 / 1.2))


@njit(nogil=True)
def fractal(x, y, seed, octaves, footprint):
    """Sum of `detail` over octaves, roughly in [-0.5, 0.5]."""
    total = 0.0
    weight = 0.5
    for k in range(octaves):
        total += weight * detail(x, y, seed + 17 * k, footprint)
        x = 2.03 * x + 19.7
        y = 2.03 * y + 7.3
        footprint *= 2.03
        weight *= 0.5
    return total
