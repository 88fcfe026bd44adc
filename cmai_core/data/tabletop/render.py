"""Pictures of Tabletop scenes.

An analytic ray caster compiled with numba: 2×2 samples a pixel, an area light with stratified soft shadows, ambient
occlusion, colour bleeding and one mirror bounce. Equal scenes give equal pixels whatever the number of threads or the
way a list is split, and the same release gives the same pixels: models are trained on them (`RENDERER_VERSION`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cmai_core.data.tabletop.rendering.backdrops import BACKDROPS, SHIFT_BACKDROPS, TRAIN_BACKDROPS
from cmai_core.data.tabletop.rendering.tables import SHIFT_TABLES, TABLES, TRAIN_TABLES
from cmai_core.data.tabletop.scene import Scene
from cmai_core.errors import OptionError

__all__ = [
    "BACKDROPS",
    "NO_OBJECT",
    "RENDERER_VERSION",
    "SHIFT_BACKDROPS",
    "SHIFT_TABLES",
    "STYLES",
    "TABLES",
    "TRAIN_BACKDROPS",
    "TRAIN_TABLES",
    "render",
    "render_with_masks",
]

RENDERER_VERSION = 1
"""Goes up whenever pixels change: cached pictures and trained models belong to one version."""

STYLES = ("standard", "drawing")
NO_OBJECT = 255
_BAND = 32


def render(
    scenes: Sequence[Scene], size: int = 128, *, style: str = "standard", threads: int | None = None
) -> np.ndarray:
    """Draws scenes.

    Args:
        scenes: any number of scenes.
        size: side of the square pictures in pixels, 32 to 1024.
        style: "standard" (shaded) or "drawing" (ink outlines and flat tones).
        threads: how many to use; all cores by default.

    Returns:
        uint8 N×size×size×3, sRGB.

    Raises:
        OptionError: for a size, style or number of threads out of range.
        DataError: for a scene with an unknown shape, colour, material, table or backdrop.
    """
    return render_with_masks(scenes, size, style=style, threads=threads)[0]


def render_with_masks(
    scenes: Sequence[Scene], size: int = 128, *, style: str = "standard", threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `render`, and which object each pixel shows.

    Returns:
        (uint8 N×size×size×3, uint8 N×size×size): the pictures, and per pixel the index into `scene.objects` of the
        object covering at least half of it, or NO_OBJECT (255).
    """
    from cmai_core.data.tabletop.rendering.compiled import BANDS
    from cmai_core.data.tabletop.rendering.packing import pack

    scenes = [scenes] if isinstance(scenes, Scene) else list(scenes)
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 32 <= size <= 1024:
        raise OptionError(f"A picture of {size!r} pixels cannot be drawn.", "Give a whole number from 32 to 1024.")
    if style not in STYLES:
        raise OptionError(f"There is no style {style!r}.", f"Use one of: {', '.join(STYLES)}.")
    if threads is not None and threads < 1:
        raise OptionError(f"{threads} threads cannot draw.", "Give a positive number, or None for all cores.")
    size = int(size)
    objects, counts, environments = pack(scenes)
    images = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    index = np.empty((len(scenes), size, size), dtype=np.uint8)
    grid = 4 if size <= 192 else 6

    def work(item):
        n, first = item
        last = min(first + _BAND, size)
        BANDS[style](objects[n], counts[n], environments[n], size, first, last, grid, images[n], index[n])

    items = [(n, first) for n in range(len(scenes)) for first in range(0, size, _BAND)]
    threads = min(threads or _cores(), max(1, len(items)))
    if threads == 1:
        for item in items:
            work(item)
    else:
        # The compiled code lets go of the interpreter lock, so plain threads use all cores (and survive a fork).
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, items))
    return images, index


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
