"""Rays against the six solids, in a solid's own frame: unit radius, standing on z = 0, axis through the origin.

Convex solids are intersections of half-spaces and quadrics, solved in closed form; the ring (a torus lying flat) is
sphere-traced (Hart, "Sphere tracing", The Visual Computer 1996) inside its bounding slab.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SPHERE, CUBE, CYLINDER, CONE, PYRAMID, RING = range(6)

MISS = 1e30
CUBE_HALF = 0.77
CYLINDER_RADIUS = 0.80
CYLINDER_HEIGHT = 1.70
CONE_RADIUS = 0.90
CONE_HEIGHT = 2.00
PYRAMID_HALF = 0.78
PYRAMID_HEIGHT = 1.60
RING_MAJOR = 0.70
RING_MINOR = 0.30
BEVEL = 0.07

# Smallest sphere around each solid (height of centre, radius), and the sphere that stands for it in ambient occlusion.
BOUNDS = np.array(
    [
        [1.0, 1.0],
        [CUBE_HALF, CUBE_HALF * math.sqrt(3.0)],
        [CYLINDER_HEIGHT / 2, math.hypot(CYLINDER_RADIUS, CYLINDER_HEIGHT / 2)],
        [(CONE_HEIGHT**2 - CONE_RADIUS**2) / (2 * CONE_HEIGHT), (CONE_HEIGHT**2 + CONE_RADIUS**2) / (2 * CONE_HEIGHT)],
        [
            (PYRAMID_HEIGHT**2 - 2 * PYRAMID_HALF**2) / (2 * PYRAMID_HEIGHT),
            (PYRAMID_HEIGHT**2 + 2 * PYRAMID_HALF**2) / (2 * PYRAMID_HEIGHT),
        ],
        [RING_MINOR, RING_MAJOR + RING_MINOR],
    ]
)
OCCLUDERS = np.array([[1.0, 0.97], [0.78, 0.92], [0.82, 0.92], [0.55, 0.78], [0.55, 0.78], [0.28, 0.72]])


@njit(nogil=True)
def hit_solid(shape, ox, oy, oz, dx, dy, dz):
    """Distance along a unit direction to the first surface in front of the origin, or MISS."""
    if shape == SPHERE:
        cz = oz - 1.0
        b = ox * dx + oy * dy + cz * dz
        c = ox * ox + oy * oy + cz * cz - 1.0
        disc = b * b - c
        if disc <= 0.0:
            return MISS
        t = -b - math.sqrt(disc)
        return t if t > 0.0 else MISS
    if shape == RING:
        return _hit_ring(ox, oy, oz, dx, dy, dz)
    near = 0.0
    far = MISS
    if shape == CUBE:
        near, far = _slab(ox, dx, -CUBE_HALF, CUBE_HALF, near, far)
        near, far = _slab(oy, dy, -CUBE_HALF, CUBE_HALF, near, far)
        near, far = _slab(oz, dz, 0.0, 2.0 * CUBE_HALF, near, far)
    elif shape == CYLINDER:
        near, far = _slab(oz, dz, 0.0, CYLINDER_HEIGHT, near, far)
        a = dx * dx + dy * dy
        b = ox * dx + oy * dy
        c = ox * ox + oy * oy - CYLINDER_RADIUS * CYLINDER_RADIUS
        if a < 1e-12:
            if c > 0.0:
                return MISS
        else:
            disc = b * b - a * c
            if disc <= 0.0:
                return MISS
            root = math.sqrt(disc)
            near = max(near, (-b - root) / a)
            far = min(far, (-b + root) / a)
    elif shape == CONE:
        return _hit_cone(ox, oy, oz, dx, dy, dz)
    else:
        near, far = _half_space(oz, dz, 0.0, near, far, -1.0)
        slope = PYRAMID_HALF / PYRAMID_HEIGHT
        near, far = _half_space(ox + slope * oz, dx + slope * dz, PYRAMID_HALF, near, far, 1.0)
        near, far = _half_space(-ox + slope * oz, -dx + slope * dz, PYRAMID_HALF, near, far, 1.0)
        near, far = _half_space(oy + slope * oz, dy + slope * dz, PYRAMID_HALF, near, far, 1.0)
        near, far = _half_space(-oy + slope * oz, -dy + slope * dz, PYRAMID_HALF, near, far, 1.0)
    return near if 0.0 < near < far else MISS


@njit(nogil=True, inline="always")
def _slab(o, d, low, high, near, far):
    if abs(d) < 1e-12:
        return (near, far) if low <= o <= high else (MISS, -MISS)
    inverse = 1.0 / d
    t0 = (low - o) * inverse
    t1 = (high - o) * inverse
    return max(near, min(t0, t1)), min(far, max(t0, t1))


@njit(nogil=True, inline="always")
def _half_space(o, d, bound, near, far, sign):
    """Clips [near, far] to sign·(o + t·d) <= bound."""
    o = sign * o - bound
    d = sign * d
    if abs(d) < 1e-12:
        return (near, far) if o <= 0.0 else (MISS, -MISS)
    t = -o / d
    if d > 0.0:
        return near, min(far, t)
    return max(near, t), far


@njit(nogil=True)
def _hit_cone(ox, oy, oz, dx, dy, dz):
    k2 = (CONE_RADIUS / CONE_HEIGHT) ** 2
    z = oz - CONE_HEIGHT
    a = dx * dx + dy * dy - k2 * dz * dz
    b = ox * dx + oy * dy - k2 * z * dz
    c = ox * ox + oy * oy - k2 * z * z
    best = MISS
    disc = b * b - a * c
    if disc > 0.0 and abs(a) > 1e-9:
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            height = oz + t * dz
            if 0.0 < t < best and 0.0 <= height <= CONE_HEIGHT:
                best = t
    if dz > 1e-12:  # the flat base, seen from below (only by rays that start under the table: never a camera ray)
        t = -oz / dz
        x = ox + t * dx
        y = oy + t * dy
        if 0.0 < t < best and x * x + y * y <= CONE_RADIUS * CONE_RADIUS:
            best = t
    return best


@njit(nogil=True)
def _hit_ring(ox, oy, oz, dx, dy, dz):
    near, far = _slab(oz, dz, 0.0, 2.0 * RING_MINOR, 0.0, MISS)
    a = dx * dx + dy * dy
    if a > 1e-12:
        b = ox * dx + oy * dy
        outer = RING_MAJOR + RING_MINOR
        disc = b * b - a * (ox * ox + oy * oy - outer * outer)
        if disc <= 0.0:
            return MISS
        root = math.sqrt(disc)
        near = max(near, (-b - root) / a)
        far = min(far, (-b + root) / a)
    if near >= far:
        return MISS
    t = near
    for _ in range(40):
        x = ox + t * dx
        y = oy + t * dy
        z = oz + t * dz - RING_MINOR
        q = math.sqrt(x * x + y * y) - RING_MAJOR
        gap = math.sqrt(q * q + z * z) - RING_MINOR
        if gap < 1e-3:
            return t if t > 0.0 else MISS
        t += gap
        if t > far:
            return MISS
    return MISS


@njit(nogil=True)
def solid_normal(shape, x, y, z):
    """Outward unit normal at a surface point; edges are rounded a little so that they catch the light."""
    nx = 0.0
    ny = 0.0
    nz = 0.0
    if shape == SPHERE:
        nx, ny, nz = x, y, z - 1.0
    elif shape == CUBE:
        nx = _bevelled(x, CUBE_HALF)
        ny = _bevelled(y, CUBE_HALF)
        nz = _bevelled(z - CUBE_HALF, CUBE_HALF) if z > CUBE_HALF else 0.0
    elif shape == CYLINDER:
        rho = math.sqrt(x * x + y * y) + 1e-12
        side = max(0.0, (rho - CYLINDER_RADIUS) / BEVEL + 1.0)
        top = max(0.0, (z - CYLINDER_HEIGHT) / BEVEL + 1.0)
        nx, ny, nz = side * x / rho, side * y / rho, top
    elif shape == CONE:
        rho = math.sqrt(x * x + y * y) + 1e-12
        nx, ny, nz = x / rho, y / rho, CONE_RADIUS / CONE_HEIGHT
    elif shape == PYRAMID:
        difference = abs(x) - abs(y)
        share = min(1.0, max(0.0, 0.5 + 0.5 * difference / BEVEL))
        nx = math.copysign(share, x)
        ny = math.copysign(1.0 - share, y)
        nz = math.sqrt(nx * nx + ny * ny) * PYRAMID_HALF / PYRAMID_HEIGHT
    else:
        rho = math.sqrt(x * x + y * y) + 1e-12
        scale = (rho - RING_MAJOR) / rho
        nx, ny, nz = x * scale, y * scale, z - RING_MINOR
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@njit(nogil=True, inline="always")
def _bevelled(p, half):
    return math.copysign(max(0.0, (abs(p) - half) / BEVEL + 1.0), p)
