"""How much light the table and the objects send towards the viewer."""

from __future__ import annotations

import math

from numba import njit

from cmai_core.data.tabletop.rendering.packing import (
    AMBIENT,
    BACK,
    BLUE,
    FILL,
    GREEN,
    KEY,
    LIGHT,
    RADIUS,
    RED,
    SEED,
    SHAPE,
    SHINY,
    TABLE,
)
from cmai_core.data.tabletop.rendering.solids import MISS, RING
from cmai_core.data.tabletop.rendering.tables import TABLE_RADIUS, table_albedo
from cmai_core.data.tabletop.rendering.tracing import (
    BACKDROP_HIT,
    TABLE_HIT,
    hit_object,
    nearest,
    normal_at,
    occlusion,
    visibility,
)


@njit(nogil=True)
def studio(env, dx, dy, dz):
    """Radiance of the surroundings as reflected in objects: a gradient, a soft box at the key light, a strip light."""
    up = max(0.0, dz)
    low = 0.55
    r = env[BACK + 3] * low + (env[AMBIENT] * 1.9 - env[BACK + 3] * low) * up
    g = env[BACK + 4] * low + (env[AMBIENT + 1] * 1.9 - env[BACK + 4] * low) * up
    b = env[BACK + 5] * low + (env[AMBIENT + 2] * 1.9 - env[BACK + 5] * low) * up
    box = dx * env[LIGHT] + dy * env[LIGHT + 1] + dz * env[LIGHT + 2]
    box = min(1.0, max(0.0, (box - 0.90) * 18.0))
    strip = dx * env[FILL] + dy * env[FILL + 1] + dz * env[FILL + 2]
    strip = min(1.0, max(0.0, (strip - 0.80) * 8.0)) * 0.45
    light = box * 1.3 + strip
    return r + light * env[KEY], g + light * env[KEY + 1], b + light * env[KEY + 2]


@njit(nogil=True)
def shade_table(obj, count, env, px, py, width, seen):
    """Radiance of the table at (px, py) without its mirror reflection."""
    r, g, b = table_albedo(int(env[TABLE]), int(env[SEED]), px, py, width)
    openness, br, bg, bb = occlusion(obj, count, -1, px, py, 0.0, 0.0, 0.0, 1.0)
    rho2 = (px * px + py * py) / (TABLE_RADIUS * TABLE_RADIUS)
    fall = 1.0 - 0.30 * rho2
    key = seen * env[LIGHT + 2] * fall
    soft = (0.25 + 0.75 * openness) * 1.12 * fall
    r *= env[KEY] * key + env[AMBIENT] * soft + 0.30 * br * env[KEY]
    g *= env[KEY + 1] * key + env[AMBIENT + 1] * soft + 0.30 * bg * env[KEY + 1]
    b *= env[KEY + 2] * key + env[AMBIENT + 2] * soft + 0.30 * bb * env[KEY + 2]
    rim = TABLE_RADIUS - math.sqrt(px * px + py * py)
    if rim < 0.16:
        k = 1.28 if rim > 0.05 else 0.62
        r *= k
        g *= k
        b *= k
    return r, g, b


@njit(nogil=True)
def diffuse_light(obj, count, own, env, px, py, pz, nx, ny, nz, seen):
    """Light arriving at a point on an object: key, sky, bounce off the table and the other objects, fill."""
    facing = max(0.0, nx * env[LIGHT] + ny * env[LIGHT + 1] + nz * env[LIGHT + 2])
    fill = max(0.0, nx * env[FILL] + ny * env[FILL + 1] + nz * env[FILL + 2]) * 0.16
    key = facing * seen + fill
    openness, br, bg, bb = occlusion(obj, count, own, px, py, pz, nx, ny, nz)
    sky = 0.5 + 0.5 * nz
    height = min(1.0, pz / (0.9 * obj[own, RADIUS]))
    ground = (1.0 - sky) * (0.22 + 0.30 * height)
    soft = (sky * (0.62 + 0.38 * height) + ground) * (0.2 + 0.8 * openness) * 1.15
    r = env[KEY] * (key + 0.25 * br) + env[AMBIENT] * soft
    g = env[KEY + 1] * (key + 0.25 * bg) + env[AMBIENT + 1] * soft
    b = env[KEY + 2] * (key + 0.25 * bb) + env[AMBIENT + 2] * soft
    return r, g, b


