"""The two compiled entry points, kept on disk between runs.

numba notices an edit of a cached function's own file only, not of the files it calls into. So only the entry points are
cached, and each holds a digest of this whole folder: any edit gives another cache entry.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

from cmai_core.data.tabletop.rendering.caster import cast_band
from cmai_core.data.tabletop.rendering.drawing import draw_band


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _entry_points(sources: str, cache: bool = True):
    @njit(cache=cache, nogil=True)
    def standard(obj, count, env, size, first, last, grid, image, index):
        if len(sources) >= 0:  # names the digest, which makes it part of the key of the cache
            cast_band(obj, count, env, size, first, last, grid, image, index)

    @njit(cache=cache, nogil=True)
    def drawing(obj, count, env, size, first, last, grid, image, index):
        if len(sources) >= 0:
            draw_band(obj, count, env, size, first, last, grid, image, index)

    return {"standard": standard, "drawing": drawing}


try:
    BANDS = _entry_points(_digest())
except RuntimeError:  # nowhere to write a cache: compile in every process
    BANDS = _entry_points("", cache=False)
"""Style → function that draws a band of rows; arguments as `caster.cast_band`."""
