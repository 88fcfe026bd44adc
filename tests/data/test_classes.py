"""Class targets and prompts for training are those of the zero-shot task."""

import numpy as np
import torch

from cmai_core.data.pair import Pair
from cmai_core.data.tabletop.classes import class_prompt_ids, class_targets
from cmai_core.data.tabletop.dataset import CLASSES, Tabletop, scene_of
from cmai_core.data.tabletop.statements import encode_scenes
from cmai_core.models import new_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.tasks.zero_shot import ZeroShot, prompt


def test_targets_are_those_of_the_task():
    scenes = [scene_of(split, k) for split in ("train", "holdout") for k in range(60)]
    image = np.zeros((128, 128, 3), np.uint8)
    pairs = [Pair(id=str(k), image=image, captions=("",), scene=scene) for k, scene in enumerate(scenes)]
    model = new_model("tabletop", torch.Generator().manual_seed(0), "cpu")
    prepared = ZeroShot().prepare(model, pairs, Tabletop("train"))
    targets = class_targets(encode_scenes(scenes)[0])
    assert targets.shape == (120, 48) and targets.dtype == bool
    assert np.array_equal(targets, prepared.target.numpy())
    assert 1 < targets.sum(1).mean() < 4


def test_prompts_are_those_of_the_task():
    model = new_model("tabletop", torch.Generator().manual_seed(0), "cpu")
    expected = model.tokenize([prompt(name, "tabletop") for name in CLASSES])
    ids = class_prompt_ids(bundled_tokenizer_dir() / "tokenizer.json")
    assert ids.dtype == np.int64 and ids.shape == (48, 5)
    assert np.array_equal(ids, expected[:, :5].numpy()) and not expected[:, 5:].any()


def test_no_object_no_class():
    assert not class_targets(np.full((2, 4, 4), -1, np.int8)).any()
