"""What the published rivals need, and what is offered to all: short true texts, LEAF's text side, ProEAT's stages."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from cmai_core.models import fused_forward as fast
from cmai_core.training.batches import draw
from cmai_core.training.extra_losses import prompts_loss
from cmai_core.training.losses import step_losses
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import Training

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 1, "ema": 0.0}


def training_of(name: str, **changes) -> Training:
    recipe = get_recipe(name, **{**SMALL, **changes})
    training = Training(helpers.model(recipe.architecture), recipe, 0, helpers.arrays(seed=5))
    training.total_steps = 10
    return training


def stepped(training: Training, number: int = 0) -> dict[str, torch.Tensor]:
    return training.advance(draw(helpers.arrays(), training.recipe, 0, number, training.edits))


def test_several_true_texts_are_positives_and_do_not_compete():
    recipe = get_recipe("tecoa", **SMALL, **{"weights.prompts": 1.0})
    batch = draw(helpers.arrays(), recipe, 0, 0)
    assert batch.short_truth.shape == (8, 15) and batch.short_truth[:, 13].all() and not batch.short_truth[:, 14].any()
    parts, pixels = helpers.parts(), torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        step = step_losses(parts, None, batch, pixels, replace(recipe.weights, patch=0.0))[2]
        found = prompts_loss(step)
        texts, _ = fast.text_embedding(parts.text, batch.short_ids, parts.pad)
    scores = parts.logit_scale.exp() * F.normalize(step.image.pooled, dim=-1) @ F.normalize(texts, dim=-1).T
    means = []
    for logits, truth in ((scores, batch.short_truth), (scores.T, batch.short_truth.T)):
        pairs = []
        for i, j in truth.nonzero().tolist():
            false = logits[i][~truth[i]]
            if len(false):
                pairs.append(F.cross_entropy(torch.cat([logits[i, j : j + 1], false])[None], torch.tensor([0])))
        means.append(torch.stack(pairs).mean())
    torch.testing.assert_close(found, sum(means) / 2)
    assert (
        get_recipe("tecoa").weights.prompts == 0
        and len(draw(helpers.arrays(), get_recipe("tecoa"), 0, 0).short_ids) == 0
    )


def test_short_texts_can_be_learned_by_any_recipe():
    training = training_of("tecoa", **{"weights.prompts": 1.0, "learning_rate": 2e-3})
    first = stepped(training)["prompts"]
    for _ in range(9):
        last = stepped(training)["prompts"]
    assert last < first
