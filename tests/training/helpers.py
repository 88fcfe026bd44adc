"""Small models and random data in the layout that training reads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from cmai_core.models import new_model
from cmai_core.models.architectures import ARCHITECTURES
from cmai_core.training.trainer import take_apart

BOS, EOS = 1, 2


def model(architecture: str = "tabletop", seed: int = 0):
    assert architecture in ARCHITECTURES
    return new_model(architecture, torch.Generator().manual_seed(seed), "cpu")


def parts(architecture: str = "tabletop"):
    return take_apart(model(architecture))


def random_ids(rng: np.random.Generator, shape: tuple[int, ...], width: int, low: int, high: int) -> np.ndarray:
    """Padded token ids with begin and end tokens, of `low` to `high` tokens in all."""
    ids = np.zeros((*shape, width), np.uint16)
    for index in np.ndindex(shape):
        length = int(rng.integers(low, high + 1))
        ids[index][:length] = [BOS, *rng.integers(3, 1024, length - 2), EOS]
    return ids


class FakeArrays(SimpleNamespace):
    """Random scenes: noise images, a caption's truth is decided by the class of the scene."""

    def __len__(self) -> int:
        return len(self.images)

    def truth(self, scene_rows, caption_rows, caption_columns):
        return self.classes[scene_rows][:, None] == self.classes[caption_rows][None, :]

    def class_targets(self, scene_rows):
        """Twelve classes, of which a scene holds its own."""
        return self.classes[scene_rows][:, None] == np.arange(12)[None, :]

    def short_truth(self, scene_rows):
        """The classes, and three texts: true of every second scene, of all, of none."""
        more = [scene_rows % 2 == 0, scene_rows >= 0, scene_rows < 0]
        return np.concatenate([self.class_targets(scene_rows), np.stack(more, axis=1)], axis=1)


def arrays(scenes: int = 24, seed: int = 0, items: int = 16) -> FakeArrays:
    rng = np.random.default_rng(seed)
    questions = random_ids(rng, (scenes, 5), 32, 6, 11)
    nlvr = random_ids(rng, (items,), 48, 8, 14)
    family = rng.integers(0, 5, (scenes, 5)).astype(np.int8)
    family[::3, 3:] = -1
    questions[::3, 3:] = 0
    objects = rng.integers(0, 2, (scenes, 4, 4)).astype(np.int8)
    labels = rng.integers(0, 4, (scenes, 8, 8)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.5] = 255
    at = (questions != 0).sum(-1) - 2
    return FakeArrays(
        images=rng.integers(0, 256, (scenes, 128, 128, 3), dtype=np.uint8),
        patch_labels=labels,
        objects=objects,
        frame=rng.normal(size=(scenes, 4, 2)).astype(np.float32),
        caption_ids=random_ids(rng, (scenes, 3), 48, 5, 20),
        question_ids=questions,
        question_answer_at=np.maximum(at, 0).astype(np.int8),
        question_family=family,
        nlvr_left=rng.integers(0, scenes, items).astype(np.int32),
        nlvr_right=rng.integers(0, scenes, items).astype(np.int32),
        nlvr_ids=nlvr,
        nlvr_answer_at=((nlvr != 0).sum(-1) - 2).astype(np.int16),
        nlvr_truth=rng.random(items) < 0.5,
        classes=rng.integers(0, 12, scenes),
        false_ids=random_ids(rng, (scenes, 3), 48, 5, 20),
        class_ids=random_ids(rng, (12,), 8, 4, 6),
        short_ids=random_ids(np.random.default_rng((seed, 1)), (15,), 10, 4, 8),
        question_things=np.where(family[..., None] == 4, rng.integers(0, 4, (scenes, 5, 2)), -1).astype(np.int8),
    )
