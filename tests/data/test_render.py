"""The renderer of Tabletop: determinism, masks, and that pictures agree with what a scene says about left and far."""

import numpy as np
import pytest
from in_frame import fits_frame, project

from cmai_core.data.tabletop import render as r
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, SIZES, Environment, Scene, SceneObject
from cmai_core.errors import DataError, OptionError


def random_scene(rng, count=None):
    objects = []
    count = count or int(rng.integers(2, 5))
    while len(objects) < count:
        x, y = rng.uniform(-2.4, 2.4, 2)
        o = SceneObject(
            str(rng.choice(SHAPES)), str(rng.choice(COLOURS)), str(rng.choice(MATERIALS)), str(rng.choice(SIZES)), x, y
        )
        if all(np.hypot(o.x - p.x, o.y - p.y) > 1.2 * (o.radius + p.radius) for p in objects):
            objects.append(o)
    environment = Environment(
        camera_azimuth=rng.uniform(0, 6.28),
        camera_elevation=rng.uniform(0.45, 0.85),
        camera_distance=12.0,
        table=int(rng.integers(len(r.TABLES))),
        background=int(rng.integers(len(r.BACKDROPS))),
    )
    return Scene(tuple(objects), environment)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(5)
    return [random_scene(rng) for _ in range(6)]


