"""The scene composer: a Tabletop scene from a few choices, its rendering, its true captions and questions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmai_core.data.composer import Choice, Composer
from cmai_core.data.pair import Pair, Question
from cmai_core.data.tabletop.scene import (
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    MIN_SEPARATION,
    RADIUS,
    SHAPES,
    SIZES,
    Environment,
    Scene,
    SceneObject,
)
from cmai_core.errors import OptionError

ACROSS = {"far left": -2.0, "left": -1.0, "middle": 0.0, "right": 1.0, "far right": 2.0}
DEPTH = {"front": -1.8, "towards front": -0.9, "middle": 0.0, "towards back": 0.9, "back": 1.8}
LIGHT_FROM = {"left": -1.2, "front left": -0.6, "front": 0.0, "front right": 0.6, "right": 1.2}
LIGHT_HEIGHT = {"low": 0.55, "medium": 0.9, "high": 1.25}
LIGHT_TONE = {"cool": -0.8, "neutral": 0.0, "warm": 0.8}
CAMERA_HEIGHT = {"low": 0.42, "medium": 0.6, "high": 0.85}


@dataclass(frozen=True)
class ObjectChoice:
    """What a person chooses for one object; values of SHAPES, COLOURS, MATERIALS, SIZES, ACROSS and DEPTH."""

    shape: str = "cube"
    colour: str = "red"
    material: str = "matte"
    size: str = "large"
    across: str = "middle"
    depth: str = "middle"


def compose(
    objects: Sequence[ObjectChoice],
    *,
    light_from: str = "front right",
    light_height: str = "medium",
    light_tone: str = "neutral",
    camera_height: str = "medium",
    table: int = 0,
    background: int = 0,
    seed: int = 0,
) -> tuple[Scene, bool]:
    """Make a scene, and say whether objects were moved a little so that none touches, hides or lines up with another.

    Raises:
        OptionError: for a choice that does not exist.
    """
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise OptionError(f"A scene has 1 to {MAX_OBJECTS} objects, not {len(objects)}.")
    for choice in objects:
        for name, allowed in (
            ("shape", SHAPES), ("colour", COLOURS), ("material", MATERIALS), ("size", SIZES),
            ("across", ACROSS), ("depth", DEPTH),
        ):  # fmt: skip
            _one_of(name, getattr(choice, name), allowed)
    for name, value, allowed in (
        ("light", light_from, LIGHT_FROM), ("light height", light_height, LIGHT_HEIGHT),
        ("light tone", light_tone, LIGHT_TONE), ("camera height", camera_height, CAMERA_HEIGHT),
    ):  # fmt: skip
        _one_of(name, value, allowed)
    environment = Environment(
        camera_elevation=CAMERA_HEIGHT[camera_height],
        light_azimuth=LIGHT_FROM[light_from],
        light_elevation=LIGHT_HEIGHT[light_height],
        light_warmth=LIGHT_TONE[light_tone],
        table=table,
        background=background,
        table_seed=seed,
    )
    wanted = np.array([(ACROSS[o.across], DEPTH[o.depth]) for o in objects])
    radii = np.array([RADIUS[o.size] for o in objects])
    places = _settle(wanted, radii, seed)
    azimuth = environment.camera_azimuth
    right = np.array([-math.sin(azimuth), math.cos(azimuth)])
    away = -np.array([math.cos(azimuth), math.sin(azimuth)])
    made = []
    for k, (choice, (r, d)) in enumerate(zip(objects, places, strict=True)):
        x, y = r * right + d * away
        yaw = round(0.35 + 1.1 * k, 4)
        made.append(
            SceneObject(
                choice.shape, choice.colour, choice.material, choice.size, round(float(x), 4), round(float(y), 4), yaw
            )
        )
    moved = bool(np.abs(places - wanted).max() > 1e-9)
    return Scene(tuple(made), environment), moved


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(f"There is no {name} {value!r}.", f"Choose one of: {', '.join(allowed)}.")


def _settle(wanted: np.ndarray, radii: np.ndarray, seed: int) -> np.ndarray:
    """Places near the wanted ones that keep the sampler's rules: apart along both axes, not touching, none hidden."""
    rng = np.random.default_rng([seed, len(wanted)])
    upper = np.triu_indices(len(wanted), 1)
    reach = (radii[:, None] + radii[None, :])[upper]
    limit = np.array([2.6, 2.4])
    for spread in (0.0, 0.2, 0.4, 0.6, 0.9, 1.3, 1.8, *[np.inf] * 20):
        number = 1 if spread == 0 else 4000
        if np.isinf(spread):  # anywhere on the table
            candidates = rng.uniform(-limit, limit, (number, *wanted.shape))
        else:
            candidates = np.clip(wanted + rng.uniform(-spread, spread, (number, *wanted.shape)), -limit, limit)
        apart = np.abs(candidates[:, :, None] - candidates[:, None, :])[:, upper[0], upper[1]]
        free = np.linalg.norm(apart, axis=-1) > reach + 0.05
        clear = (apart[..., 0] > 0.55 * reach) | (apart[..., 1] > 1.9 * reach)
        fine = (free & clear & (apart > MIN_SEPARATION).all(-1)).all(-1)
        if fine.any():
            cost = np.square(candidates[fine] - wanted).sum((1, 2))
            return np.round(candidates[fine][int(np.argmin(cost))], 4)
    raise OptionError("These objects do not fit on the table together.", "Make one small or take one away.")


