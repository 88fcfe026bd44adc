"""The table's textures, one function each: reflectance (linear RGB) at a point.

All take (u, v, seed, width, hue): the point in the texture's own axes, the scene's seed, the size of a pixel there, and
a random number in [0, 1) by which a texture chooses its colour. The order of the operations is part of the pixels,
which are frozen (`render.RENDERER_VERSION`).
"""

from __future__ import annotations

import math

from numba import njit

from cmai_core.data.tabletop.rendering.noise import detail, fractal, hash01, value_noise


@njit(nogil=True, inline="always")
def _mix(a0, a1, a2, b0, b1, b2, t):
    return a0 + (b0 - a0) * t, a1 + (b1 - a1) * t, a2 + (b2 - a2) * t


@njit(nogil=True)
def _wood(u, v, seed, width):
    """Planks along u: (grain 0 light … 1 dark, tone of the plank around 1, darkness of the gap)."""
    plank = math.floor(v / 1.7)
    inside = v / 1.7 - plank
    tone = hash01(int(plank), 5, seed)
    u = u + 11.0 * tone
    swirl = value_noise(0.22 * u, 0.9 * v + 9.0 * tone, seed)
    rings = 0.5 + 0.5 * math.sin(6.2832 * (1.5 * v + 2.4 * swirl))
    grain = 0.55 * rings * min(1.0, max(0.0, 1.6 - 3.0 * width)) + 0.45 * value_noise(0.7 * u, 4.0 * v, seed + 3)
    grain += 0.9 * detail(1.6 * u, 17.0 * v, seed + 7, 17.0 * width)
    edge = min(inside, 1.0 - inside) * 1.7
    gap = max(0.0, 1.0 - edge / (0.018 + 0.7 * width)) * 0.03 / (0.03 + 0.7 * width)
    return min(1.0, max(0.0, grain)), 0.88 + 0.24 * tone, gap


@njit(nogil=True, inline="always")
def _square_wave(x, width):
    """±1 square wave of period 2, box-filtered over `width`."""
    phase = x - 2.0 * math.floor(0.5 * x)
    distance = 0.5 - abs(phase - 1.0) if phase < 2.0 else -0.5
    ramp = distance * 2.0 / max(width * 2.0, 1e-3)
    return max(-1.0, min(1.0, ramp))


@njit(nogil=True)
def oak(u, v, seed, width, hue):
    """Light planks."""
    grain, plank, gap = _wood(u, v, seed, width)
    r, g, b = _mix(0.47, 0.345, 0.225, 0.33, 0.22, 0.132, grain)
    k = plank * (1.0 - 0.6 * gap)
    return r * k, g * k, b * k


@njit(nogil=True)
def walnut(u, v, seed, width, hue):
    """Dark planks."""
    grain, plank, gap = _wood(u, v, seed, width)
    r, g, b = _mix(0.150, 0.096, 0.066, 0.080, 0.050, 0.036, grain)
    k = plank * (1.0 - 0.5 * gap)
    return r * k, g * k, b * k


@njit(nogil=True)
def checker_cloth(u, v, seed, width, hue):
    """Squares in one of three pairs of colours, with the threads of the cloth."""
    wave = 0.5 + 0.5 * _square_wave(u / 1.1, width / 1.1) * _square_wave(v / 1.1, width / 1.1)
    if hue < 0.34:
        r, g, b = _mix(0.22, 0.26, 0.34, 0.46, 0.48, 0.50, wave)
    elif hue < 0.67:
        r, g, b = _mix(0.34, 0.25, 0.24, 0.50, 0.47, 0.44, wave)
    else:
        r, g, b = _mix(0.23, 0.27, 0.235, 0.47, 0.49, 0.455, wave)
    k = 1.0 + 0.3 * detail(14.0 * u, 14.0 * v, seed, 14.0 * width)
    return r * k, g * k, b * k


@njit(nogil=True)
def marble(u, v, seed, width, hue):
    """Clouds with thick and fine veins."""
    warp = 0.5 * detail(0.35 * u, 0.35 * v, seed + 1, 0.35 * width)
    warp += 0.3 * detail(0.50 * u + 0.41 * v, 0.50 * v - 0.41 * u, seed + 2, 0.65 * width)
    warp += 0.11 * detail(0.42 * u - 1.35 * v, 1.35 * u + 0.42 * v, seed + 3, 1.41 * width)
    cloud = value_noise(0.5 * u + 3.0 * warp, 0.5 * v, seed + 9)
    r, g, b = _mix(0.40, 0.405, 0.41, 0.50, 0.50, 0.495, cloud)
    thick = abs(math.sin(3.14159265 * (0.30 * u + 0.17 * v + 1.9 * warp)))
    fine = abs(math.sin(3.14159265 * (0.62 * v - 0.35 * u + 1.4 * warp + 0.7 * cloud)))
    vein = 0.62 * max(0.0, 1.0 - thick / (0.035 + 0.11 * cloud + 0.9 * width))
    vein = max(vein, 0.22 * max(0.0, 1.0 - fine / (0.05 + 1.6 * width)))
    return _mix(r, g, b, 0.15, 0.16, 0.18, vein)


