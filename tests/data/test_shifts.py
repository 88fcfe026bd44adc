"""Shifted variants: objects stay, one thing leaves the training range, and everything is seeded."""

import numpy as np
import pytest
from in_frame import fits_frame

from cmai_core.data.tabletop import render as r
from cmai_core.data.tabletop import shifts
from cmai_core.data.tabletop.scene import Scene, SceneObject
from cmai_core.errors import OptionError

OBJECTS = (
    SceneObject("cube", "red", "shiny", "large", 1.0, -1.2),
    SceneObject("ring", "white", "matte", "small", -1.0, 1.2),
)
PIXELS_ONLY = ("style", "corruption")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [Scene(OBJECTS, shifts.sample_environment(rng)) for _ in range(40)]


def test_training_range_is_varied_and_keeps_shift_materials_out(scenes):
    environments = [s.environment for s in scenes]
    assert {e.table for e in environments} <= set(r.TRAIN_TABLES)
    assert {e.background for e in environments} <= set(r.TRAIN_BACKDROPS)
    assert not set(r.TRAIN_TABLES) & set(r.SHIFT_TABLES) and len(r.SHIFT_TABLES) >= 2
    assert not set(r.TRAIN_BACKDROPS) & set(r.SHIFT_BACKDROPS) and len(r.SHIFT_BACKDROPS) >= 2
    assert set(r.TRAIN_TABLES) | set(r.SHIFT_TABLES) == set(range(len(r.TABLES)))
    assert set(r.TRAIN_BACKDROPS) | set(r.SHIFT_BACKDROPS) == set(range(len(r.BACKDROPS)))
    azimuths = np.array([e.camera_azimuth for e in environments])
    assert (np.histogram(azimuths, 4, (0, 2 * np.pi))[0] > 0).all()
    assert all(fits_frame(s) for s in scenes)


def test_training_environments_are_frozen():
    e = shifts.sample_environment(np.random.default_rng(0))
    assert (e.table, e.table_seed, e.background) == (5, 2871, 2)
    assert [e.camera_azimuth, e.light_azimuth, e.ambient] == pytest.approx([4.002148, 6.253833, 0.354219], abs=1e-6)


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_shift_keeps_what_a_scene_says(scenes, kind):
    moved = shifts.shift_scenes(scenes, kind, 3)
    assert moved == shifts.shift_scenes(scenes, kind, 3)
    assert moved[:5] == shifts.shift_scenes(scenes[:5], kind, 3)
    for before, after in zip(scenes, moved, strict=True):
        assert after.objects == before.objects
        assert np.array_equal(after.ground_frame(), before.ground_frame())
        assert fits_frame(after), "shifted objects stay in the picture"
        e = after.environment
        if kind == "light":
            low, dim, coloured = e.light_elevation < 0.6, e.light_power < 0.9, abs(e.light_warmth) > 0.5
            assert low or dim or coloured
        elif kind == "table":
            assert e.table in r.SHIFT_TABLES and e.background in r.SHIFT_BACKDROPS
        elif kind == "viewpoint":
            assert not 0.45 <= e.camera_elevation <= 0.85
        else:
            assert e == before.environment
    if kind not in PIXELS_ONLY:
        assert moved != shifts.shift_scenes(scenes, kind, 4)
        environment = shifts.sample_environment(np.random.default_rng(1), kind)
        assert environment != shifts.sample_environment(np.random.default_rng(1))


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_render_shifted_is_seeded_and_splittable(scenes, kind):
    whole = shifts.render_shifted(scenes[:4], kind, 7, 48)
    parts = [shifts.render_shifted(scenes[n : n + 2], kind, 7, 48, first=n, threads=1) for n in (0, 2)]
    assert whole.shape == (4, 48, 48, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole, np.concatenate(parts))
    plain = r.render(scenes[:4], 48)
    assert (np.abs(whole.astype(int) - plain).mean(axis=(1, 2, 3)) > 0.4).all(), "every picture changes visibly"


@pytest.mark.parametrize("corruption", shifts.CORRUPTIONS)
def test_corruption_is_moderate(scenes, corruption):
    clean = r.render(scenes[:1], 128)[0]
    spoilt = shifts.corrupt(clean, np.random.default_rng(3), corruption)
    assert spoilt.shape == clean.shape and spoilt.dtype == np.uint8
    assert np.array_equal(spoilt, shifts.corrupt(clean, np.random.default_rng(3), corruption))
    assert 0.4 < np.abs(spoilt.astype(int) - clean).mean() < 70


def test_unknown_kinds(scenes):
    for call in (
        lambda: shifts.shift_scenes(scenes[:1], "weather", 0),
        lambda: shifts.render_shifted(scenes[:1], "weather", 0, 32),
        lambda: shifts.sample_environment(np.random.default_rng(0), "weather"),
        lambda: shifts.corrupt(np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0), "weather"),
    ):
        with pytest.raises(OptionError, match="weather"):
            call()
