"""One word of a caption, replaced such that it stays true and hurts."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch

from cmai_core.data import load_dataset
from cmai_core.models import load_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.batches import draw
from cmai_core.training.edits import TrueEdits
from cmai_core.training.recipes import get_recipe
from cmai_core.training.settings import Inner
from cmai_core.training.text_inner import worst_words
from cmai_core.training.trainer import take_apart

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


def test_one_permitted_word_changes_and_lowers_the_consistency():
    model, data = load_model("tabletop", "cpu"), load_dataset("tabletop", split="test", limit=16)
    parts, edits = take_apart(model), TrueEdits.tabletop(bundled_tokenizer_dir() / "tokenizer.json")
    pairs = [data[k] for k in range(16)]
    pixels = model.preprocess([pair.image for pair in pairs])
    ids = model.tokenize([pair.captions[0] for pair in pairs])
    empty = draw(helpers.arrays(), get_recipe("tecoa", batch=16, nlvr_share=0.0, questions=0), 0, 0)
    batch = replace(empty, caption_ids=ids, truth=torch.eye(16, dtype=torch.bool))
    rows = torch.arange(0, 16, 2)
    with torch.no_grad():
        image = parts.vision(pixels)
    changed = worst_words(parts, None, batch, image, rows, Inner(alpha=0.0, beta=1.0, words=1), edits)
    different = changed != ids
    assert not different[1::2].any() and int(different.sum(dim=1).max()) == 1
    assert different[rows].any(dim=1).sum() >= 4
    allowed = edits.candidates(ids)
    row, place = different.nonzero(as_tuple=True)
    assert (allowed[row, place] == changed[row, place][:, None]).any(dim=1).all()
    with torch.no_grad():
        before, after = (model.consistency(pixels, x) for x in (ids, changed))
    assert (after - before)[row].mean() < 0
