"""What image tokens tell of places: positional embeddings are read off, and without them nothing is."""

import importlib.util
from pathlib import Path

import torch

from cmai_core.training.placement import NAMES, placement

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


def test_a_place_is_read_where_the_tower_knows_it_and_not_where_it_does_not():
    arrays, model = helpers.arrays(scenes=60, seed=4), helpers.model()
    model.clip.eval()
    arrays.images[:] = 128 + arrays.images // 32  # nearly grey: what tells patches apart is where they are
    knowing = placement(model, arrays, 60)
    assert set(knowing) == set(NAMES)
    assert knowing["place, vertical"] > 0.9 and knowing["place, horizontal"] > 0.9
    with torch.no_grad():
        model.clip.visual.positional_embedding.zero_()  # a bag of patches
    blind = placement(model, arrays, 60)
    assert blind["place, vertical"] < 0.3 and blind["place, horizontal"] < 0.3
