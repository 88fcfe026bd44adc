"""What a Tabletop scene is: objects with attributes and places, and the light, table and camera around them.

Geometry. The table is the plane z = 0, z points up, lengths are in table units. The camera looks at the origin from
(azimuth, elevation, distance); "left", "right", "in front of" and "behind" are meant as the viewer sees them, so they
are judged in the camera's ground frame: `right` and `depth` (away from the viewer).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cmai_core.data.truth import GroundTruth

SHAPES = ("sphere", "cube", "cylinder", "cone", "pyramid", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
MATERIALS = ("matte", "shiny")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "in front of", "behind")
MAX_OBJECTS = 4

RADIUS = {"small": 0.58, "large": 0.98}
"""Radius of the footprint of an object, and (but for rings) half its height."""

MIN_SEPARATION = 0.35
"""Any two objects differ by at least this much along both ground axes of the viewer: relations are never in doubt."""


@dataclass(frozen=True)
class SceneObject:
    """One solid on the table.

    Attributes:
        shape, colour, material, size: values of SHAPES, COLOURS, MATERIALS, SIZES.
        x, y: centre on the table, in table units.
        yaw: rotation about the vertical, radians.
        tint: small deviation of the base colour, three values around 0 (linear RGB), so no two reds are the same.
    """

    shape: str
    colour: str
    material: str
    size: str
    x: float
    y: float
    yaw: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def radius(self) -> float:
        return RADIUS[self.size]


@dataclass(frozen=True)
class Environment:
    """Light, table and camera.

    Attributes:
        camera_azimuth, camera_elevation: radians; camera_distance: table units; fov: vertical field of view, radians.
        light_azimuth, light_elevation: direction the key light comes from, radians.
        light_size: angular radius of the area light, radians (softness of the shadows).
        light_warmth: −1 cool … +1 warm; light_power: about 1; ambient: about 0.35.
        table: index of the table's material in render.TABLES; table_seed: its pattern's seed.
        background: index of the backdrop in render.BACKDROPS.
    """

    camera_azimuth: float = 0.0
    camera_elevation: float = 0.6
    camera_distance: float = 12.0
    fov: float = 0.65
    light_azimuth: float = 0.8
    light_elevation: float = 0.9
    light_size: float = 0.12
    light_warmth: float = 0.0
    light_power: float = 1.0
    ambient: float = 0.35
    table: int = 0
    table_seed: int = 0
    background: int = 0


@dataclass(frozen=True)
class Scene:
    """Objects (1 to 4) and their environment. Plain data: equal scenes render to equal pixels."""

    objects: tuple[SceneObject, ...]
    environment: Environment = Environment()

    @property
    def ground_truth(self) -> GroundTruth:
        """What reads and judges sentences about such scenes (`data.truth`)."""
        from cmai_core.data.tabletop.truth import TRUTH

        return TRUTH

    def ground_frame(self) -> np.ndarray:
        """Return positions as the viewer sees them: K×2, columns `right` and `depth` (larger is farther)."""
        azimuth = self.environment.camera_azimuth
        # The camera stands at (cos a, sin a)·d, so "away" is −(cos a, sin a) and "right" is (−sin a, cos a).
        right = np.array([-math.sin(azimuth), math.cos(azimuth)])
        away = -np.array([math.cos(azimuth), math.sin(azimuth)])
        positions = np.array([[o.x, o.y] for o in self.objects], dtype=float).reshape(-1, 2)
        return positions @ np.stack([right, away], axis=1)

    def satisfies(self, statement) -> bool:
        """Tell whether a `statements.Statement` (or a sentence that parses to one) is true of this scene."""
        from cmai_core.data.tabletop.language import parse
        from cmai_core.data.tabletop.statements import holds

        return holds(parse(statement) if isinstance(statement, str) else statement, self)

    def to_json(self) -> str:
        """Write the scene as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Scene:
        """Read what `to_json` wrote.

        Raises:
            DataError: any other text.
        """
        from cmai_core.data.tabletop.read_scene import scene_of

        return scene_of(text)
