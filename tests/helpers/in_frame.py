"""Where a scene's points and objects lie in its picture, from the camera alone: nothing is rendered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cmai_core.data.tabletop.rendering.camera import camera_basis
from cmai_core.data.tabletop.rendering.solids import BOUNDS
from cmai_core.data.tabletop.scene import SHAPES, Environment, Scene


def project(points: Sequence[Sequence[float]], environment: Environment) -> np.ndarray:
    """Points K×3 (table units) → K×2 screen coordinates: x right, y up, both in [-1, 1] inside the (square) picture."""
    position, basis = camera_basis(environment)
    view = (np.asarray(points, dtype=float).reshape(-1, 3) - position) @ basis.T
    return view[:, :2] / (view[:, 2:3] * math.tan(environment.fov / 2))


def fits_frame(scene: Scene, margin: float = 0.0) -> bool:
    """Whether every object lies wholly inside the picture, `margin` (in half picture widths) away from its border."""
    position, basis = camera_basis(scene.environment)
    scale = math.tan(scene.environment.fov / 2)
    for o in scene.objects:
        height, radius = BOUNDS[SHAPES.index(o.shape)] * o.radius
        view = basis @ (np.array([o.x, o.y, height]) - position)
        # Half-angle test against the four side planes of the frustum: exact for the bounding sphere.
        reach = radius * math.hypot(1.0, scale)
        if np.max(np.abs(view[:2])) + reach > view[2] * scale * (1.0 - margin):
            return False
    return True
