"""What the training pictures vary over, and five ways in which test pictures leave that range.

`sample_environment` draws light, camera, table and backdrop of the training distribution. The shifted variants keep
the objects (so every caption, answer and statement stays true) and change one thing each: the light, the table and
backdrop, the viewpoint, the drawing style, or the quality of the picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cmai_core.data.tabletop.render import (
    SHIFT_BACKDROPS,
    SHIFT_TABLES,
    TRAIN_BACKDROPS,
    TRAIN_TABLES,
    render,
)
from cmai_core.data.tabletop.scene import Environment, Scene
from cmai_core.errors import OptionError

KINDS = ("light", "table", "viewpoint", "style", "corruption")
CORRUPTIONS = ("noise", "blur", "jpeg", "contrast", "fog")


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"There is no shifted variant {kind!r}.", f"Use one of: {', '.join(KINDS)}.")


def sample_environment(rng: np.random.Generator, kind: str | None = None) -> Environment:
    """Draws an environment: of the training distribution (`kind` None), or of a shifted variant of it.

    Training range: any camera azimuth, elevation 0.45–0.85 rad, distance 11.4–12.6, field of view 0.64–0.67 rad, key
    light from the side or from behind the objects at elevation 0.62–1.05 rad, angular radius 0.04–0.16 rad, warmth
    −0.4–0.4, power 0.95–1.2, ambient 0.24–0.38, TRAIN_TABLES, TRAIN_BACKDROPS. Kinds "style" and "corruption" change
    pixels only, so their environments are those of training.

    Raises:
        OptionError: for a kind outside KINDS.
    """
    azimuth = rng.uniform(0.0, 2.0 * math.pi)
    side = 1.0 if rng.random() < 0.5 else -1.0
    environment = Environment(
        camera_azimuth=azimuth,
        camera_elevation=rng.uniform(0.45, 0.85),
        camera_distance=rng.uniform(11.4, 12.6),
        fov=rng.uniform(0.64, 0.67),
        light_azimuth=azimuth + side * rng.uniform(0.7, 2.4),
        light_elevation=rng.uniform(0.62, 1.05),
        light_size=rng.uniform(0.04, 0.16),
        light_warmth=rng.uniform(-0.4, 0.4),
        light_power=rng.uniform(0.95, 1.2),
        ambient=rng.uniform(0.24, 0.38),
        table=int(rng.choice(TRAIN_TABLES)),
        table_seed=int(rng.integers(1 << 20)),
        background=int(rng.choice(TRAIN_BACKDROPS)),
    )
    return environment if kind is None else shift_environment(environment, kind, rng)


def shift_environment(environment: Environment, kind: str, rng: np.random.Generator) -> Environment:
    """Return the same environment with one thing moved out of the training range; who is left of or behind whom stays.

    Raises:
        OptionError: for a kind outside KINDS.
    """
    _check(kind)
    if kind == "light":
        which = int(rng.integers(3))
        if which == 0:  # low sun: long shadows
            return replace(environment, light_elevation=rng.uniform(0.26, 0.42), light_power=1.35, ambient=0.22)
        if which == 1:  # dim room
            power = rng.uniform(0.32, 0.46)
            return replace(environment, light_power=power, ambient=rng.uniform(0.09, 0.15))
        warmth = rng.uniform(0.8, 1.0) * (1.0 if rng.random() < 0.5 else -1.0)  # tungsten or blue hour
        return replace(environment, light_warmth=warmth)
    if kind == "table":
        table, background = int(rng.choice(SHIFT_TABLES)), int(rng.choice(SHIFT_BACKDROPS))
        return replace(environment, table=table, background=background, table_seed=int(rng.integers(1 << 20)))
    if kind == "viewpoint":
        if rng.random() < 0.5:  # from high up
            return replace(environment, camera_elevation=rng.uniform(1.0, 1.25))
        elevation, distance = rng.uniform(0.30, 0.38), rng.uniform(13.5, 15.0)  # low and farther away
        return replace(environment, camera_elevation=elevation, camera_distance=distance)
    return environment


def shift_scenes(scenes: Sequence[Scene], kind: str, seed: int, first: int = 0) -> list[Scene]:
    """Return the scenes with shifted environments; `first`: number of the first one in its split.

    Scene n draws from (seed, kind, n) alone, so a prefix stays a prefix.

    The camera's azimuth is kept: left, right, front and behind mean what they meant.
    """
    _check(kind)
    return [
        replace(scene, environment=shift_environment(scene.environment, kind, _generator(seed, kind, n)))
        for n, scene in enumerate(scenes, first)
    ]


def render_shifted(
    scenes: Sequence[Scene], kind: str, seed: int, size: int = 128, *, first: int = 0, threads: int | None = None
) -> np.ndarray:
    """Draws the shifted variant of scenes.

    Args:
        scenes: scenes of the unshifted test split.
        kind: one of KINDS.
        seed: of the shift.
        size: side in pixels.
        first: number of the first scene in its split, so that a split drawn in parts equals one drawn at once.
        threads: as in `render`.

    Returns:
        uint8 N×size×size×3.

    Raises:
        OptionError: for a kind outside KINDS.
    """
    moved = shift_scenes(scenes, kind, seed, first)
    images = render(moved, size, style="drawing" if kind == "style" else "standard", threads=threads)
    if kind == "corruption":
        for n in range(len(images)):
            images[n] = corrupt(images[n], _generator(seed, kind, first + n))
    return images


def _generator(seed: int, kind: str, n: int) -> np.random.Generator:
    return np.random.default_rng([int(seed), KINDS.index(kind), n])


def corrupt(image: np.ndarray, rng: np.random.Generator, corruption: str | None = None) -> np.ndarray:
    """One corruption of moderate severity, drawn from CORRUPTIONS or named.

    The kinds are those of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
    perturbations" (ICLR 2019), about their severity 3, with blur and fog scaled to the picture's size.

    Args:
        image: uint8 H×W×3.

    Returns:
        uint8 H×W×3.

    Raises:
        OptionError: for a corruption outside CORRUPTIONS.
    """
    from PIL import Image, ImageFilter

    corruption = str(rng.choice(CORRUPTIONS)) if corruption is None else corruption
    height, width = image.shape[:2]
    pixels = image.astype(np.float32) / 255.0
    if corruption == "noise":
        pixels = pixels + rng.normal(0.0, rng.uniform(0.06, 0.12), image.shape).astype(np.float32)
    elif corruption == "blur":
        radius = rng.uniform(0.9, 1.5) * width / 128.0
        return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    elif corruption == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(12, 26)))
        return np.array(Image.open(buffer))
    elif corruption == "contrast":
        mean = pixels.mean(axis=(0, 1))
        pixels = mean + (pixels - mean) * rng.uniform(0.35, 0.5)
    elif corruption == "fog":
        thickness = rng.uniform(0.35, 0.5) + 0.3 * _cloud(rng, height, width)
        pixels = pixels * (1.0 - thickness[..., None]) + 0.82 * thickness[..., None]
    else:
        raise OptionError(f"There is no corruption {corruption!r}.", f"Use one of: {', '.join(CORRUPTIONS)}.")
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _cloud(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise around 0, about −0.5…0.5, H×W."""
    from PIL import Image

    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((3, 0.6), (6, 0.3), (12, 0.1)):
        grid = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight * (np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) - 0.5)
    return total
