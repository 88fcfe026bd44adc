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
def _paper_table(obj, count, env, tone, qx, qy, sx, sy):
    """Return the table's plain tone, hatched where an object shades it."""
    r = 0.45 * PAPER[0] + 0.75 * tone[0]
    g = 0.45 * PAPER[1] + 0.75 * tone[1]
    b = 0.45 * PAPER[2] + 0.75 * tone[2]
    if _blocked(obj, count, -1, env, qx, qy, 1e-3):
        stripe = 13.0 * (sx + sy)
        k = 0.42 if stripe - math.floor(stripe) < 0.42 else 0.74
        r *= k
        g *= k
        b *= k
    return r, g, b


@njit(nogil=True)
def _object_tone(obj, count, env, which, q, n, d, sx, sy):
    """One of an object's three tones at the point q with the normal n, seen along d; shiny ones with a gleam."""
    facing = n[0] * env[LIGHT] + n[1] * env[LIGHT + 1] + n[2] * env[LIGHT + 2]
    lift = 2e-3
    lit = facing > 0.12 and not _blocked(
        obj, count, which, env, q[0] + lift * n[0], q[1] + lift * n[1], q[2] + lift * n[2]
    )
    k = 0.52
    if lit:
        k = 1.0 if facing > 0.55 else 0.78
    r = obj[which, RED] * k
    g = obj[which, GREEN] * k
    b = obj[which, BLUE] * k
    if obj[which, SHINY] > 0.5:
        hx = env[LIGHT] - d[0]
        hy = env[LIGHT + 1] - d[1]
        hz = env[LIGHT + 2] - d[2]
        half = (n[0] * hx + n[1] * hy + n[2] * hz) / math.sqrt(hx * hx + hy * hy + hz * hz)
        sheen = 0.5 * (sx + 0.35 * sy) * 11.0
        sheen -= math.floor(sheen)
        if lit and half > 0.975:
            r, g, b = 0.97, 0.97, 0.97
        elif n[2] < 0.9 and sheen < 0.16:
            r = 0.65 * r + 0.35
            g = 0.65 * g + 0.35
            b = 0.65 * b + 0.35
    return r, g, b


@njit(nogil=True, inline="always")
def _sample(obj, count, env, tone, offset, sx, sy):
    """Colour at a point of the screen, and what it shows (an object's number, TABLE_HIT or BACKDROP_HIT)."""
    px = env[CAMERA]
    py = env[CAMERA + 1]
    pz = env[CAMERA + 2]
    dx, dy, dz = camera_ray(env, sx, sy)
    which, t = nearest(obj, count, -9, px, py, pz, dx, dy, dz)
    nx = 0.0
    ny = 0.0
    nz = 1.0
    qx = px + t * dx
    qy = py + t * dy
    qz = pz + t * dz
    if which >= 0:
        nx, ny, nz = normal_at(obj, which, qx, qy, qz)
    if _outlined(obj, count, env, which, t, nx, ny, nz, sx, sy, offset):
        return INK[0], INK[1], INK[2], which
    if which == BACKDROP_HIT:
        return PAPER[0], PAPER[1], PAPER[2], which
    if which == TABLE_HIT:
        r, g, b = _paper_table(obj, count, env, tone, qx, qy, sx, sy)
    else:
        r, g, b = _object_tone(obj, count, env, which, (qx, qy, qz), (nx, ny, nz), (dx, dy, dz), sx, sy)
    return r, g, b, which


@njit(nogil=True)
def draw_band(obj, count, env, size, first, last, grid, image, index):
    """Draw rows first…last−1 in line style; arguments as `caster.cast_band` (`grid` is not used)."""
    offset = 0.78 / 64.0
    tone = table_albedo(int(env[TABLE]), int(env[SEED]), 0.0, 0.0, 6.0)
    hits = np.empty(4, dtype=np.int64)
    for row in range(first, last):
        for column in range(size):
            red = 0.0
            green = 0.0
            blue = 0.0
            for sub in range(4):
                sx = (2.0 * column + 0.5 + (sub & 1)) / size - 1.0
                sy = 1.0 - (2.0 * row + 0.5 + (sub >> 1)) / size
                r, g, b, hits[sub] = _sample(obj, count, env, tone, offset, sx, sy)
                red += r
                green += g
                blue += b
            image[row, column, 0] = encode(0.25 * red)
            image[row, column, 1] = encode(0.25 * green)
            image[row, column, 2] = encode(0.25 * blue)
            index[row, column] = majority(hits[0], hits[1], hits[2], hits[3])
