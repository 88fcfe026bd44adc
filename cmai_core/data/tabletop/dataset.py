"""Tabletop as a dataset: every split by name, the first 1,000 test scenes from the package, the rest rendered once.

Scene `k` of a split depends on (seed, split, k) alone; rendered chunks are cached and may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from cmai_core.data.pair import Pair, Question, TwoImageStatement
from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.questions import questions
from cmai_core.data.tabletop.sampling import sample_scene, scene_rng
from cmai_core.data.tabletop.scene import COLOURS, SHAPES, Scene
from cmai_core.data.tabletop.truth import TRUTH
from cmai_core.errors import DataError
from cmai_core.files import atomic, explained
from cmai_core.paths import assets_dir, cache_dir

IMAGE_SIZE = 128
SEED = 0
CAPTIONS_PER_SCENE = 6
SPLIT_SIZES = {"train": 64_000, "validation": 2_000, "test": 4_000, "holdout": 2_000, "final": 4_000}
SHIFTS = ("light", "table", "viewpoint", "style", "corruption")
SPLITS = (*SPLIT_SIZES, *(f"test-{kind}" for kind in SHIFTS))
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
STORED = 1_000
CHUNK = 250
_KEPT_CHUNKS = 24


@lru_cache(maxsize=4096)
def scene_of(split: str, index: int) -> Scene:
    """Return scene `index` of a base split (shifted splits share the test split's scenes)."""
    return sample_scene(scene_rng(SEED, split, index), split)


@lru_cache(maxsize=4096)
def captions_of(split: str, index: int) -> tuple[str, ...]:
    """Return the scene's captions; the first is the one that stands for it in galleries."""
    found = captions(scene_of(split, index), scene_rng(SEED, split, index, 1), CAPTIONS_PER_SCENE)
    return tuple(text for text, _ in found)


@lru_cache(maxsize=4096)
def questions_of(split: str, index: int) -> tuple[tuple[str, str, str], ...]:
    """Return the (question, answer, family) triples of the scene."""
    return tuple(questions(scene_of(split, index), scene_rng(SEED, split, index, 2)))


def stored_file() -> Path:
    """Return where the bundled part of the test split lies."""
    return assets_dir() / "tabletop" / "test.parquet"


class Tabletop:
    """One split of Tabletop (see `PairDataset`).

    Args:
        split: one of SPLITS.
        limit: keep only the first `limit` scenes.

    Raises:
        DataError: unknown split or a limit that is not positive.
    """

    name = "tabletop"
    classes = CLASSES

    def __init__(self, split: str = "test", limit: int | None = None):
        if split not in SPLITS:
            raise DataError(f"Tabletop has no split {split!r}.", f"Splits: {', '.join(SPLITS)}.")
        if limit is not None and limit < 1:
            raise DataError(f"A limit of {limit} leaves no scene.", "Give a positive number.")
        self.split = split
        self.base, _, self.shift = split.partition("-")
        self._length = min(limit or SPLIT_SIZES[self.base], SPLIT_SIZES[self.base])
        self._chunk = lru_cache(maxsize=_KEPT_CHUNKS)(self._load_chunk)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        if not -self._length <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        index %= self._length
        scene = self.scene(index)
        single = scene.objects[0] if len(scene.objects) == 1 else None
        return Pair(
            id=self.item_id(index),
            image=self.image(index),
            captions=captions_of(self.base, index),
            questions=tuple(Question(q, (a,), family) for q, a, family in questions_of(self.base, index)),
            label=f"{single.colour} {single.shape}" if single else None,
            scene=scene,
        )

    def item_id(self, index: int) -> str:
        """Return a scene's name without rendering it."""
        return f"{self.name}/{self.split}/{index}"

    def item_captions(self, index: int) -> tuple[str, ...]:
        """Return a scene's captions without rendering it; those of the bundled part are read, the others written."""
        stored = stored_captions() if self.split == "test" and index < STORED else ()
        return stored[index] if stored else captions_of(self.base, index)

    def item_scene(self, index: int) -> Scene:
        """Return the ground truth without the picture."""
        return scene_of(self.base, index)

    def item_version(self, index: int) -> str:
        """Return what the content of a scene depends on: the renderer's version and the seed."""
        from cmai_core.data.tabletop.render import RENDERER_VERSION

        return f"render-{RENDERER_VERSION}-{SEED}"

    def scene(self, index: int) -> Scene:
        """Return the scene without its picture."""
        return scene_of(self.base, index)

    def image(self, index: int) -> np.ndarray:
        """Return the picture: uint8 128×128×3."""
        if self.split == "test" and index < STORED and stored_file().is_file():
            return _stored_image(index)
        return self._chunk(index // CHUNK)[index % CHUNK]

    @cached_property
    def statements(self) -> Sequence[TwoImageStatement]:
        """As many balanced two-image statements as there are scenes."""
        if len(self) < 2:
            return ()
        scenes = [self.scene(k) for k in range(len(self))]
        rng = scene_rng(SEED, self.base, 0, 3)
        return tuple(TRUTH.two_image_statements(scenes, len(self), rng)) if len(self) >= 32 else ()

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray:
        """Return which caption is true of which scene: bool; unreadable ones are true of none."""
        return TRUTH.judge(captions, [self.scene(int(i)) for i in indices])[0]

    def _load_chunk(self, number: int) -> np.ndarray:
        from cmai_core.data.tabletop.render import RENDERER_VERSION, render
        from cmai_core.data.tabletop.shifts import render_shifted

        folder = cache_dir() / "tabletop" / f"v{RENDERER_VERSION}" / self.split
        path = folder / f"{number:05d}.npy"
        if path.is_file():
            try:
                return np.load(path)
            except (OSError, ValueError, EOFError):  # half-written by a run that was killed: make it again
                path.unlink(missing_ok=True)
        stop = min((number + 1) * CHUNK, SPLIT_SIZES[self.base])
        scenes = [self.scene(k) for k in range(number * CHUNK, stop)]
        images = (
            render_shifted(scenes, self.shift, SEED + number, IMAGE_SIZE) if self.shift else render(scenes, IMAGE_SIZE)
        )
        save_atomically(path, images)
        return images


def save_atomically(path: Path, array: np.ndarray) -> None:
    """Write a .npy file that is either whole or absent.

    Raises:
        DataError: it cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, array)


@lru_cache(maxsize=1)
def _stored_table():
    import pyarrow.parquet

    return pyarrow.parquet.read_table(stored_file(), columns=["image"])["image"]


@lru_cache(maxsize=1)
def stored_captions() -> tuple[tuple[str, ...], ...]:
    """Return the captions of the bundled scenes; () where they are not there."""
    if not stored_file().is_file():
        return ()
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(stored_file(), columns=["captions"])["captions"]
    return tuple(tuple(texts) for texts in column.to_pylist())


@lru_cache(maxsize=256)
def _stored_image(index: int) -> np.ndarray:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(_stored_table()[index].as_py()), formats=("WEBP",)) as picture:
        image = np.asarray(picture.convert("RGB"))
    image.flags.writeable = False
    return image


def write_stored(path: Path | None = None, number: int = STORED) -> Path:
    """Render and write the bundled part of the test split (lossless WebP inside Parquet, with all of its texts).

    Args:
        path: None: the bundled file. number: of scenes.

    Returns:
        The file.
    """
    import io

    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    from cmai_core.data.tabletop.render import render

    path = path or stored_file()
    rows = []
    for start in range(0, number, CHUNK):
        scenes = [scene_of("test", k) for k in range(start, min(start + CHUNK, number))]
        for k, image in enumerate(render(scenes, IMAGE_SIZE), start):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "WEBP", lossless=True, quality=60, method=4)
            rows.append(
                {
                    "id": f"tabletop/test/{k}",
                    "image": buffer.getvalue(),
                    "scene": scene_of("test", k).to_json(),
                    "captions": list(captions_of("test", k)),
                    "questions": json.dumps(questions_of("test", k)),
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary, compression="none")
    return path
