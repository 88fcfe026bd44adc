"""The "drawing" style: ink outlines, three flat tones an object, hatched shadows on tinted paper."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cmai_core.data.tabletop.rendering.caster import encode, majority
from cmai_core.data.tabletop.rendering.packing import BLUE, CAMERA, GREEN, LIGHT, RADIUS, RED, SEED, SHAPE, SHINY, TABLE
from cmai_core.data.tabletop.rendering.solids import MISS, RING
from cmai_core.data.tabletop.rendering.tables import table_albedo
from cmai_core.data.tabletop.rendering.tracing import (
    BACKDROP_HIT,
    TABLE_HIT,
    camera_ray,
    hit_object,
    nearest,
    normal_at,
)

PAPER = (0.86, 0.83, 0.76)
INK = (0.020, 0.022, 0.034)


@njit(nogil=True)
def _blocked(obj, count, own, env, px, py, pz):
    for k in range(count):
        if k == own and int(obj[k, SHAPE]) != RING:
            continue
        if hit_object(obj, k, px, py, pz, env[LIGHT], env[LIGHT + 1], env[LIGHT + 2]) < MISS:
            return True
    return False


@njit(nogil=True)
def _outlined(obj, count, env, which, t, nx, ny, nz, sx, sy, offset):
    """Whether a contour or crease passes within `offset` (screen units) of a sample."""
    px = env[CAMERA]
    py = env[CAMERA + 1]
    pz = env[CAMERA + 2]
    for side in range(4):
        ax = sx + (offset if side == 0 else (-offset if side == 1 else 0.0))
        ay = sy + (offset if side == 2 else (-offset if side == 3 else 0.0))
        dx, dy, dz = camera_ray(env, ax, ay)
        other, u = nearest(obj, count, -9, px, py, pz, dx, dy, dz)
        if other != which:
            return True
        if which >= 0:
            mx, my, mz = normal_at(obj, which, px + u * dx, py + u * dy, pz + u * dz)
            if nx * mx + ny * my + nz * mz < 0.80 or abs(u - t) > 0.45 * obj[which, RADIUS]:
                return True
    return False


@njit(nogil=True)
def draw_band(obj, count, env, size, first, last, grid, image, index):
    """Draws rows first…last−1 in line style; arguments as `caster.cast_band` (`grid` is not used)."""
    px = env[CAMERA]
    py = env[CAMERA + 1]
    pz = env[CAMERA + 2]
    offset = 0.78 / 64.0
    tr, tg, tb = table_albedo(int(env[TABLE]), int(env[SEED]), 0.0, 0.0, 6.0)
    hits = np.empty(4, dtype=np.int64)
    for row in range(first, last):
        for column in range(size):
            red = 0.0
            green = 0.0
            blue = 0.0
            for sub in range(4):
                sx = (2.0 * column + 0.5 + (sub & 1)) / size - 1.0
                sy = 1.0 - (2.0 * row + 0.5 + (sub >> 1)) / size
                dx, dy, dz = camera_ray(env, sx, sy)
                which, t = nearest(obj, count, -9, px, py, pz, dx, dy, dz)
                hits[sub] = which
                nx = 0.0
                ny = 0.0
                nz = 1.0
                qx = px + t * dx
                qy = py + t * dy
                qz = pz + t * dz
                if which >= 0:
                    nx, ny, nz = normal_at(obj, which, qx, qy, qz)
                if _outlined(obj, count, env, which, t, nx, ny, nz, sx, sy, offset):
                    r, g, b = INK
                elif which == BACKDROP_HIT:
                    r, g, b = PAPER
                elif which == TABLE_HIT:
                    r = 0.45 * PAPER[0] + 0.75 * tr
                    g = 0.45 * PAPER[1] + 0.75 * tg
                    b = 0.45 * PAPER[2] + 0.75 * tb
                    if _blocked(obj, count, -1, env, qx, qy, 1e-3):
                        stripe = 13.0 * (sx + sy)
                        k = 0.42 if stripe - math.floor(stripe) < 0.42 else 0.74
                        r *= k
                        g *= k
                        b *= k
                else:
                    facing = nx * env[LIGHT] + ny * env[LIGHT + 1] + nz * env[LIGHT + 2]
                    lift = 2e-3
                    lit = facing > 0.12 and not _blocked(
                        obj, count, which, env, qx + lift * nx, qy + lift * ny, qz + lift * nz
                    )
                    k = 0.52
                    if lit:
                        k = 1.0 if facing > 0.55 else 0.78
                    r = obj[which, RED] * k
                    g = obj[which, GREEN] * k
                    b = obj[which, BLUE] * k
                    if obj[which, SHINY] > 0.5:
                        hx = env[LIGHT] - dx
                        hy = env[LIGHT + 1] - dy
                        hz = env[LIGHT + 2] - dz
                        half = (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
                        sheen = 0.5 * (sx + 0.35 * sy) * 11.0
                        sheen -= math.floor(sheen)
                        if lit and half > 0.975:
                            r, g, b = 0.97, 0.97, 0.97
                        elif nz < 0.9 and sheen < 0.16:
                            r = 0.65 * r + 0.35
                            g = 0.65 * g + 0.35
                            b = 0.65 * b + 0.35
                red += r
                green += g
                blue += b
            image[row, column, 0] = encode(0.25 * red)
            image[row, column, 1] = encode(0.25 * green)
            image[row, column, 2] = encode(0.25 * blue)
            index[row, column] = majority(hits[0], hits[1], hits[2], hits[3])
