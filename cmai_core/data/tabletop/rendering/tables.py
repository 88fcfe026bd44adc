"""Table materials: muted procedural textures in linear RGB, so that the eight object colours stand out on all."""

from __future__ import annotations

import math

from numba import njit

from cmai_core.data.tabletop.rendering import textures
from cmai_core.data.tabletop.rendering.noise import hash01

TABLES = (
    "oak",
    "walnut",
    "checker cloth",
    "marble",
    "felt",
    "concrete",
    "linen",
    "slate",
    "terrazzo",
    "hexagon tiles",
    "striped cloth",
)
TRAIN_TABLES = (0, 1, 2, 3, 4, 5, 6, 7)
SHIFT_TABLES = (8, 9, 10)

TABLE_RADIUS = 7.0
"""The table is a round disc of this radius, in table units."""


@njit(nogil=True)
def table_gloss(table):
    """Reflectance of the table at normal incidence (0: none)."""
    if table == 3:
        return 0.07
    if table == 1 or table == 9:
        return 0.045
    if table == 0 or table == 8:
        return 0.03
    if table == 7:
        return 0.035
    return 0.0


@njit(nogil=True)
def _texture(table, u, v, seed, width, hue):
    """Reflectance of a table (number of TABLES) at (u, v). A list of functions cannot be compiled, so: one by one."""
    if table == 0:
        return textures.oak(u, v, seed, width, hue)
    if table == 1:
        return textures.walnut(u, v, seed, width, hue)
    if table == 2:
        return textures.checker_cloth(u, v, seed, width, hue)
    if table == 3:
        return textures.marble(u, v, seed, width, hue)
    if table == 4:
        return textures.felt(u, v, seed, width, hue)
    if table == 5:
        return textures.concrete(u, v, seed, width, hue)
    if table == 6:
        return textures.linen(u, v, seed, width, hue)
    if table == 7:
        return textures.slate(u, v, seed, width, hue)
    if table == 8:
        return textures.terrazzo(u, v, seed, width, hue)
    if table == 9:
        return textures.hexagon_tiles(u, v, seed, width, hue)
    return textures.striped_cloth(u, v, seed, width, hue)


@njit(nogil=True)
def table_albedo(table, seed, x, y, width):
    """Reflectance (linear RGB, 0…1) of the table at (x, y); `width`: size of a pixel there, in table units."""
    angle = 6.2832 * hash01(seed, 1, 77)
    c = math.cos(angle)
    s = math.sin(angle)
    u = c * x + s * y + 40.0 * hash01(seed, 2, 77)
    v = -s * x + c * y + 40.0 * hash01(seed, 3, 77)
    hue = hash01(seed, 4, 77)
    tone = 0.86 + 0.28 * hash01(seed, 5, 77)
    r, g, b = _texture(table, u, v, seed, width, hue)
    return r * tone, g * tone, b * tone
