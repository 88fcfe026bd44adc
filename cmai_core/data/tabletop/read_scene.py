"""A scene read from JSON that anybody may have written, as links carry it: it can be rendered and judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any

from cmai_core.data.tabletop.scene import (
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    MIN_SEPARATION,
    SHAPES,
    SIZES,
    Environment,
    Scene,
    SceneObject,
)
from cmai_core.errors import DataError

MAX_LENGTH = 4000
"""Characters of a scene's JSON; four objects and their environment take about 900."""
TABLE_COUNT, BACKDROP_COUNT = 11, 9
"""How many materials and backdrops `render` has: it is not asked, as it takes a compiler along."""

_CHOICES = {"shape": SHAPES, "colour": COLOURS, "material": MATERIALS, "size": SIZES}
_RANGES = {
    "x": (-3.5, 3.5), "y": (-3.5, 3.5), "yaw": (-10.0, 10.0), "tint": (-0.2, 0.2), "camera_azimuth": (-10.0, 10.0),
    "camera_elevation": (0.1, 1.5), "camera_distance": (6.0, 30.0), "fov": (0.2, 1.5), "light_azimuth": (-20.0, 20.0),
    "light_elevation": (0.1, 1.57), "light_size": (0.0, 0.5), "light_warmth": (-1.0, 1.0), "light_power": (0.0, 3.0),
    "ambient": (0.0, 1.0),
}  # fmt: skip
_WHOLE = {"table": TABLE_COUNT - 1, "table_seed": 2**31 - 1, "background": BACKDROP_COUNT - 1}
_HINT = "Compose the scene again."
_ROUNDING = 1e-3


def scene_of(text: str) -> Scene:
    """Return the scene that `Scene.to_json` wrote.

    Raises:
        DataError: anything else, saying what: no JSON, another shape, a name that does not exist, a value out of range
            or not finite, objects so close that "left of" and "behind" would be in doubt.
    """
    raw = _known(_parsed(text), ("objects", "environment"), "The scene")
    listed = raw["objects"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_OBJECTS:
        raise DataError(f"A scene has a list of 1 to {MAX_OBJECTS} objects.", _HINT)
    objects = tuple(_object(entry, k + 1) for k, entry in enumerate(listed))
    known = _known(raw["environment"], [field.name for field in fields(Environment)], "The environment")
    environment = Environment(
        **{
            name: _whole(name, value, _WHOLE[name]) if name in _WHOLE else _number(name, value)
            for name, value in known.items()
        }
    )
    scene = Scene(objects, environment)
    for one, other in combinations(scene.ground_frame(), 2):
        if (abs(one - other) < MIN_SEPARATION - _ROUNDING).any():
            raise DataError("Two objects of the scene stand too close together, or in one line.", _HINT)
    return scene


def _parsed(text: str) -> Any:
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise DataError(f"A scene is a text of at most {MAX_LENGTH} characters.", _HINT)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # the latter where lists lie in lists lie in lists
        raise DataError("The scene is not valid JSON.", _HINT) from None


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _known(raw: Any, names: Sequence[str], what: str) -> Mapping[str, Any]:
    """Return a mapping with exactly these names."""
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise DataError(f"{what} does not have the parts that it should have.", f"They are: {', '.join(names)}.")
    return raw


def _object(raw: Any, place: int) -> SceneObject:
    known = dict(_known(raw, [field.name for field in fields(SceneObject)], f"Object {place}"))
    for name, allowed in _CHOICES.items():
        if not isinstance(known[name], str) or known[name] not in allowed:
            raise DataError(f"Object {place} has no known {name}.", f"Accepted: {', '.join(allowed)}.")
    tint = known["tint"]
    if not isinstance(tint, list) or len(tint) != 3:
        raise DataError(f"The tint of object {place} is not three numbers.", _HINT)
    known["tint"] = tuple(_number("tint", value) for value in tint)
    for name in ("x", "y", "yaw"):
        known[name] = _number(name, known[name])
    return SceneObject(**known)


def _number(name: str, value: Any) -> float:
    low, high = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise DataError(f"The scene's {name} is not a number from {low:g} to {high:g}.", _HINT)
    return float(value)


def _whole(name: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise DataError(f"The scene's {name} is not a whole number from 0 to {high}.", _HINT)
    return value
