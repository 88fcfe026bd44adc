"""Training batches: drawn from (seed, step) alone, put together in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cmai_core.training.edits import TrueEdits, eda
from cmai_core.training.settings import Recipe

NO_OBJECT = 255


class Arrays(Protocol):
    """What training reads: see `data.tabletop.arrays.TrainingArrays`, which has it."""

    images: np.ndarray
    patch_labels: np.ndarray
    objects: np.ndarray
    frame: np.ndarray
    caption_ids: np.ndarray
    question_ids: np.ndarray
    question_answer_at: np.ndarray
    question_family: np.ndarray
    nlvr_left: np.ndarray
    nlvr_right: np.ndarray
    nlvr_ids: np.ndarray
    nlvr_answer_at: np.ndarray
    nlvr_truth: np.ndarray
    false_ids: np.ndarray
    class_ids: np.ndarray
    short_ids: np.ndarray
    question_things: np.ndarray

    def __len__(self) -> int: ...

    def truth(self, scene_rows: np.ndarray, caption_rows: np.ndarray, caption_columns: np.ndarray) -> np.ndarray: ...

    def class_targets(self, scene_rows: np.ndarray) -> np.ndarray: ...

    def short_truth(self, scene_rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class TrainingBatch:
    """One step's data: B scenes with a caption each.

    The first M images are the left, the next M the right ones of M two-image items.

    Attributes:
        rows: int64 B, scenes; columns: int64 B, which of each scene's captions.
        images: uint8 B×S×S×3.
        caption_ids: int64 B×48; truth: bool B×B, caption j (column) is true of image i (row).
        question_ids: int64 (B·K)×L, K questions an image, in the order of the images; answer_at: position of the
            answer's token; has_question: bool, False where an image has fewer questions.
        nlvr_ids: int64 M×L; nlvr_at: position of the token for true or false.
        patches: int64 B×P×6: shape (0 background), colour, material, size of what a patch shows, and its place among
            the scene's objects from left to right and from front to back (0: the first); −100 where it has none.
        false_ids: int64 B×48, the caption made false of its scene (padding alone where there is none); no rows where
            the recipe reads none.
        class_ids: int64 C×L, the class prompts; classes: bool B×C, which of them the scene holds; both empty where the
            recipe reads none.
        short_ids: int64 S×L, class prompts and short statements; short_truth: bool B×S, which of them are true of the
            scene; both empty where the recipe reads none.
        question_places: float32 (B·K)×4, right and depth of the first and of the second object that a question names,
            as the frame has them; NaN where it names none; no rows where the recipe reads none.
        more_ids, more_truth: int64 K×B×48 and bool K×B×B, further captions of the scenes, as caption_ids and truth.
    """

    rows: Tensor
    columns: Tensor
    images: Tensor
    caption_ids: Tensor
    truth: Tensor
    question_ids: Tensor
    answer_at: Tensor
    has_question: Tensor
    nlvr_ids: Tensor
    nlvr_at: Tensor
    patches: Tensor
    false_ids: Tensor
    class_ids: Tensor
    classes: Tensor
    short_ids: Tensor
    short_truth: Tensor
    question_places: Tensor
    more_ids: Tensor
    more_truth: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """Return the same on a device (a no-op on the CPU)."""
        if device.type == "cpu":
            return self
        moved = {f.name: getattr(self, f.name).pin_memory().to(device, non_blocking=True) for f in fields(self)}
        return TrainingBatch(**moved)


def _trim(ids: np.ndarray) -> np.ndarray:
    return ids[:, : max(1, int((ids != 0).sum(axis=1).max(initial=1)))]


def places(objects: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Rank the objects of each scene from left to right and from front to back.

    Args:
        objects: int8 B×4×4, −1 for "no such object". frame: float32 B×4×2, right and depth (see `encode_scenes`).

    Returns:
        int64 B×4×2, 0 for the leftmost and for the nearest; meaningless where there is no such object.
    """
    there = np.where(objects[..., :1] >= 0, frame, np.inf)
    return there.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").astype(np.int64)


