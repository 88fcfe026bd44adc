"""Rays against a whole scene: what they meet, how much of the light and of the sky a point sees."""

from __future__ import annotations

import math

from numba import njit

from cmai_core.data.tabletop.rendering.packing import (
    AXES,
    BLUE,
    BOUND_R,
    BOUND_Z,
    COS,
    GREEN,
    LIGHT,
    LIGHT_U,
    LIGHT_V,
    OCC_R,
    OCC_Z,
    RADIUS,
    RED,
    SCALE,
    SHAPE,
    SIN,
    SPREAD,
    X,
    Y,
)
from cmai_core.data.tabletop.rendering.solids import MISS, RING, hit_solid, solid_normal
from cmai_core.data.tabletop.rendering.tables import TABLE_RADIUS

BACKDROP_HIT = -2
TABLE_HIT = -1


@njit(nogil=True)
def camera_ray(env, sx, sy):
    """Return the unit direction of the ray through screen position sx, sy in [-1, 1], y up."""
    a = sx * env[SCALE]
    b = sy * env[SCALE]
    k = 1.0 / math.sqrt(a * a + b * b + 1.0)
    return (
        k * (a * env[AXES] + b * env[AXES + 3] + env[AXES + 6]),
        k * (a * env[AXES + 1] + b * env[AXES + 4] + env[AXES + 7]),
        k * (a * env[AXES + 2] + b * env[AXES + 5] + env[AXES + 8]),
    )


@njit(nogil=True)
def hit_object(obj, k, px, py, pz, dx, dy, dz):
    """Distance to object k along a unit direction, or MISS; a bounding sphere spares most of the work."""
    cx = obj[k, X] - px
    cy = obj[k, Y] - py
    cz = obj[k, BOUND_Z] - pz
    along = cx * dx + cy * dy + cz * dz
    radius2 = obj[k, BOUND_R] * obj[k, BOUND_R]
    distance2 = cx * cx + cy * cy + cz * cz
    if distance2 - along * along > radius2 or (along < 0.0 and distance2 > radius2):
        return MISS
    r = obj[k, RADIUS]
    inverse = 1.0 / r
    c = obj[k, COS]
    s = obj[k, SIN]
    t = hit_solid(
        int(obj[k, SHAPE]),
        (-c * cx - s * cy) * inverse,
        (s * cx - c * cy) * inverse,
        pz * inverse,
        c * dx + s * dy,
        -s * dx + c * dy,
        dz,
    )
    return t * r if t < MISS else MISS


@njit(nogil=True)
def normal_at(obj, k, px, py, pz):
    """Outward unit normal of object k at a world point on its surface."""
    inverse = 1.0 / obj[k, RADIUS]
    c = obj[k, COS]
    s = obj[k, SIN]
    x = (px - obj[k, X]) * inverse
    y = (py - obj[k, Y]) * inverse
    nx, ny, nz = solid_normal(int(obj[k, SHAPE]), c * x + s * y, -s * x + c * y, pz * inverse)
    return c * nx - s * ny, s * nx + c * ny, nz


@njit(nogil=True)
def nearest(obj, count, skip, px, py, pz, dx, dy, dz):
    """(object or TABLE_HIT or BACKDROP_HIT, distance) of what a ray meets first."""
    best = MISS
    which = BACKDROP_HIT
    for k in range(count):
        if k == skip:
            continue
        t = hit_object(obj, k, px, py, pz, dx, dy, dz)
        if t < best:
            best = t
            which = k
    if dz < -1e-9:
        t = -pz / dz
        if 0.0 < t < best:
            x = px + t * dx
            y = py + t * dy
            if x * x + y * y < TABLE_RADIUS * TABLE_RADIUS:
                return TABLE_HIT, t
    return which, best


@njit(nogil=True)
def visibility(obj, count, own, env, px, py, pz, grid, sub, turn_cos, turn_sin):
    """Share of the area light that a point sees, by grid²/4 of grid² strata (those of sub-pixel `sub`)."""
    lx = env[LIGHT]
    ly = env[LIGHT + 1]
    lz = env[LIGHT + 2]
    spread = env[SPREAD]
    mask = 0
    for k in range(count):
        if k == own and int(obj[k, SHAPE]) != RING:
            continue
        cx = obj[k, X] - px
        cy = obj[k, Y] - py
        cz = obj[k, BOUND_Z] - pz
        along = cx * lx + cy * ly + cz * lz
        radius = obj[k, BOUND_R]
        if along < -radius:
            continue
        gap2 = cx * cx + cy * cy + cz * cz - along * along
        reach = radius * (1.0 + 0.5 * spread) + max(along, 0.0) * spread
        if gap2 < reach * reach:
            mask |= 1 << k
    if mask == 0:
        return 1.0
    half = grid // 2
    seen = 0
    for m in range(half):
        for n in range(half):
            # Concentric map of the stratum's centre (Shirley and Chiu 1997), turned by the pixel's own angle.
            a = 2.0 * ((sub & 1) + 2 * m + 0.5) / grid - 1.0
            b = 2.0 * ((sub >> 1) + 2 * n + 0.5) / grid - 1.0
            if abs(a) > abs(b):
                radius = a
                phi = 0.78539816 * b / a
            else:
                radius = b
                phi = 1.57079633 - 0.78539816 * (a / b)
            u = radius * math.cos(phi)
            v = radius * math.sin(phi)
            u, v = (turn_cos * u - turn_sin * v) * spread, (turn_sin * u + turn_cos * v) * spread
            dx = lx + u * env[LIGHT_U] + v * env[LIGHT_V]
            dy = ly + u * env[LIGHT_U + 1] + v * env[LIGHT_V + 1]
            dz = lz + u * env[LIGHT_U + 2] + v * env[LIGHT_V + 2]
            scale = 1.0 / math.sqrt(1.0 + u * u + v * v)
            blocked = False
            for k in range(count):
                if (mask >> k) & 1 and hit_object(obj, k, px, py, pz, dx * scale, dy * scale, dz * scale) < MISS:
                    blocked = True
                    break
            if not blocked:
                seen += 1
    return seen / (half * half)


@njit(nogil=True)
def occlusion(obj, count, own, px, py, pz, nx, ny, nz):
    """(share of the hemisphere left open, RGB of the light that the blocking objects throw back).

    Each other object counts as a sphere; cosine-weighted solid angle of a sphere as in I. Quilez, "Sphere ambient
    occlusion" (2008).
    """
    openness = 1.0
    red = 0.0
    green = 0.0
    blue = 0.0
    for k in range(count):
        if k == own:
            continue
        cx = obj[k, X] - px
        cy = obj[k, Y] - py
        cz = obj[k, OCC_Z] - pz
        radius2 = obj[k, OCC_R] * obj[k, OCC_R]
        d2 = cx * cx + cy * cy + cz * cz
        if d2 > 30.0 * radius2:
            continue
        d = math.sqrt(d2) + 1e-9
        facing = (nx * cx + ny * cy + nz * cz) / d
        if facing <= 0.0:
            continue
        covered = min(0.85, facing * radius2 / d2)
        openness *= 1.0 - covered
        red += covered * obj[k, RED]
        green += covered * obj[k, GREEN]
        blue += covered * obj[k, BLUE]
    return openness, red, green, blue
