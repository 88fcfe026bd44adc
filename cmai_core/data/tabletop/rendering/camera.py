"""The camera: a pinhole that looks at a point just above the origin, its axes agreeing with `Scene.ground_frame`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cmai_core.data.tabletop.rendering.solids import BOUNDS
from cmai_core.data.tabletop.scene import SHAPES, Environment, Scene

TARGET_HEIGHT = 0.35


def camera_basis(environment: Environment) -> tuple[np.ndarray, np.ndarray]:
    """Position (3) and a 3×3 matrix with rows right, up, forward, in table units."""
    azimuth, elevation = environment.camera_azimuth, environment.camera_elevation
    position = environment.camera_distance * np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    forward = np.array([0.0, 0.0, TARGET_HEIGHT]) - position
    forward /= np.linalg.norm(forward)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    return position, np.stack([right, np.cross(right, forward), forward])


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