def scene_pair(scene: Scene, caption: str = "") -> Pair:
    """Make a pair of a scene: rendered, with true captions and questions; `caption` goes first where given."""
    from cmai_core.data.tabletop.captions import captions as make_captions
    from cmai_core.data.tabletop.questions import questions as make_questions
    from cmai_core.data.tabletop.render import render

    digest = hashlib.sha256(scene.to_json().encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    made = [text for text, _ in make_captions(scene, rng)]
    asked = tuple(Question(text, (answer,), family) for text, answer, family in make_questions(scene, rng))
    first = (caption,) if caption else ()
    return Pair(
        f"scene/{digest.hex()[:12]}",
        render([scene])[0],
        first + tuple(c for c in made if c != caption),
        asked,
        scene=scene,
        meta={"source": "composed here"},
    )


_FIRST = (
    ObjectChoice("cube", "red", "matte", "large", "left", "middle"),
    ObjectChoice("sphere", "blue", "shiny", "small", "right", "towards front"),
    ObjectChoice("cone", "yellow", "matte", "small", "far right", "back"),
    ObjectChoice("cylinder", "green", "shiny", "small", "far left", "front"),
)


class TabletopComposer(Composer):
    """Tabletop's scenes from choices."""

    most, first = MAX_OBJECTS, 2
    note = "Drawn finer than the models see it: they get 128×128 pixels."

    def object_choices(self, number: int) -> tuple[Choice, ...]:
        """Return shape, colour, material, size and place."""
        usual = _FIRST[number]
        return (
            Choice("shape", f"Object {number + 1}", SHAPES, usual.shape),
            Choice("colour", "Colour", COLOURS, usual.colour),
            Choice("material", "Material", MATERIALS, usual.material),
            Choice("size", "Size", SIZES, usual.size),
            Choice("across", "Left – right", tuple(ACROSS), usual.across, ordered=True),
            Choice("depth", "Front – back", tuple(DEPTH), usual.depth, ordered=True),
        )

    def scene_choices(self) -> tuple[Choice, ...]:
        """Return light, camera, table and backdrop."""
        tables, backdrops = _surroundings()
        return (
            Choice("light_from", "Light from", tuple(LIGHT_FROM), "front right"),
            Choice("light_height", "Light height", tuple(LIGHT_HEIGHT), "medium"),
            Choice("light_tone", "Tone", tuple(LIGHT_TONE), "neutral"),
            Choice("camera_height", "Camera", tuple(CAMERA_HEIGHT), "medium"),
            Choice("table", "Table", tables, tables[0]),
            Choice("background", "Backdrop", backdrops, backdrops[0]),
        )

    def compose(self, objects: Sequence[Mapping[str, str]], scene: Mapping[str, str]) -> tuple[Scene, str]:
        """Make a scene; objects that would touch or line up are moved a little."""
        chosen = dict(scene)
        tables, backdrops = _surroundings()
        for name, allowed in (("table", tables), ("background", backdrops)):
            _one_of(name, chosen.setdefault(name, allowed[0]), allowed)
        places = {"table": tables.index(chosen.pop("table")), "background": backdrops.index(chosen.pop("background"))}
        made, moved = compose([ObjectChoice(**choice) for choice in objects], **chosen, **places)
        return made, "Objects were moved a little, so that none touches, hides or lines up with another." * moved

    def read(self, text: str) -> Scene:
        """Read a scene from its JSON."""
        return Scene.from_json(text)

    def pair(self, scene: Scene, caption: str = "") -> Pair:
        """Render the scene, and say what is true of it."""
        return scene_pair(scene, caption)

    def picture(self, scene: Scene, side: int) -> np.ndarray:
        """Render the scene at another size."""
        from cmai_core.data.tabletop.render import render

        return render([scene], side)[0]


def _surroundings() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tables and of the backdrops."""
    from cmai_core.data.tabletop.render import BACKDROPS, TABLES

    return tuple(TABLES), tuple(BACKDROPS)