@njit(nogil=True)
def reflected(obj, count, own, env, px, py, pz, dx, dy, dz, width):
    """Radiance seen along a mirror ray, itself shaded simply (one shadow ray)."""
    skip = own
    if own >= 0 and int(obj[own, SHAPE]) == RING:
        skip = -9
    which, t = nearest(obj, count, skip, px, py, pz, dx, dy, dz)
    if which == BACKDROP_HIT:
        return studio(env, dx, dy, dz)
    qx = px + t * dx
    qy = py + t * dy
    qz = pz + t * dz
    if which == TABLE_HIT:
        seen = 1.0
        for k in range(count):
            if hit_object(obj, k, qx, qy, 1e-3, env[LIGHT], env[LIGHT + 1], env[LIGHT + 2]) < MISS:
                seen = 0.0
                break
        return shade_table(obj, count, env, qx, qy, width * 2.0, seen)
    nx, ny, nz = normal_at(obj, which, qx, qy, qz)
    r, g, b = diffuse_light(obj, count, which, env, qx, qy, qz, nx, ny, nz, 1.0)
    return r * obj[which, RED], g * obj[which, GREEN], b * obj[which, BLUE]


@njit(nogil=True)
def shade_object(obj, count, k, env, px, py, pz, dx, dy, dz, width, grid, sub, turn_cos, turn_sin):
    """Radiance that object k sends towards the viewer from a point on it; (dx, dy, dz) is the viewing ray."""
    nx, ny, nz = normal_at(obj, k, px, py, pz)
    lift = 2e-3
    qx = px + lift * nx
    qy = py + lift * ny
    qz = pz + lift * nz
    facing = nx * env[LIGHT] + ny * env[LIGHT + 1] + nz * env[LIGHT + 2]
    seen = 0.0
    if facing > 0.0:
        seen = visibility(obj, count, k, env, qx, qy, qz, grid, sub, turn_cos, turn_sin)
    lr, lg, lb = diffuse_light(obj, count, k, env, px, py, pz, nx, ny, nz, seen)
    cr = obj[k, RED]
    cg = obj[k, GREEN]
    cb = obj[k, BLUE]
    cosine = max(0.0, -(nx * dx + ny * dy + nz * dz))
    grazing = 1.0 - cosine
    if obj[k, SHINY] < 0.5:
        rim = 0.10 * grazing * grazing * grazing
        return (
            cr * lr + rim * env[AMBIENT] * (0.3 + 0.7 * cr),
            cg * lg + rim * env[AMBIENT + 1] * (0.3 + 0.7 * cg),
            cb * lb + rim * env[AMBIENT + 2] * (0.3 + 0.7 * cb),
        )
    along = 2.0 * (nx * dx + ny * dy + nz * dz)
    rx = dx - along * nx
    ry = dy - along * ny
    rz = dz - along * nz
    mr, mg, mb = reflected(obj, count, k, env, qx, qy, qz, rx, ry, rz, width)
    hx = env[LIGHT] - dx
    hy = env[LIGHT + 1] - dy
    hz = env[LIGHT + 2] - dz
    half = max(0.0, (nx * hx + ny * hy + nz * hz) / math.sqrt(hx * hx + hy * hy + hz * hz))
    gleam = 0.0
    if facing > 0.0 and half > 0.7:
        gleam = seen * (1.7 * half**110.0 + 0.22 * half**24.0)
    schlick = grazing * grazing * grazing * grazing * grazing
    fr = 0.10 + 0.26 * cr
    fg = 0.10 + 0.26 * cg
    fb = 0.10 + 0.26 * cb
    body = 0.82 - 0.10 * min(cr, cg, cb)  # what is mirrored is not scattered: white loses most
    return (
        body * cr * lr + (fr + (0.75 - fr) * schlick) * mr + gleam * env[KEY],
        body * cg * lg + (fg + (0.75 - fg) * schlick) * mg + gleam * env[KEY + 1],
        body * cb * lb + (fb + (0.75 - fb) * schlick) * mb + gleam * env[KEY + 2],
    )
