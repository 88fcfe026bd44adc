"""One word of a caption, replaced such that it stays true and hurts."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cmai_core.data import load_dataset
from cmai_core.errors import OptionError
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


@pytest.fixture(scope="module")
def scene():
    """(model, parts, edits, batch of 16, pixels, image features)."""
    model, data = load_model("tabletop", "cpu"), load_dataset("tabletop", split="test", limit=16)
    parts, edits = take_apart(model), TrueEdits.tabletop(bundled_tokenizer_dir() / "tokenizer.json")
    pairs = [data[k] for k in range(16)]
    pixels = model.preprocess([pair.image for pair in pairs])
    ids = model.tokenize([pair.captions[0] for pair in pairs])
    empty = draw(helpers.arrays(), get_recipe("tecoa", batch=16, nlvr_share=0.0, questions=0), 0, 0)
    batch = replace(empty, caption_ids=ids, truth=torch.eye(16, dtype=torch.bool))
    with torch.no_grad():
        image = parts.vision(pixels)
    return model, parts, edits, batch, pixels, image


def test_one_permitted_word_changes_and_lowers_the_consistency(scene):
    model, parts, edits, batch, pixels, image = scene
    ids, rows = batch.caption_ids, torch.arange(0, 16, 2)
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


def caption_losses(model, pixels, ids):
    with torch.no_grad():
        logits = model.fusion_logits(model.image_features(pixels).tokens, ids)[:, :-1]
    found = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=0, reduction="none")
    return found.sum(dim=1) / (ids[:, 1:] != 0).sum(dim=1)


def test_words_that_raise_the_captions_loss(scene):
    model, parts, edits, batch, pixels, image = scene
    ids, rows = batch.caption_ids, torch.arange(16)
    changed = worst_words(parts, None, batch, image, rows, Inner(words=1, text_losses={"caption": 1.0}), edits)
    different = (changed != ids).any(dim=1)
    assert int(different.sum()) >= 8 and int((changed != ids).sum(dim=1).max()) == 1
    found, clean = caption_losses(model, pixels, changed), caption_losses(model, pixels, ids)
    assert (found > clean)[different].float().mean() >= 0.75  # to first order: not every one rises
    # Against every permitted edit tried one by one: what is chosen gains most of what can be gained.
    options = edits.candidates(ids)
    best = []
    for row in range(4):
        place, k = (options[row] >= 0).nonzero(as_tuple=True)
        tried = ids[row].repeat(len(place), 1)
        tried[torch.arange(len(place)), place] = options[row, place, k]
        best.append(caption_losses(model, pixels[row : row + 1].expand(len(tried), -1, -1, -1), tried).amax())
    best = torch.stack(best)
    assert ((found - clean)[:4].sum() / (best - clean[:4]).sum()) > 0.7


@pytest.mark.parametrize("losses", [{"contrastive": 1.0}, {"caption": 1.0}])
def test_tried_one_by_one_the_worst_of_all_replacements_is_found(scene, losses):
    model, parts, edits, batch, pixels, image = scene
    ids, rows, embedded = batch.caption_ids, torch.arange(0, 16, 2), F.normalize(image.pooled, dim=-1)
    inner = Inner(words=1, beta=0.5, text_losses=losses, exhaustive=True)
    changed = worst_words(parts, None, batch, image, rows, inner, edits)
    assert torch.equal(changed[1::2], ids[1::2]) and not torch.equal(changed, ids)
    options = edits.candidates(ids)
    for row in rows.tolist():
        place, k = (options[row] >= 0).nonzero(as_tuple=True)
        tried = ids[row].repeat(len(place) + 1, 1)  # the last as it is
        tried[torch.arange(len(place)), place] = options[row, place, k]
        with torch.no_grad():
            cosines = model.encode_text(tried) @ embedded.T
            logits = model.logit_scale * cosines
            target = torch.full((len(tried),), row)
            loss = F.cross_entropy(logits, target, reduction="none")
        if "caption" in losses:
            loss = caption_losses(model, pixels[row].expand(len(tried), -1, -1, -1), tried)
        value = loss - 0.5 * cosines[:, row]
        mine = (tried == changed[row]).all(dim=1)
        assert value[mine].max() >= value.max() - 1e-4


def test_a_mixture_gives_each_loss_its_captions(scene):
    _, parts, edits, batch, _, image = scene
    rows = torch.arange(16)
    one, other, both = (
        worst_words(parts, None, batch, image, rows, Inner(words=1, text_losses=losses), edits)
        for losses in ({"contrastive": 1.0}, {"caption": 1.0}, {"contrastive": 1.0, "caption": 1.0})
    )
    assert torch.equal(both[0::2], one[0::2]) and torch.equal(both[1::2], other[1::2])
    assert not torch.equal(one, other)


def test_targeted_words_draw_towards_another_image(scene):
    model, parts, edits, batch, _, image = scene
    ids, rows = batch.caption_ids, torch.arange(16)
    changed = worst_words(parts, None, batch, image, rows, Inner(words=1, targeted=0.5), edits)
    plain = worst_words(parts, None, batch, image, rows, Inner(words=1), edits)
    assert torch.equal(changed[8:], plain[8:]) and not torch.equal(changed[:8], plain[:8])

    def toward(x):  # the share that the next image of the batch gets
        with torch.no_grad():
            logits = model.logit_scale * model.encode_text(x) @ F.normalize(image.pooled, dim=-1).T
        return logits.log_softmax(dim=-1)[torch.arange(8), torch.arange(8) + 1]

    assert (toward(changed[:8]) - toward(ids[:8])).mean() > 0


@pytest.mark.parametrize("losses", [{}, {"caption": 0.0}, {"caption": -1.0, "contrastive": 2.0}, {"question": 1.0}])
def test_a_mixture_that_cannot_be_is_refused(losses):
    with pytest.raises(OptionError, match="text_losses"):
        Inner(words=1, text_losses=losses)
