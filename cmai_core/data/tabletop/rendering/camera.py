"""The camera: a pinhole that looks at a point just above the origin, its axes agreeing with `Scene.ground_frame`."""

from __future__ import annotations

import math

import numpy as np

from cmai_core.data.tabletop.scene import Environment

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
