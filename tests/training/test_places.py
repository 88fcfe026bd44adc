"""What base-3 adds: the places of what its questions name."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from cmai_core.data.tabletop.sampling import HALF_DEPTH, HALF_WIDTH
from cmai_core.training.batches import draw
from cmai_core.training.losses import PlaceHead
from cmai_core.training.recipes import get_recipe

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

CHANGES = {"start": "", "batch": 16, "questions": 3}


def test_a_batch_holds_the_places_of_what_its_questions_name():
    arrays = helpers.arrays()
    batch = draw(arrays, get_recipe("base-3", **CHANGES), seed=0, step=0)
    places = batch.question_places.reshape(16, 3, 2, 2)
    found = 0
    for b, row in enumerate(batch.rows.tolist()):
        for q in range(3):
            ids = batch.question_ids[b * 3 + q].numpy()
            column = next((c for c in range(5) if (arrays.question_ids[row, c, : len(ids)] == ids).all()), None)
            if not batch.has_question[b * 3 + q] or column is None:
                continue
            things = arrays.question_things[row, column]
            if things[0] < 0:
                assert places[b, q].isnan().all()
                continue
            found += 1
            assert np.allclose(places[b, q].numpy(), arrays.frame[row, things])
    assert found > 3
    assert len(draw(arrays, get_recipe("base", batch=16), seed=0, step=0).question_places) == 0


def test_the_head_counts_what_is_known():
    head = PlaceHead(4)
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    unknown = torch.full((3, 4), float("nan"))
    assert head(states, unknown) == 0
    known = unknown.clone()
    known[1, :2] = torch.tensor([0.5, -0.5])
    half = torch.tensor([HALF_WIDTH, HALF_DEPTH])
    said = head.linear(torch.nn.functional.layer_norm(states, (4,)))[1, :2]
    assert torch.isclose(head(states, known), (said - known[1, :2] / half).square().mean())
