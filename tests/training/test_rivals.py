"""The queue of earlier captions, what V_verify learns from it, and heads that leave the towers alone."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cmai_core.errors import OptionError
from cmai_core.models import fused_forward as fast
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.extra_losses import extra_losses, retrieved
from cmai_core.training.losses import step_losses, unit
from cmai_core.training.recipes import get_recipe
from cmai_core.training.rivals import CaptionQueue
from cmai_core.training.settings import Weights
from cmai_core.training.trainer import Training

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 1, "ema": 0.0, "queue": 20, "architecture": "tabletop"}


def training_of(name: str, **changes) -> Training:
    recipe = get_recipe(name, **{**SMALL, **changes})
    training = Training(helpers.model(), recipe, 0, helpers.arrays(seed=5), arrays=helpers.arrays())
    training.total_steps = 10
    return training


def test_the_queue_keeps_the_last_captions_and_knows_what_is_true():
    data, recipe = helpers.arrays(), get_recipe("mbat-2", **SMALL)
    queue, batches = CaptionQueue(20, data), [draw(data, recipe, 0, step) for step in range(4)]
    assert queue.beside(batches[0]) is None
    texts = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0))
    for embeddings, batch in zip(texts, batches, strict=True):
        queue.push(embeddings, batch.rows, batch.columns)
    found = queue.beside(batches[0])
    kept = lambda name: torch.cat([getattr(b, name) for b in batches])[-20:]  # noqa: E731
    assert len(queue) == 20
    torch.testing.assert_close(found.texts, F.normalize(texts.flatten(0, 1)[-20:], dim=-1))
    assert torch.equal(found.ids, kept("caption_ids"))
    same = data.classes[batches[0].rows.numpy()][:, None] == data.classes[kept("rows").numpy()][None, :]
    assert found.truth.tolist() == same.tolist()
    other = CaptionQueue(20, data)
    other.restore(queue.state(), torch.device("cpu"))
    assert torch.equal(other.beside(batches[1]).texts, queue.beside(batches[1]).texts)
    assert torch.equal(other.beside(batches[1]).truth, queue.beside(batches[1]).truth)


def test_a_training_fills_its_queue_with_the_captions_of_its_steps():
    training = training_of("mbat-2")
    batches = [draw(helpers.arrays(), training.recipe, 0, step) for step in range(3)]
    for batch in batches[:2]:
        training.advance(batch)
    before = training.queue.beside(batches[2])
    assert torch.equal(before.ids, torch.cat([b.caption_ids for b in batches[:2]]))
    with torch.no_grad():
        texts = unit(fast.text_embedding(training.parts.text, batches[2].caption_ids)[0])
    training.advance(batches[2])
    torch.testing.assert_close(training.queue.beside(batches[2]).texts[-8:], texts)
    with pytest.raises(OptionError, match="queue"):
        Training(helpers.model(), training.recipe, 0, helpers.arrays())


@pytest.fixture(scope="module")
def step():
    """(training with heads and a full queue, a step's features, its rivals)."""
    training = training_of("cmcv-mbat-2")
    for number in range(3):
        training.advance(draw(helpers.arrays(), training.recipe, 0, number))
    batch = draw(helpers.arrays(), training.recipe, 0, 3)
    recipe = replace(training.recipe, weights=Weights(verify=1.0))
    _, _, features = step_losses(training.parts, None, batch, to_pixels(batch.images), recipe.weights)
    return training, features, training.queue.beside(batch)


def test_on_policy_the_negative_is_the_false_caption_that_the_picture_ranks_highest(step):
    training, features, rivals = step
    ids, there = retrieved(features, rivals, 8)
    model, batch = training.model, features.batch
    with torch.no_grad():
        images = model.encode_image(to_pixels(batch.images))
        texts = torch.cat([model.encode_text(batch.caption_ids), rivals.texts])
    scores = (images @ texts.T).masked_fill(torch.cat([batch.truth, rivals.truth], dim=1), float("-inf"))
    assert there.all()
    assert torch.equal(ids, torch.cat([batch.caption_ids, rivals.ids])[scores.argmax(dim=1)])
    alone, _ = retrieved(features, None, 4)
    assert torch.equal(alone, batch.caption_ids[scores[:4, :8].argmax(dim=1)])


@pytest.mark.parametrize("on_policy", [False, True])
def test_heads_on_detached_towers_learn_and_leave_the_towers_gradients_alone(step, on_policy):
    training, features, rivals = step

    def gradients(frozen):
        recipe = replace(training.recipe, weights=Weights(verify=1.0), detached_heads=frozen, on_policy=on_policy)
        loss, _ = extra_losses(features, recipe, heads=training.heads, rivals=rivals)
        named = {n: p for n, p in training.module.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
        return loss, {n: g for n, g in zip(named, found, strict=True) if g is not None and bool(g.any())}

    loss, alone = gradients(True)
    same, both = gradients(False)
    torch.testing.assert_close(loss, same)
    assert alone and all(n.startswith("heads.") for n in alone)
    assert any(n.startswith("clip.visual.") for n in both) and any(n.startswith("clip.text.") for n in both)
    assert any(n.startswith("clip.text_decoder.") for n in both)
    for name, gradient in alone.items():
        torch.testing.assert_close(gradient, both[name])


def test_the_towers_of_a_step_do_not_know_that_detached_heads_learn():
    """The same recipe with another weight of the heads' losses leaves towers and decoder where they were."""
    after = []
    for weight in (0.5, 2.0):
        training = training_of("cmcv-mbat-2", **{"weights.verify": weight, "clip_norm": 1e9})
        training.advance(draw(helpers.arrays(), training.recipe, 0, 0))
        after.append(dict(training.module.named_parameters()))
    one, two = after
    towers = [n for n in one if n.startswith("clip.")]
    assert all(torch.equal(one[n], two[n]) for n in towers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inner.losses": {"verified": 1.0}},
        {"weights.nlvr": 0.0},
        {"on_policy": True},
        {"queue": -1},
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(OptionError):
        get_recipe("mbat-2", **wrong)
