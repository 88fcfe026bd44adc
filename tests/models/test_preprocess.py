import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from cmai_core.errors import DataError, ModelError
from cmai_core.models.preprocess import Preprocessing, preprocess


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.coffee()  # 400×600


def test_an_image_of_the_right_size_passes_unchanged(small):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    before = image.copy()
    pixels = small.preprocess([image])
    assert torch.equal(pixels, torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0)
    pixels.zero_()
    assert np.array_equal(image, before), "the caller's image is not touched"


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [64, 225])
def test_it_is_open_clips_own_transform(photo, resize_mode, interpolation, turned, size):
    image = np.ascontiguousarray(photo.swapaxes(0, 1)) if turned else photo
    ours = preprocess([image], size, interpolation=interpolation, resize_mode=resize_mode, fill=128)[0]
    config = PreprocessCfg(size=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation)
    config.resize_mode, config.fill_color = resize_mode, 128
    theirs = image_transform_v2(config, is_train=False)(Image.fromarray(image))
    assert ours.shape == theirs.shape == (3, size, size)
    assert torch.equal(ours, theirs)


def test_an_upscaled_image_matches_too(photo):
    image = np.ascontiguousarray(photo[:20, :31])
    ours = preprocess([image], 64)[0]
    theirs = image_transform_v2(PreprocessCfg(size=64, mean=(0, 0, 0), std=(1, 1, 1)), is_train=False)
    assert torch.equal(ours, theirs(Image.fromarray(image)))


def test_mixed_sizes_stay_on_the_8_bit_lattice(photo):
    square = np.ascontiguousarray(photo[:48, :48])
    pixels = preprocess([photo, square, photo[:1, :5]], 48)
    assert pixels.shape == (3, 3, 48, 48) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert float((pixels * 255 - (pixels * 255).round()).abs().max()) < 1e-4
    assert torch.equal(pixels[1], torch.from_numpy(square).permute(2, 0, 1) / 255.0)


def test_one_array_of_many_images_and_none(small):
    images = np.zeros((5, 32, 32, 3), np.uint8)
    assert small.preprocess(images).shape == (5, 3, 32, 32)
    assert small.preprocess([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        "x",
    ],
)
def test_bad_images_are_named(bad):
    with pytest.raises(DataError, match="Image 1"):
        preprocess([np.zeros((4, 4, 3), np.uint8), bad], 8)


def test_unknown_modes():
    with pytest.raises(ModelError, match="nearest"):
        preprocess([], 8, interpolation="nearest")
    with pytest.raises(ModelError, match="stretch"):
        preprocess([], 8, resize_mode="stretch")


def test_what_is_not_said_is_open_clips_default():
    found, theirs = Preprocessing.of({"size": [64, 64], "mean": None}), PreprocessCfg(size=64)
    assert (found.size, found.mean, found.std) == (64, tuple(theirs.mean), tuple(theirs.std))
    assert (found.interpolation, found.resize_mode, found.fill) == ("bicubic", "shortest", theirs.fill_color)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("size", value) for value in ([64, 32], 0, -1, 1e3, "64", [64], True, 10**9)),
        *(
            ("std", value)
            for value in ([1, 1, 0], [1, 1, -1], [1, 1], [1] * 4, 1, "111", [1, 1, float("nan")], [1, 1, 1e-9])
        ),
        *(("mean", value) for value in ([0, 0, float("inf")], [0, 0], {}, [0, 0, "0"], [0, 0, True])),
        *(
            ("interpolation", "nearest"),
            ("resize_mode", "crop"),
            ("mode", "L"),
            ("fill_color", 256),
            ("fill_color", 1.5),
        ),
    ],
)
def test_preprocessing_that_cannot_be(small, key, value):
    with pytest.raises(ModelError):
        Preprocessing.of({"size": 64, key: value})