def patch_targets(patch_labels: np.ndarray, objects: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Say what each patch shows, as `TrainingBatch.patches`.

    Args:
        patch_labels: uint8 B×G×G, object indices (255: none). objects, frame: as `places` takes them.
    """
    flat = patch_labels.reshape(len(patch_labels), -1)
    empty = flat == NO_OBJECT
    index = np.where(empty, 0, flat).astype(np.int64)
    known = np.concatenate([objects.astype(np.int64), places(objects, frame)], axis=2)
    found = np.take_along_axis(known, index[:, :, None], axis=1)
    found[empty] = -100
    found[..., 0] = np.where(empty, 0, found[..., 0] + 1)
    return found


def balanced_keys(families: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw sort keys B×Q such that the first K questions of a scene are of any family with the same chance.

    A family that can rarely be asked (spatial: one question in eight) was answered at chance after 620,000 pairs.

    Args:
        families: int8 B×Q, −1 where there is no question: its key is infinite.
    """
    same = families[:, :, None] == families[:, None, :]
    return np.where(families < 0, np.inf, rng.exponential(size=families.shape) * same.sum(axis=2))


def question_places(arrays: Arrays, rows: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """Return `TrainingBatch.question_places` of the questions `picked` (B×K) of scenes `rows`."""
    things = np.asarray(arrays.question_things[rows[:, None], picked]).astype(np.int64)
    frame = np.asarray(arrays.frame[rows])[:, None]
    found = np.take_along_axis(frame, np.maximum(things, 0)[..., None], axis=2)
    return np.where(things[..., None] < 0, np.nan, found).reshape(-1, 4).astype(np.float32)


def draw(arrays: Arrays, recipe: Recipe, seed: int, step: int, edits: TrueEdits | None = None) -> TrainingBatch:
    """Return the batch of a step; depends on its arguments only. `edits`: the synonyms of easy data augmentation."""
    rng = np.random.default_rng((seed, step))
    size, scenes = recipe.batch, len(arrays)
    items = int(size * recipe.nlvr_share) if len(arrays.nlvr_truth) and recipe.weights.nlvr else 0
    chosen = rng.integers(0, len(arrays.nlvr_truth), items) if items else np.zeros(0, np.int64)
    rest = rng.integers(0, scenes, size - 2 * items)
    if recipe.views == 2:  # the second half of the batch shows the scenes of the first half again
        first = np.concatenate([arrays.nlvr_left[chosen], arrays.nlvr_right[chosen], rest])[: size // 2]
        rest = np.concatenate([first, first])[2 * items :]
    rows = np.concatenate([arrays.nlvr_left[chosen], arrays.nlvr_right[chosen], rest]).astype(np.int64)
    columns = rng.integers(0, arrays.caption_ids.shape[1], size)
    truth = np.array(arrays.truth(rows, rows, columns), dtype=bool)
    np.fill_diagonal(truth, True)

    more_ids, more_truth = _further_captions(arrays, recipe, rows, columns, rng, edits)
    false = arrays.false_ids[rows, columns] if recipe.reads_false_captions else np.zeros((0, 1))
    class_ids = arrays.class_ids if recipe.reads_classes else np.zeros((0, 1))
    classes = arrays.class_targets(rows) if recipe.reads_classes else np.zeros((size, 0), bool)

    short = (arrays.short_ids, arrays.short_truth(rows)) if recipe.reads_short_texts else (np.zeros((0, 1)),) * 2

    asked = recipe.questions if recipe.weights.question else 0
    keys = balanced_keys(arrays.question_family[rows], rng)
    picked = np.argsort(keys, axis=1)[:, :asked]
    has_question = np.isfinite(np.take_along_axis(keys, picked, axis=1).reshape(-1))
    question_ids = arrays.question_ids[rows[:, None], picked].reshape(size * asked, arrays.question_ids.shape[2])
    answer_at = arrays.question_answer_at[rows[:, None], picked].reshape(-1)

    tensor = torch.from_numpy
    return TrainingBatch(
        rows=tensor(rows),
        columns=tensor(columns),
        images=tensor(arrays.images[rows]),
        caption_ids=tensor(arrays.caption_ids[rows, columns].astype(np.int64)),
        truth=tensor(truth),
        question_ids=tensor(_trim(question_ids.astype(np.int64))),
        answer_at=tensor(np.maximum(answer_at.astype(np.int64), 1)),
        has_question=tensor(has_question),
        nlvr_ids=tensor(_trim(arrays.nlvr_ids[chosen].astype(np.int64))),
        nlvr_at=tensor(arrays.nlvr_answer_at[chosen].astype(np.int64)),
        patches=tensor(patch_targets(arrays.patch_labels[rows], arrays.objects[rows], arrays.frame[rows])),
        false_ids=tensor(false.astype(np.int64)),
        class_ids=tensor(class_ids.astype(np.int64)),
        classes=tensor(classes),
        short_ids=tensor(short[0].astype(np.int64)),
        short_truth=tensor(short[1].astype(bool)),
        question_places=tensor(question_places(arrays, rows, picked) if recipe.reads_things else np.zeros((0, 4))),
        more_ids=tensor(more_ids),
        more_truth=tensor(more_truth),
    )


def _further_captions(
    arrays: Arrays,
    recipe: Recipe,
    rows: np.ndarray,
    columns: np.ndarray,
    rng: np.random.Generator,
    edits: TrueEdits | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scenes' captions after the first chosen one, in turn, with the recipe's augmentation."""
    ids, truth, number = [], [], arrays.caption_ids.shape[1]
    for k in range(1, recipe.captions):
        others = (columns + k) % number
        some = arrays.caption_ids[rows, others].astype(np.int64)
        ids.append(eda(some, edits, rng, recipe.eda) if recipe.eda else some)
        true = np.array(arrays.truth(rows, rows, others), dtype=bool)
        np.fill_diagonal(true, True)
        truth.append(true)
    if not ids:
        return np.zeros((0, len(rows), 1), np.int64), np.zeros((0, len(rows), len(rows)), bool)
    return np.stack(ids), np.stack(truth)


class Prefetcher:
    """Iterates (step, batch) from `start` on, every `stride`-th step, with up to `depth` batches put together ahead.

    Close it when done.
    """

    def __init__(
        self,
        arrays: Arrays,
        recipe: Recipe,
        seed: int,
        start: int,
        depth: int = 3,
        stride: int = 1,
        edits: TrueEdits | None = None,
    ):
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(arrays, recipe, seed, start, stride, edits), name="cmai-batches", daemon=True
        )
        self._thread.start()

    def _work(self, arrays: Arrays, recipe: Recipe, seed: int, step: int, stride: int, edits: TrueEdits | None) -> None:
        while not self._stop.is_set():
            try:
                item: Any = (step, draw(arrays, recipe, seed, step, edits))
            except Exception as error:  # handed to the training thread, which raises it
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return
            step += stride

    def __iter__(self) -> Iterator[tuple[int, TrainingBatch]]:
        while True:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)


def to_pixels(images: Tensor, recipe: Recipe | None = None, seed: int = 0, step: int = 0) -> Tensor:
    """Return uint8 B×S×S×3 → float32 B×3×S×S in [0, 1], with the recipe's augmentation (none without a recipe)."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255).contiguous()
    if recipe is None or not (recipe.brightness or recipe.shift):
        return pixels
    rng = np.random.default_rng((seed, step, 1))
    if recipe.brightness:
        factor = 1 + recipe.brightness * rng.uniform(-1, 1, (len(pixels), 1, 1, 1))
        pixels = pixels.mul_(torch.from_numpy(factor).to(pixels)).clamp_(max=1.0)
    if recipe.shift:
        for row, (dy, dx) in enumerate(rng.integers(-recipe.shift, recipe.shift + 1, (len(pixels), 2))):
            pixels[row] = _shifted(pixels[row], int(dy), int(dx))
    return pixels


def _shifted(image: Tensor, dy: int, dx: int) -> Tensor:
    """Return an image moved by whole pixels; the border repeats."""
    height, width = image.shape[-2:]
    ys = (torch.arange(height, device=image.device) - dy).clamp_(0, height - 1)
    xs = (torch.arange(width, device=image.device) - dx).clamp_(0, width - 1)
    return image[:, ys][:, :, xs]