@njit(nogil=True)
def felt(u, v, seed, width, hue):
    """One of four plain colours with a nap."""
    if hue < 0.25:
        r, g, b = 0.085, 0.115, 0.155
    elif hue < 0.5:
        r, g, b = 0.145, 0.105, 0.125
    elif hue < 0.75:
        r, g, b = 0.105, 0.125, 0.100
    else:
        r, g, b = 0.150, 0.150, 0.158
    k = 1.0 + 0.35 * fractal(2.0 * u, 2.0 * v, seed, 2, 2.0 * width)
    k += 0.5 * detail(16.0 * u, 16.0 * v, seed + 5, 16.0 * width)
    return r * k, g * k, b * k


@njit(nogil=True)
def concrete(u, v, seed, width, hue):
    """Grey blotches, with a pore in some of the cells."""
    k = 1.0 + 0.85 * fractal(0.7 * u, 0.7 * v, seed, 4, 0.7 * width)
    fx = math.floor(2.7 * u)
    fy = math.floor(2.7 * v)
    size = hash01(int(fx), int(fy), seed + 4) - 0.62
    if size > 0.0:
        px = 0.3 + 0.4 * hash01(int(fx), int(fy), seed + 5) - (2.7 * u - fx)
        py = 0.3 + 0.4 * hash01(int(fx), int(fy), seed + 6) - (2.7 * v - fy)
        edge = (0.06 + 0.3 * size - math.sqrt(px * px + py * py)) / max(2.7 * width, 0.05)
        k *= 1.0 - 0.30 * max(0.0, min(1.0, 0.5 + edge))
    return 0.335 * k, 0.330 * k, 0.318 * k


@njit(nogil=True)
def linen(u, v, seed, width, hue):
    """Return a coarse weave between two plain colours."""
    weave = detail(2.2 * u, 20.0 * v, seed, 20.0 * width) + detail(20.0 * u, 2.2 * v, seed + 1, 20.0 * width)
    k = 1.0 + 0.34 * weave + 0.3 * fractal(0.8 * u, 0.8 * v, seed + 6, 2, 0.8 * width)
    r, g, b = _mix(0.43, 0.385, 0.32, 0.40, 0.40, 0.39, hue)
    return r * k, g * k, b * k


@njit(nogil=True)
def slate(u, v, seed, width, hue):
    """Dark layers along u."""
    k = 1.0 + 1.3 * fractal(0.5 * u, 2.2 * v, seed, 4, 2.2 * width)
    return 0.112 * k, 0.126 * k, 0.142 * k


@njit(nogil=True)
def terrazzo(u, v, seed, width, hue):
    """Chips of three colours: the nearest of random centres, one in each cell of a grid."""
    r, g, b = 0.47, 0.45, 0.43
    best = 9.0
    which = 0.0
    fx = math.floor(2.6 * u)
    fy = math.floor(2.6 * v)
    for j in range(-1, 2):
        for i in range(-1, 2):
            cx = fx + i
            cy = fy + j
            px = cx + hash01(int(cx), int(cy), seed) - 2.6 * u
            py = cy + hash01(int(cx), int(cy), seed + 1) - 2.6 * v
            size = hash01(int(cx), int(cy), seed + 2)
            d = math.sqrt(px * px + py * py) - 0.42 * size
            if d < best:
                best = d
                which = hash01(int(cx), int(cy), seed + 3)
    chip = max(0.0, min(1.0, 0.5 - best / max(2.6 * width, 0.02)))
    if which < 0.33:
        return _mix(r, g, b, 0.16, 0.17, 0.18, chip)
    if which < 0.66:
        return _mix(r, g, b, 0.36, 0.24, 0.19, chip)
    return _mix(r, g, b, 0.24, 0.31, 0.29, chip)


@njit(nogil=True)
def hexagon_tiles(u, v, seed, width, hue):
    """Tiles of different shades: the nearest centre of two interleaved rectangular lattices, cells of height 1.25."""
    scale = 0.8
    p = u * scale
    q = v * scale
    ax = p - math.floor(p + 0.5)
    ay = q - 1.7320508 * math.floor(q / 1.7320508 + 0.5)
    bx = p - 0.5 - math.floor(p)
    by = q - 0.8660254 - 1.7320508 * math.floor(q / 1.7320508)
    if ax * ax + ay * ay > bx * bx + by * by:
        ax, ay = bx, by
    cell = hash01(math.floor(2.0 * (p - ax) + 0.5), math.floor(2.0 * (q - ay) / 1.7320508 + 0.5), seed)
    ex = abs(ax)
    ey = abs(ay)
    edge = 0.5 - max(ex, 0.5 * ex + 0.8660254 * ey)
    grout = max(0.0, min(1.0, 1.0 - (edge - 0.025) / max(0.7 * width, 0.015)))
    k = 0.8 + 0.4 * cell
    return _mix(0.24 * k, 0.29 * k, 0.31 * k, 0.50, 0.49, 0.47, grout)


@njit(nogil=True)
def striped_cloth(u, v, seed, width, hue):
    """Broad stripes with fine ones in them."""
    wave = 0.5 + 0.5 * _square_wave(u / 0.55, width / 0.55)
    thin = 0.5 + 0.5 * _square_wave(u / 0.1375, width / 0.1375)
    r, g, b = _mix(0.47, 0.44, 0.38, 0.20, 0.235, 0.28, wave * (0.65 + 0.35 * thin))
    k = 1.0 + 0.3 * detail(14.0 * u, 14.0 * v, seed, 14.0 * width)
    return r * k, g * k, b * k
