"""The compiled ray caster: one call draws a band of rows of one scene."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cmai_core.data.tabletop.rendering.backdrops import backdrop
from cmai_core.data.tabletop.rendering.noise import hash01
from cmai_core.data.tabletop.rendering.packing import (
    AMBIENT,
    AXES,
    BACK,
    BLUE,
    BOUND_R,
    BOUND_Z,
    CAMERA,
    COS,
    FILL,
    GREEN,
    KEY,
    LIGHT,
    LIGHT_U,
    LIGHT_V,
    OCC_R,
    OCC_Z,
    RADIUS,
    RED,
    SCALE,
    SEED,
    SHAPE,
    SHINY,
    SIN,
    SPREAD,
    TABLE,
    X,
    Y,
)
from cmai_core.data.tabletop.rendering.solids import MISS, RING, hit_solid, solid_normal
from cmai_core.data.tabletop.rendering.tables import TABLE_RADIUS, table_albedo, table_gloss

NO_OBJECT = 255
TABLE_HIT = -1
BACKDROP_HIT = -2


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def normal_at(obj, k, px, py, pz):
    """Outward unit normal of object k at a world point on its surface."""
    inverse = 1.0 / obj[k, RADIUS]
    c = obj[k, COS]
    s = obj[k, SIN]
    x = (px - obj[k, X]) * inverse
    y = (py - obj[k, Y]) * inverse
    nx, ny, nz = solid_normal(int(obj[k, SHAPE]), c * x + s * y, -s * x + c * y, pz * inverse)
    return c * nx - s * ny, s * nx + c * ny, nz


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
        gleam = seen * (1.5 * half**140.0 + 0.16 * half**22.0)
    schlick = grazing * grazing * grazing * grazing * grazing
    fr = 0.06 + 0.26 * cr
    fg = 0.06 + 0.26 * cg
    fb = 0.06 + 0.26 * cb
    return (
        0.74 * cr * lr + (fr + (0.75 - fr) * schlick) * mr + gleam * env[KEY],
        0.74 * cg * lg + (fg + (0.75 - fg) * schlick) * mg + gleam * env[KEY + 1],
        0.74 * cb * lb + (fb + (0.75 - fb) * schlick) * mb + gleam * env[KEY + 2],
    )


@njit(cache=True, nogil=True, inline="always")
def tone(x):
    """Linear up to 0.62, then a soft shoulder that never reaches 1."""
    return x if x < 0.62 else 0.62 + 0.38 * (1.0 - math.exp((0.62 - x) / 0.38))


@njit(cache=True, nogil=True, inline="always")
def encode(x):
    """Linear light in [0, 1] → 8-bit sRGB (IEC 61966-2-1), rounded."""
    x = min(1.0, max(0.0, x))
    y = 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1.0 / 2.4) - 0.055
    return np.uint8(255.0 * y + 0.5)


@njit(cache=True, nogil=True)
def majority(a, b, c, d):
    """The object that covers at least half of a pixel's four samples (the first of two equals), else NO_OBJECT."""
    for k in (a, b, c):
        if k >= 0 and (k == a) + (k == b) + (k == c) + (k == d) >= 2:
            return np.uint8(k)
    return np.uint8(NO_OBJECT)


@njit(cache=True, nogil=True)
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
                a = sx * scale
                b = sy * scale
                dx = a * env[AXES] + b * env[AXES + 3] + env[AXES + 6]
                dy = a * env[AXES + 1] + b * env[AXES + 4] + env[AXES + 7]
                dz = a * env[AXES + 2] + b * env[AXES + 5] + env[AXES + 8]
                k = 1.0 / math.sqrt(a * a + b * b + 1.0)
                dx *= k
                dy *= k
                dz *= k
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
                            other, u = nearest(obj, count, -9, qx, qy, 1e-3, dx, dy, -dz)
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
