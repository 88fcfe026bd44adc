"""What people are shown is exact: PNG is lossless, the gain is stated, maps share one scale."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.lab import images


def noise(seed: int = 0, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_png_is_lossless_and_jpeg_is_not():
    image = noise()
    assert np.array_equal(images.round_trip(image, "PNG"), image)
    assert not np.array_equal(images.round_trip(image, "JPEG", 90), image)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 64), st.integers(0, 1000))
def test_the_gain_never_clips_and_is_as_large_as_it_can_be(size, seed):
    clean = np.full((8, 8, 3), 128, np.uint8)
    change = np.random.default_rng(seed).integers(-size, size + 1, clean.shape)
    adversarial = (clean + change).astype(np.uint8)
    gain = images.perturbation_gain(clean, adversarial)
    largest = np.abs(change).max()
    assert largest * gain <= 127
    assert largest == 0 or gain == 64 or largest * gain * 2 > 127
    view = images.perturbation_view(clean, adversarial, gain).astype(int)
    assert np.array_equal(view - 128, gain * change)


def test_nothing_changed_is_mid_grey():
    image = noise()
    assert np.all(images.perturbation_view(image, image, images.perturbation_gain(image, image)) == 128)
    numbers = images.perturbation_numbers(image, image)
    assert numbers["linf"] == numbers["rms"] == numbers["changed"] == 0
    assert numbers["psnr"] == float("inf")


def test_numbers_of_a_known_change():
    clean = np.full((4, 4, 3), 100, np.uint8)
    adversarial = clean.copy()
    adversarial[0, 0, 0] = 104
    numbers = images.perturbation_numbers(clean, adversarial)
    assert numbers["linf"] == 4
    assert np.isclose(numbers["rms"], 4 / np.sqrt(48))
    assert np.isclose(numbers["changed"], 1 / 48)


def test_colours_are_symmetric_about_zero_when_signed():
    zero = images.colour_map(np.zeros((1, 1)), -0.2, 1.0, signed=True)
    assert np.array_equal(zero[0, 0], [245, 245, 245])
    low, high = images.colour_map(np.array([[0.0, 1.0]]), 0.0, 1.0)[0]
    assert tuple(low) == (68, 1, 84) and tuple(high) == (253, 231, 37)


def test_one_scale_means_one_colour_for_one_value():
    a = images.colour_map(np.array([[0.2, 0.5]]), 0, 1)
    b = images.colour_map(np.array([[0.5, 0.9]]), 0, 1)
    assert np.array_equal(a[0, 1], b[0, 0])


def test_overlay_has_the_picture_s_size():
    image = noise(size=32)
    out = images.overlay(image, np.random.default_rng(0).random((8, 8)), 0, 1)
    assert out.shape == image.shape and out.dtype == np.uint8


def test_thumbnails_are_small_squares():
    assert images.thumbnail(np.zeros((300, 200, 3), np.uint8), 96).shape == (96, 96, 3)
    assert images.thumbnail(np.zeros((40, 60, 3), np.uint8), 96).shape == (40, 40, 3)
