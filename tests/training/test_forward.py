"""The training's own forward passes against open_clip's modules: values and gradients."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmai_core.models import fused_forward as fast
from cmai_core.training import packed
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.losses import PatchHead, contrastive_logits, contrastive_loss, step_losses
from cmai_core.training.recipes import get_recipe
from cmai_core.training.settings import Weights

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def model():
    return helpers.model()


@pytest.fixture(scope="module")
def parts(model):
    from cmai_core.training.trainer import take_apart

    return take_apart(model)


@pytest.mark.parametrize("architecture", ["tabletop", "tabletop-b"])
def test_image_tower_equals_open_clip(architecture):
    model = helpers.model(architecture)
    from cmai_core.training.trainer import take_apart

    pixels = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    found = take_apart(model).vision(pixels)
    pooled, tokens = model.clip.visual((pixels - 0.5) / 0.5)
    close(found.pooled, pooled)
    close(found.tokens, tokens)
    assert found.grid.shape == (3, 64, model.clip.visual.transformer.width)


@pytest.mark.parametrize("lengths", [(5, 9, 20), (46, 47, 48), (48, 3, 12)])
def test_text_tower_equals_open_clip_at_every_length(model, parts, lengths):
    ids = torch.zeros(len(lengths), 48, dtype=torch.long)
    generator = torch.Generator().manual_seed(2)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 1024, (length,), generator=generator)
    pooled, states = model.clip.text(ids)
    short = fast.trim(ids)
    found, found_states = fast.text_embedding(parts.text, short)
    close(found, pooled)
    for row, length in enumerate(lengths):
        close(found_states[row, :length], states[row, :length])
        close(fast.text_states(parts.text, short)[row, :length], states[row, :length])
    texts = packed.lay_out(ids, [], pad=0, context=48)
    close(packed.encode_texts(parts.text, texts)[0], pooled)


def test_decoder_with_shared_images_equals_open_clip(model, parts):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, 64, 120, generator=generator)
    one, two = torch.randn(2, 7, 120, generator=generator), torch.randn(6, 5, 120, generator=generator)
    reader = torch.tensor([4, 0, 1, 2, 3, 4])
    first, second = fast.decode(parts.decoder, tokens, [one, two])
    (read,) = fast.decode(parts.decoder, tokens, [two], [reader])
    close(fast.vocabulary_logits(parts.decoder, first), model.clip.text_decoder(tokens, one), 1e-4)
    expected = model.clip.text_decoder(tokens.repeat_interleave(3, 0), two)
    close(fast.vocabulary_logits(parts.decoder, second), expected, 1e-4)
    close(fast.vocabulary_logits(parts.decoder, read), expected[torch.arange(6), reader], 1e-4)


def reference_losses(model, head, batch, pixels):
    """The same losses with open_clip's modules, padded texts and one decoder call a text."""
    clip = model.clip
    pooled, tokens = clip.visual((pixels - 0.5) / 0.5)
    text, states = clip.text(batch.caption_ids)
    logits = clip.logit_scale.exp() * F.normalize(pooled, dim=-1) @ F.normalize(text, dim=-1).T
    hidden = batch.truth & ~torch.eye(len(pixels), dtype=torch.bool)
    logits = logits.masked_fill(hidden, float("-inf"))
    target = torch.arange(len(pixels))
    losses = {"contrastive": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}
    words = clip.text_decoder(tokens, states[:, :-1])
    losses["caption"] = F.cross_entropy(words.flatten(0, 1), batch.caption_ids[:, 1:].flatten(), ignore_index=0)

    def answered(image_tokens, ids, at):
        logits = clip.text_decoder(image_tokens, model.text_states(ids))
        rows = torch.arange(len(ids))
        return F.cross_entropy(logits[rows, at - 1], ids[rows, at], reduction="none")

    asked = answered(tokens.repeat_interleave(2, 0), batch.question_ids, batch.answer_at)
    losses["question"] = asked[batch.has_question].mean()
    items = len(batch.nlvr_ids)
    joined = model.two_image_tokens(tokens[:items], tokens[items : 2 * items])
    losses["nlvr"] = answered(joined, batch.nlvr_ids, batch.nlvr_at).mean()
    losses["patch"] = head(tokens, batch.patches)
    return losses


def test_step_losses_and_gradients_equal_the_plain_computation(model, parts):
    recipe = get_recipe("base", batch=8, brightness=0.0)
    batch = draw(helpers.arrays(), recipe, seed=4, step=7)
    assert not batch.has_question.all() or batch.has_question.any()
    head = PatchHead(120, torch.Generator().manual_seed(5))
    pixels = to_pixels(batch.images)
    weights = Weights(1.0, 0.7, 0.5, 0.9, 0.3)
    total, seen, _ = step_losses(parts, head, batch, pixels, weights)
    expected = reference_losses(model, head, batch, pixels)
    for name, value in expected.items():
        close(seen[name], value, 1e-4)
    plain = sum(getattr(weights, name) * value for name, value in expected.items())
    close(total, plain, 1e-4)
    named = dict(model.clip.named_parameters())
    ours = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    theirs = torch.autograd.grad(plain, list(named.values()), allow_unused=True)
    for name, a, b in zip(named, ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert (a - b).norm() <= 2e-4 * (b.norm() + 1e-3), name


@pytest.mark.parametrize("left_out", ["caption", "question", "nlvr", "patch", "contrastive"])
def test_a_loss_of_weight_zero_is_left_out_and_changes_no_other(parts, left_out):
    from dataclasses import replace

    recipe = get_recipe("base", batch=8, brightness=0.0)
    batch = draw(helpers.arrays(), recipe, seed=4, step=7)
    head = PatchHead(120, torch.Generator().manual_seed(5))
    pixels = to_pixels(batch.images)
    _, whole, _ = step_losses(parts, head, batch, pixels, Weights())
    _, seen, _ = step_losses(parts, head, batch, pixels, replace(Weights(), **{left_out: 0.0}))
    assert left_out not in seen
    for name in set(whole) & set(seen):
        close(seen[name], whole[name], 1e-4)


def test_bf16_stays_near_fp32(parts):
    recipe = get_recipe("base", batch=8, brightness=0.0)
    batch = draw(helpers.arrays(), recipe, seed=4, step=7)
    head = PatchHead(120, torch.Generator().manual_seed(5))
    pixels = to_pixels(batch.images)
    _, exact, _ = step_losses(parts, head, batch, pixels, Weights())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, rounded, _ = step_losses(parts, head, batch, pixels, Weights())
    for name in ("contrastive", "caption", "question", "nlvr", "patch"):
        assert abs(rounded[name] - exact[name]) < 0.02 * exact[name], name


def test_captions_true_of_another_image_are_no_negatives():
    images, texts = torch.eye(3), torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    truth = torch.eye(3, dtype=torch.bool)
    scale = torch.tensor(np.log(10.0))
    strict = contrastive_loss(contrastive_logits(images, texts, scale, truth))
    truth[0, 1] = True
    lenient = contrastive_logits(images, texts, scale, truth)
    assert lenient[0, 1] == float("-inf") and torch.isfinite(lenient[1, 0])
    assert contrastive_loss(lenient) < strict
