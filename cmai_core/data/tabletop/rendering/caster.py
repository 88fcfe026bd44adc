"""The ray caster: one call draws a band of rows of one scene."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cmai_core.data.tabletop.rendering.backdrops import backdrop
from cmai_core.data.tabletop.rendering.noise import hash01
from cmai_core.data.tabletop.rendering.packing import AMBIENT, BACK, CAMERA, SCALE, SEED, TABLE
from cmai_core.data.tabletop.rendering.shading import reflected, shade_object, shade_table
from cmai_core.data.tabletop.rendering.tables import table_gloss
from cmai_core.data.tabletop.rendering.tracing import BACKDROP_HIT, TABLE_HIT, camera_ray, nearest, visibility

NO_OBJECT = 255


@njit(nogil=True, inline="always")
def tone(x):
    """Linear up to 0.62, then a soft shoulder that never reaches 1."""
    return x if x < 0.62 else 0.62 + 0.38 * (1.0 - math.exp((0.62 - x) / 0.38))


@njit(nogil=True, inline="always")
def encode(x):
    """Linear light in [0, 1] → 8-bit sRGB (IEC 61966-2-1), rounded."""
    x = min(1.0, max(0.0, x))
    y = 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1.0 / 2.4) - 0.055
    return np.uint8(255.0 * y + 0.5)


@njit(nogil=True)
def majority(a, b, c, d):
    """Return the object that covers half of a pixel's four samples or more, the first of two; else NO_OBJECT."""
    for k in (a, b, c):
        if k >= 0 and (k == a) + (k == b) + (k == c) + (k == d) >= 2:
            return np.uint8(k)
    return np.uint8(NO_OBJECT)


@njit(nogil=True)
def cast_band(obj, count, env, size, first, last, grid, image, index):
    """Draws rows first…last−1 of a size×size picture into `image` (S×S×3 uint8) and `index` (S×S uint8)."""
    scale = env[SCALE]
    px = env[CAMERA]
    py = env[CAMERA + 1]
    pz = env[CAMERA + 2]
    gloss = table_gloss(int(env[TABLE]))
    seed = int(env[SEED])
    hits = np.empty(4, dtype=np.int64)
    for row in range(first, last):
        for column in range(size):
            red = 0.0
            green = 0.0
            blue = 0.0
            turn = 6.2831853 * hash01(column, row, seed)
            turn_cos = math.cos(turn)
            turn_sin = math.sin(turn)
            for sub in range(4):
                sx = (2.0 * column + 0.5 + (sub & 1)) / size - 1.0
                sy = 1.0 - (2.0 * row + 0.5 + (sub >> 1)) / size
                dx, dy, dz = camera_ray(env, sx, sy)
                which, t = nearest(obj, count, -9, px, py, pz, dx, dy, dz)
                hits[sub] = which
                if which == BACKDROP_HIT:
                    r, g, bl = backdrop(env[BACK : BACK + 6], sx, sy)
                else:
                    qx = px + t * dx
                    qy = py + t * dy
                    qz = pz + t * dz
                    width = t * scale * 2.0 / size
                    if which == TABLE_HIT:
                        width /= math.sqrt(max(0.05, -dz))
                        seen = visibility(obj, count, -1, env, qx, qy, 1e-3, grid, sub, turn_cos, turn_sin)
                        r, g, bl = shade_table(obj, count, env, qx, qy, width, seen)
                        if gloss > 0.0:
                            graze = 1.0 + dz
                            strength = gloss + (0.5 - gloss) * graze * graze * graze * graze * graze
                            other, _u = nearest(obj, count, -9, qx, qy, 1e-3, dx, dy, -dz)
                            if other >= 0:
                                mr, mg, mb = reflected(obj, count, -9, env, qx, qy, 1e-3, dx, dy, -dz, width)
                            else:
                                mr, mg, mb = 0.5 * env[AMBIENT], 0.5 * env[AMBIENT + 1], 0.5 * env[AMBIENT + 2]
                            r = r * (1.0 - strength) + strength * mr
                            g = g * (1.0 - strength) + strength * mg
                            bl = bl * (1.0 - strength) + strength * mb
                    else:
                        r, g, bl = shade_object(
                            obj, count, which, env, qx, qy, qz, dx, dy, dz, width, grid, sub, turn_cos, turn_sin
                        )
                red += tone(r)
                green += tone(g)
                blue += tone(bl)
            image[row, column, 0] = encode(0.25 * red)
            image[row, column, 1] = encode(0.25 * green)
            image[row, column, 2] = encode(0.25 * blue)
            index[row, column] = majority(hits[0], hits[1], hits[2], hits[3])
