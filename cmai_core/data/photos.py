"""The sample photographs inside scikit-image's wheel, with captions: real pictures without a network or a download.

Captions were written for this project by looking at the pictures; licences and sources are those that scikit-image
states for each. The order is by how well a picture speaks for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cmai_core.data.image_cache import ImageCache
from cmai_core.data.pair import Pair, TwoImageStatement
from cmai_core.data.uploads import decode_image
from cmai_core.errors import DataError, OptionError


@dataclass(frozen=True)
class _Photo:
    """`label` completes "a photo of a …"."""

    file: str
    label: str
    captions: tuple[str, ...]
    source: str
    licence: str


_PHOTOS = (
    _Photo(
        "astronaut.png",
        "astronaut",
        (
            "a smiling astronaut in an orange space suit",
            "a woman with short hair poses in a spacesuit, a white helmet beside her",
            "a portrait of an astronaut in front of a flag and a model of the space shuttle",
            "an orange flight suit with a round purple patch, worn by a woman who looks into the camera",
        ),
        "Eileen Collins, NASA Great Images database",
        "public domain",
    ),
    _Photo(
        "chelsea.png",
        "cat",
        (
            "a close-up of a tabby cat's face",
            "a ginger cat with yellow-green eyes and long white whiskers",
            "a striped cat looks past the camera",
        ),
        "Chelsea the cat, photograph by Stefan van der Walt",
        "CC0",
    ),
    _Photo(
        "coffee.png",
        "cup of coffee",
        (
            "a cup of espresso on a wooden table",
            "a red cup and saucer with a small spoon",
            "a half-empty coffee cup, white inside, seen from above",
            "coffee in a reddish-brown cup on a matching saucer",
        ),
        "Pikolo Espresso Bar, photograph by Rachel Michetti",
        "CC0",
    ),
    _Photo(
        "motorcycle_left.png",
        "motorcycle",
        (
            "a red motorcycle parked in a garage",
            "a motorbike on its stand in front of metal shelves with boxes",
            "a red motorcycle with a black seat on a concrete floor, a wooden bench behind it",
        ),
        "Middlebury 2014 stereo benchmark (Nesic, Westling, Wang, Kitajima, Krathwohl, Scharstein), scaled down",
        "no licence stated; distributed with scikit-image",
    ),
    _Photo(
        "rocket.jpg",
        "rocket",
        (
            "a white rocket on its launch pad at dusk",
            "a rocket stands between tall steel towers under a dark blue sky",
            "bright lights around a rocket that waits for its launch",
        ),
        "Falcon 9 with DSCOVR at Cape Canaveral, SpaceX Photos",
        "public domain",
    ),
    _Photo(
        "camera.png",
        "photographer",
        (
            "a black-and-white photograph of a man with a camera on a tripod",
            "a photographer in a dark coat bends to look through his camera",
            "a cameraman on a lawn, with a tower and low buildings far behind him",
        ),
        "photograph by Lav Varshney",
        "CC0",
    ),
    _Photo(
        "coins.png",
        "coin collection",
        (
            "four rows of old coins on a dark background",
            "twenty-four ancient coins laid out in a grid",
            "a black-and-white picture of a collection of worn Greek coins",
        ),
        "Greek coins from Pompeii, Brooklyn Museum Collection",
        "no known copyright restrictions",
    ),
    _Photo(
        "horse.png",
        "horse",
        (
            "the black silhouette of a horse on a white background",
            "a horse in profile, facing right",
            "a black shape of a standing horse with a long tail",
        ),
        "openclipart, drawing by Andreas Preuss (marauder)",
        "CC0",
    ),
    _Photo(
        "retina.jpg",
        "retina",
        (
            "a photograph of the back of a human eye",
            "an orange-red disc with branching blood vessels on a black background",
            "a retina with a bright spot on the left, from which the vessels spread",
        ),
        "Mikael Häggström, Wikimedia Commons",
        "CC0",
    ),
    _Photo(
        "hubble_deep_field.jpg",
        "field of galaxies",
        (
            "hundreds of distant galaxies on a black sky",
            "a deep view into space, full of small coloured points of light",
            "a telescope picture of galaxies of many shapes and colours",
        ),
        "Hubble eXtreme Deep Field, HubbleSite (NASA)",
        "public domain",
    ),
    _Photo(
        "moon.png",
        "lunar surface",
        (
            "craters on the surface of the moon",
            "a grey picture of the lunar ground with a round crater at the top left",
            "the moon's surface from above, in low contrast",
        ),
        "surface of the moon",
        "no licence stated; distributed with scikit-image",
    ),
    _Photo(
        "brick.png",
        "brick wall",
        (
            "a wall of bricks in black and white",
            "dark bricks with pale mortar, standing upright",
            "a regular pattern of long grey bricks",
        ),
        "CC0Textures, transformed",
        "CC0",
    ),
    _Photo(
        "grass.png",
        "lawn",
        (
            "short grass seen from above, in black and white",
            "blades of grass and small leaves on the ground",
            "a grey picture of a lawn with some clover-like weeds in it",
        ),
        "DeviantArt, Grass 01 by linolafett",
        "CC0",
    ),
    _Photo(
        "gravel.png",
        "gravel bed",
        (
            "a layer of small grey stones",
            "gravel seen from above, in black and white",
            "sharp-edged pebbles that cover the whole picture",
        ),
        "CC0Textures, cropped",
        "CC0",
    ),
    _Photo(
        "page.png",
        "printed page",
        (
            "a scanned page about region-based segmentation",
            "black printed text on unevenly lit paper",
            "a heading, a paragraph and a line of Python code on a page",
        ),
        "scanned page",
        "no licence stated; distributed with scikit-image",
    ),
    _Photo(
        "text.png",
        "handwritten formula",
        (
            "handwritten mathematics on squared paper",
            "formulas written with a dark pen, seen at an angle",
            "a grey close-up of handwritten equations",
        ),
        "Wikipedia, Corner.png",
        "public domain",
    ),
    _Photo(
        "ihc.png",
        "microscope slide",
        (
            "stained tissue under a microscope",
            "brown glands with small blue cell nuclei between them",
            "a microscope picture of the cells of the colon",
        ),
        "immunohistochemical staining of colonic glands, Center for Microscopy And Molecular Imaging",
        "no known copyright restrictions",
    ),
)


class Photos:
    """Seventeen pictures with at least three captions and a class each (`PairDataset`).

    Raises:
        OptionError: a split other than "test".
        DataError: scikit-image is there but without its pictures.
    """

    name = "photos"
    classes = tuple(photo.label for photo in _PHOTOS)

    def __init__(self, split: str = "test"):
        if split != "test":
            raise OptionError(f"The dataset photos has no split {split!r}.", "Choose test.")
        self.split = split
        self._folder = _folder()
        self._cache = ImageCache(max_bytes=24 * 1024 * 1024)

    def __len__(self) -> int:
        return len(_PHOTOS)

    def __getitem__(self, index: int) -> Pair:
        photo = _PHOTOS[index]
        path = self._folder / photo.file
        return Pair(
            id=f"photos/test/{Path(photo.file).stem}",
            image=self._cache.get(photo.file, lambda: decode_image(path)),
            captions=photo.captions,
            label=photo.label,
            meta={"file": photo.file, "source": photo.source, "licence": photo.licence, "provider": "scikit-image"},
        )

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        """No two-image statements."""
        return ()

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Return None: captions are known only by pairing."""
        return None


def _folder() -> Path:
    spec = find_spec("skimage")  # the package's place, without importing it
    if spec is None or spec.origin is None:
        raise DataError("The sample photographs need scikit-image.", "Install it: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    missing = [photo.file for photo in _PHOTOS if not (folder / photo.file).is_file()]
    if missing:
        raise DataError(
            f"The installed scikit-image lacks {', '.join(missing)}.",
            "Install it from its wheel: pip install --force-reinstall scikit-image",
        )
    return folder
