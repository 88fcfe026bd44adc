"""The sample photographs: all there, offline, upright, with true-to-form captions and a stated origin."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cmai_core.data import PairDataset, load_dataset
from cmai_core.data.uploads import clean_caption
from cmai_core.errors import OptionError


@pytest.fixture(scope="module")
def photos():
    return load_dataset("photos")


def test_every_photograph_has_captions_a_class_and_an_origin(photos):
    assert isinstance(photos, PairDataset)
    assert len(photos) == len(photos.classes) == len(set(photos.classes)) >= 15
    for index, pair in enumerate(photos):
        assert pair.image.dtype == np.uint8 and pair.image.ndim == 3 and pair.image.shape[2] == 3
        assert min(pair.image.shape[:2]) >= 100
        assert pair.image.std() > 5, "an empty picture"
        assert len(set(pair.captions)) == len(pair.captions) >= 3
        assert all(clean_caption(caption) == caption for caption in pair.captions)
        assert pair.label == photos.classes[index]
        assert pair.meta["source"] and pair.meta["licence"] and pair.meta["provider"] == "scikit-image"
    assert len({pair.id for pair in photos}) == len(photos)


def test_no_caption_belongs_to_two_photographs(photos):
    captions = [caption for pair in photos for caption in pair.captions]
    assert len(set(captions)) == len(captions)


def test_pixels_are_those_of_scikit_image(photos):
    from skimage import data

    by_name = {pair.id.rsplit("/", 1)[1]: pair.image for pair in photos}
    np.testing.assert_array_equal(by_name["astronaut"], data.astronaut())
    np.testing.assert_array_equal(by_name["camera"][..., 1], data.camera())
    np.testing.assert_array_equal(by_name["rocket"], data.rocket())
    horse = by_name["horse"]  # transparent around the silhouette
    assert (horse[0, 0] == 255).all() and (horse[150, 200] == 0).all()


def test_limit_and_split(photos):
    part = load_dataset("photos", limit=2)
    assert len(part) == 2 and part[1].id == photos[1].id
    assert part.truth(["a cat"], [0]) is None and list(part.statements) == []
    with pytest.raises(OptionError, match="'train'"):
        load_dataset("photos", "train")


def test_opening_them_imports_neither_torch_nor_scikit_image():
    code = (
        "import sys; from cmai_core.data import load_dataset; load_dataset('photos')[0];"
        "print([name for name in ('torch', 'skimage', 'streamlit', 'pandas', 'numba') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
