"""Random scenes: which objects, and where they stand.

Everything is drawn from one `numpy.random.Generator` a scene, seeded by (seed, split, index): a scene depends
neither on the number of workers nor on the scenes before it.
"""

from __future__ import annotations

import math

import numpy as np

from cmai_core.data.tabletop.scene import (
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    MIN_SEPARATION,
    RADIUS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
)

SPLIT_CODE = {"train": 1, "validation": 2, "test": 3, "holdout": 4, "reference": 5, "final": 6}

HELD_OUT = frozenset((SHAPES[k % len(SHAPES)], colour) for k, colour in enumerate(COLOURS))
"""Eight (shape, colour) combinations found in the split `holdout` only; each shape and colour occurs elsewhere."""

HALF_WIDTH, HALF_DEPTH = 2.2, 2.0
"""Objects stand within this part of the table, in the viewer's ground frame."""

_GAP = 0.12
_PERSPECTIVE = 0.075  # how much narrower the view gets per unit of depth, at the usual camera distance
_CANDIDATES = 256


def scene_rng(seed: int, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """Return the random numbers of one scene.

    `purpose` separates the scene (0) from its captions, questions, and so on.
    """
    return np.random.default_rng([seed, SPLIT_CODE[split], index, purpose])


def sample_scene(rng: np.random.Generator, split: str = "train") -> Scene:
    """One scene of the split's distribution (`holdout` has at least one held-out combination, the others none)."""
    from cmai_core.data.tabletop.shifts import sample_environment

    environment = sample_environment(rng)
    number = int(rng.integers(1, MAX_OBJECTS + 1))
    kinds = _sample_kinds(rng, number, split)
    places = _sample_places(rng, np.array([RADIUS[kind[3]] for kind in kinds]))
    azimuth = environment.camera_azimuth
    right = np.array([-math.sin(azimuth), math.cos(azimuth)])
    away = -np.array([math.cos(azimuth), math.sin(azimuth)])
    objects = []
    for kind, (r, d) in zip(kinds, places, strict=True):
        x, y = r * right + d * away
        tint = tuple(round(float(t), 4) for t in rng.uniform(-0.03, 0.03, 3))
        yaw = round(float(rng.uniform(0, 2 * math.pi)), 4)
        objects.append(SceneObject(*kind, x=round(float(x), 4), y=round(float(y), 4), yaw=yaw, tint=tint))
    return Scene(tuple(objects), environment)


def _sample_kinds(rng: np.random.Generator, number: int, split: str) -> list[tuple[str, str, str, str]]:
    """Attributes of `number` objects. In half of the scenes some objects share an attribute, so that counts vary."""
    while True:
        kinds = np.stack([rng.integers(0, len(v), number) for v in (SHAPES, COLOURS, MATERIALS, SIZES)], axis=1)
        if number > 1 and rng.random() < 0.5:
            attribute = int(rng.integers(0, 4))
            share = rng.random(number) < 0.75
            kinds[share, attribute] = kinds[int(rng.integers(0, number)), attribute]
        named = [(SHAPES[a], COLOURS[b], MATERIALS[c], SIZES[d]) for a, b, c, d in kinds]
        held_out = sum((shape, colour) in HELD_OUT for shape, colour, _, _ in named)
        if (held_out > 0) == (split == "holdout"):
            return named


def _sample_places(rng: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    """Places K×2 (right, depth): apart along both axes, not touching, and none hidden behind another."""
    number = len(radii)
    half = np.array([HALF_WIDTH, HALF_DEPTH])
    upper = np.triu_indices(number, 1)
    reach = (radii[:, None] + radii[None, :])[upper]
    while True:
        places = rng.uniform(-half, half, (_CANDIDATES, number, 2))
        offset = (places[:, :, None] - places[:, None, :])[:, upper[0], upper[1]]
        apart = np.abs(offset)
        free = np.linalg.norm(apart, axis=-1) > reach + _GAP
        # Seen from the lowest camera, an object hides what stands up to four of its radii behind it.
        nearer = np.where(offset[..., 1] < 0, radii[upper[0]], radii[upper[1]])
        seen = places[..., 0] / (1.0 + _PERSPECTIVE * places[..., 1])
        aside = np.abs(seen[:, upper[0]] - seen[:, upper[1]])
        clear = (aside > 0.6 * reach) | (apart[..., 1] > 4.0 * nearer)
        fine = (free & clear & (apart > MIN_SEPARATION).all(-1)).all(-1)
        if fine.any():
            return places[int(np.argmax(fine))]