def test_shapes_types_and_empty(scenes):
    images, index = r.render_with_masks(scenes[:2], 48)
    assert images.shape == (2, 48, 48, 3) and images.dtype == np.uint8
    assert index.shape == (2, 48, 48) and index.dtype == np.uint8
    for scene, mask in zip(scenes, index, strict=False):
        assert set(np.unique(mask)) <= {*range(len(scene.objects)), r.NO_OBJECT}
    assert r.render([], 32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("style", r.STYLES)
def test_pixels_do_not_depend_on_threads_or_batch(scenes, style):
    together = r.render(scenes, 64, style=style, threads=2)
    assert np.array_equal(together, r.render(scenes, 64, style=style, threads=1))
    alone = np.concatenate([r.render([s], 64, style=style, threads=3) for s in reversed(scenes)])[::-1]
    assert np.array_equal(together, alone)


def test_projection_agrees_with_ground_frame():
    rng = np.random.default_rng(2)
    for _ in range(12):
        azimuth = rng.uniform(0, 6.28)
        environment = Environment(camera_azimuth=azimuth, camera_elevation=rng.uniform(0.55, 1.1), camera_distance=12.0)
        right = np.array([-np.sin(azimuth), np.cos(azimuth)])
        away = -np.array([np.cos(azimuth), np.sin(azimuth)])
        centre = rng.uniform(-0.5, 0.5, 2)
        places = [centre, centre + 1.6 * right, centre + 1.6 * away]
        scene = Scene(tuple(SceneObject("sphere", "red", "matte", "small", *p) for p in places), environment)
        frame = scene.ground_frame()
        assert frame[1, 0] > frame[0, 0] + 1.5 and frame[2, 1] > frame[0, 1] + 1.5
        _, (mask,) = r.render_with_masks([scene], 96)
        rows, columns = np.array([[axis.mean() for axis in np.nonzero(mask == k)] for k in range(3)]).T
        assert columns[1] > columns[0] + 5, "an object farther right is drawn farther right"
        assert rows[2] < rows[0] - 5, "an object farther away is drawn higher up"
        screen = project([[*p, 0.5] for p in places], environment)
        drawn = np.stack([(columns + 0.5) / 48 - 1, 1 - (rows + 0.5) / 48], axis=1)
        assert np.abs(screen - drawn).max() < 0.05, "project() says where things are drawn"


def test_nearer_object_hides_farther_one():
    environment = Environment(camera_azimuth=0.0, camera_elevation=0.3, camera_distance=12.0)
    near = SceneObject("cube", "blue", "matte", "large", 1.2, 0.0)
    far = SceneObject("sphere", "red", "matte", "small", -1.2, 0.0)
    for objects in ((near, far), (far, near)):
        _, (mask,) = r.render_with_masks([Scene(objects, environment)], 64)
        row = int(32 * (1 - project([[1.2, 0.0, 0.9]], environment)[0, 1]))
        column = 32
        assert mask[row, column] == objects.index(near)


@pytest.mark.parametrize("colour", COLOURS)
def test_object_pixels_have_their_colour(colour):
    """The average colour under the mask is nearest to the object's own among the eight, on every training table."""
    from cmai_core.data.tabletop.rendering.packing import ALBEDO, to_linear

    reference = ALBEDO / np.linalg.norm(ALBEDO, axis=1, keepdims=True)
    for material in MATERIALS:
        scenes = [
            Scene(
                (SceneObject("sphere", colour, material, "large", 0.0, 0.0),),
                Environment(camera_distance=12.0, table=t, light_warmth=w),
            )
            for t, w in zip(r.TRAIN_TABLES, np.linspace(-0.35, 0.35, len(r.TRAIN_TABLES)), strict=True)
        ]
        images, index = r.render_with_masks(scenes, 64)
        for image, mask in zip(images, index, strict=True):
            mean = np.median(to_linear(image[mask == 0] / 255.0), axis=0)
            assert COLOURS[int(np.argmax(reference @ (mean / np.linalg.norm(mean))))] == colour


def test_fits_frame():
    def one(x, y):
        return Scene((SceneObject("cube", "red", "matte", "large", x, y),), Environment(camera_distance=12.0))

    assert fits_frame(one(0, 0)) and fits_frame(one(1.0, 2.0))
    assert not fits_frame(one(0, 4.5))
    assert fits_frame(one(0, 2.0)) and not fits_frame(one(0, 2.0), margin=0.6)


def test_bad_input(scenes):
    for size in (31, 1025, 64.0, True):
        with pytest.raises(OptionError):
            r.render(scenes[:1], size)
    with pytest.raises(OptionError):
        r.render(scenes[:1], 64, style="cubist")
    with pytest.raises(OptionError):
        r.render(scenes[:1], 64, threads=0)
    with pytest.raises(DataError):
        r.render([Scene((SceneObject("torus", "red", "matte", "small", 0, 0),))], 64)
    with pytest.raises(DataError):
        r.render([Scene((), Environment(table=len(r.TABLES)))], 64)
    with pytest.raises(DataError):
        r.render([Scene((), Environment(camera_elevation=-0.2))], 64)
    with pytest.raises(DataError):
        r.render([Scene((SceneObject("ring", "red", "matte", "small", float("nan"), 0),))], 64)


FROZEN = (
    Scene(
        (
            SceneObject("sphere", "red", "shiny", "large", 1.2, -1.6, 0.3),
            SceneObject("cube", "cyan", "matte", "large", -1.4, -0.2, 0.5),
            SceneObject("cone", "yellow", "shiny", "small", 1.5, 0.6, 0.3),
            SceneObject("ring", "purple", "shiny", "large", 0.0, 2.0, 0.3),
        ),
        Environment(0.1, 0.52, 12.0, 0.65, 1.6, 0.9, 0.1, 0.2, 1.1, 0.3, 1, 5, 1),
    ),
    Scene(
        (
            SceneObject("pyramid", "orange", "shiny", "large", 1.2, -1.6, 0.3),
            SceneObject("cylinder", "blue", "matte", "small", -1.4, -0.2, 0.5),
        ),
        Environment(2.1, 0.7, 12.0, 0.65, 0.6, 0.8, 0.15, -0.3, 1.0, 0.3, 3, 9, 4),
    ),
)
# fmt: off
FROZEN_BLOCKS = {'drawing': [[226, 222, 214, 203, 213, 207, 226, 222, 214, 173, 116, 115, 129, 143, 133, 163, 146,
              161, 182, 175, 165, 181, 174, 163, 182, 175, 165],
             [219, 217, 210, 211, 205, 197, 219, 217, 210, 204, 203, 199, 182, 171, 166, 182, 184,
              189, 204, 203, 199, 204, 203, 199, 204, 203, 199]],
 'standard': [[93, 99, 112, 100, 123, 136, 92, 98, 112, 128, 67, 63, 101, 110, 96, 106, 78, 92, 95,
               74, 61, 96, 76, 61, 95, 76, 63],
              [95, 99, 105, 114, 115, 118, 95, 100, 106, 165, 173, 181, 158, 153, 159, 142, 152,
               169, 155, 164, 172, 158, 166, 174, 158, 167, 175]]}
# fmt: on


def block_means(image):
    """Mean colour of 3×3 blocks of a 96-pixel picture."""
    return image.reshape(3, 32, 3, 32, 3).mean(axis=(1, 3)).round().astype(int)


@pytest.mark.parametrize("style", r.STYLES)
def test_pixels_are_those_the_models_were_trained_on(style):
    """A change here needs a new RENDERER_VERSION, new caches and new models."""
    assert r.RENDERER_VERSION == 1
    for image, frozen in zip(r.render(FROZEN, 96, style=style), FROZEN_BLOCKS[style], strict=True):
        assert np.abs(block_means(image).reshape(-1) - frozen).max() <= 1
