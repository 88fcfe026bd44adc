"""Scenes as the plain arrays that the compiled ray caster reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cmai_core.data.tabletop.rendering.backdrops import BACKDROP_COLOURS, BACKDROPS
from cmai_core.data.tabletop.rendering.camera import camera_basis
from cmai_core.data.tabletop.rendering.solids import BOUNDS, OCCLUDERS
from cmai_core.data.tabletop.rendering.tables import TABLES
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, Scene
from cmai_core.errors import DataError

PALETTE = {
    "red": "#d42a34",
    "orange": "#f57c14",
    "yellow": "#f6d52a",
    "green": "#2f9e48",
    "cyan": "#37c6d6",
    "blue": "#2450c4",
    "purple": "#8a3fc0",
    "white": "#f1f1ee",
}
"""Base colours of the objects (sRGB)."""

# Columns of the object array.
SHAPE, X, Y, RADIUS, COS, SIN, RED, GREEN, BLUE, SHINY, BOUND_Z, BOUND_R, OCC_Z, OCC_R = range(14)
OBJECT_WIDTH = 14
MOST_OBJECTS = 32

# Columns of the environment array.
CAMERA, AXES, SCALE, LIGHT, LIGHT_U, LIGHT_V, SPREAD = 0, 3, 12, 13, 16, 19, 22
KEY, AMBIENT, TABLE, SEED, BACK, FILL = 23, 26, 29, 30, 31, 37
ENVIRONMENT_WIDTH = 40


def to_linear(srgb):
    """Turn sRGB in [0, 1] into linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, dtype=float)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _hex(code: str) -> np.ndarray:
    return to_linear([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])


ALBEDO = np.stack([_hex(PALETTE[c]) for c in COLOURS])


def light_colour(warmth: float) -> np.ndarray:
    """Linear RGB of the key light for a warmth in [-1, 1]; the green channel and so the brightness stays about 1."""
    if warmth >= 0:
        return np.array([1.0 + 0.28 * warmth, 1.0 - 0.10 * warmth, 1.0 - 0.52 * warmth])
    return np.array([1.0 + 0.46 * warmth, 1.0 + 0.08 * warmth, 1.0 - 0.28 * warmth])


def pack(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects N×K×14, their numbers N, environments N×40 (float64).

    Raises:
        DataError: for a value outside SHAPES, COLOURS, MATERIALS, TABLES or BACKDROPS, more than 32 objects, a number
            that is not finite, or a camera under the table.
    """
    most = max((len(s.objects) for s in scenes), default=0)
    objects = np.zeros((len(scenes), max(most, 1), OBJECT_WIDTH))
    counts = np.zeros(len(scenes), dtype=np.int64)
    environments = np.zeros((len(scenes), ENVIRONMENT_WIDTH))
    for n, scene in enumerate(scenes):
        counts[n] = len(scene.objects)
        for k, o in enumerate(scene.objects):
            objects[n, k] = _object_row(o)
        environments[n] = _environment_row(scene.environment)
    if most > MOST_OBJECTS:
        raise DataError(f"A scene has {most} objects.", f"At most {MOST_OBJECTS} can be drawn.")
    if not (np.isfinite(objects).all() and np.isfinite(environments).all()):
        raise DataError("A scene holds a number that is not finite.", "Check its places, angles and light.")
    return objects, counts, environments


def _index(value, names: tuple[str, ...], what: str) -> int:
    try:
        return names.index(value)
    except ValueError:
        raise DataError(f"There is no {what} {value!r} in Tabletop.", f"Use one of: {', '.join(names)}.") from None


def _object_row(o) -> list[float]:
    shape = _index(o.shape, SHAPES, "shape")
    shiny = _index(o.material, MATERIALS, "material")
    colour = np.clip(ALBEDO[_index(o.colour, COLOURS, "colour")] + np.asarray(o.tint, dtype=float), 0.004, 0.95)
    r = o.radius
    bounds, occluder = BOUNDS[shape] * r, OCCLUDERS[shape] * r
    return [shape, o.x, o.y, r, math.cos(o.yaw), math.sin(o.yaw), *colour, shiny, *bounds, *occluder]


def _environment_row(e) -> np.ndarray:
    if not 0 <= e.table < len(TABLES):
        raise DataError(f"Table {e.table} is not one of the {len(TABLES)} tables.", f"Use 0 to {len(TABLES) - 1}.")
    if not 0 <= e.background < len(BACKDROPS):
        raise DataError(f"Backdrop {e.background} is not one of {len(BACKDROPS)}.", f"Use 0 to {len(BACKDROPS) - 1}.")
    if not (0.05 <= e.camera_elevation <= 1.55 and e.camera_distance >= 3.0 and 0.05 <= e.fov <= 2.0):
        raise DataError(
            f"Camera (elevation {e.camera_elevation}, distance {e.camera_distance}, fov {e.fov}) cannot see the table.",
            "Use an elevation of 0.05 to 1.55 rad, a distance of at least 3 and a field of view of 0.05 to 2 rad.",
        )
    row = np.zeros(ENVIRONMENT_WIDTH)
    position, axes = camera_basis(e)
    row[CAMERA : CAMERA + 3] = position
    row[AXES : AXES + 9] = axes.ravel()
    row[SCALE] = math.tan(e.fov / 2)
    ce, se = math.cos(e.light_elevation), math.sin(e.light_elevation)
    ca, sa = math.cos(e.light_azimuth), math.sin(e.light_azimuth)
    row[LIGHT : LIGHT + 3] = ce * ca, ce * sa, se
    row[LIGHT_U : LIGHT_U + 3] = -sa, ca, 0.0
    row[LIGHT_V : LIGHT_V + 3] = -se * ca, -se * sa, ce
    row[SPREAD] = math.tan(min(max(e.light_size, 0.0), 0.6))
    colour = light_colour(e.light_warmth)
    row[KEY : KEY + 3] = colour * e.light_power
    # The sky keeps half the key's tint and leans the other way a little, as daylight shadows do.
    row[AMBIENT : AMBIENT + 3] = e.ambient * (0.65 + 0.35 * colour) * np.array([0.97, 1.0, 1.05])
    row[TABLE], row[SEED] = e.table, int(e.table_seed) & 0xFFFFFF
    brightness = 0.35 + 0.45 * e.light_power + 0.57 * e.ambient
    row[BACK : BACK + 6] = BACKDROP_COLOURS[e.background] * brightness * np.tile(0.7 + 0.3 * colour, 2)
    # A weak fill light from over the viewer's shoulder, opposite to the key as the viewer sees it.
    right, toward = axes[0], position / np.linalg.norm(position)
    side = -1.0 if row[LIGHT : LIGHT + 3] @ right > 0 else 1.0
    fill = 0.8 * side * right + toward + np.array([0.0, 0.0, 0.25])
    row[FILL : FILL + 3] = fill / np.linalg.norm(fill)
    return row
