"""The inner problem: its perturbations raise α·L_task − β·S_c, stay in the ball, and reduce to known cases."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cmai_core.errors import OptionError
from cmai_core.models import fused_forward as fast
from cmai_core.models.heads import ConsistencyHeads, HeadSizes
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.inner import InnerProblem, allotted, perturb
from cmai_core.training.losses import contrastive_logits, pairs_consistency
from cmai_core.training.recipes import get_recipe
from cmai_core.training.settings import INNER_LOSSES, Inner
from cmai_core.training.trainer import take_apart

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

ALL = torch.arange(8)
LOUD = get_recipe("cmai", batch=8, precision="fp32", **{"weights.classes": 1.0})


@pytest.fixture(scope="module")
def problem_of():
    model = helpers.model()
    parts = take_apart(model)
    sizes = HeadSizes(model.embed_dim, model.clip.visual.transformer.width, parts.text.token_embedding.embedding_dim)
    heads = ConsistencyHeads(sizes)
    batch = draw(helpers.arrays(), LOUD, 0, 0)
    pixels = to_pixels(batch.images)
    start = helpers.model(seed=1).clip.visual

    def make(inner: Inner, rows: torch.Tensor = ALL, with_heads: bool = True) -> InnerProblem:
        return InnerProblem(inner, parts, batch, rows, heads if with_heads else None, start, pixels[rows])

    make.model, make.parts, make.batch, make.pixels, make.heads = model, parts, batch, pixels, heads
    return make


@pytest.mark.parametrize("loss", INNER_LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_loss_is_raised_within_the_ball(problem_of, loss, norm):
    radius = 8 / 255 if norm == "linf" else 2.0
    inner = Inner(losses={loss: 1.0}, beta=0.5, norm=norm, epsilon=radius, steps=4, step_size=radius / 3, start="clean")
    problem, pixels = problem_of(inner), problem_of.pixels
    found = perturb(pixels, problem.objective, inner)
    delta = (found - pixels).flatten(1)
    size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    assert (size <= radius * (1 + 1e-4)).all() and found.min() >= 0 and found.max() <= 1
    with torch.no_grad():
        assert (problem.objective(found) > problem.objective(pixels)).all()
    assert all(p.grad is None for p in problem_of.model.clip.parameters())
    assert not found.requires_grad


@pytest.mark.parametrize("start", ["uniform", "noise", "previous"])
def test_starts_stay_where_they_may(problem_of, start):
    inner = Inner(epsilon=4 / 255, steps=1, step_size=4 / 255, start=start)
    before = torch.full((3, 3, 128, 128), 9 / 255)  # more than ε: has to be brought back into the ball
    options = {"generator": torch.Generator().manual_seed(0), "previous": before}
    found = perturb(problem_of.pixels, problem_of(inner).objective, inner, **options)
    reach = (12 if start == "noise" else 4) / 255
    size = (found - problem_of.pixels).abs().amax(dim=(1, 2, 3))
    assert (size <= reach + 1e-6).all() and (size > 0).all()
    again = perturb(
        problem_of.pixels,
        problem_of(inner).objective,
        inner,
        **{**options, "generator": torch.Generator().manual_seed(0)},
    )
    assert torch.equal(found, again)


def test_without_beta_it_is_the_image_side_of_the_contrastive_loss(problem_of):
    rows = torch.tensor([0, 2, 4, 6])
    parts, batch, pixels = problem_of.parts, problem_of.batch, problem_of.pixels
    with torch.no_grad():
        some = problem_of(Inner(beta=0.0), rows).objective(pixels[rows])
        texts, _ = fast.text_embedding(parts.text, batch.caption_ids)
        logits = contrastive_logits(parts.vision(pixels).pooled, texts, parts.logit_scale, batch.truth)
        expected = nn.functional.cross_entropy(logits, torch.arange(8), reduction="none")
    torch.testing.assert_close(some, expected[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_heads", [True, False])
def test_without_alpha_it_is_minus_beta_times_consistency(problem_of, with_heads):
    problem = problem_of(Inner(alpha=0.0, beta=2.0), with_heads=with_heads)
    parts, batch, pixels = problem_of.parts, problem_of.batch, problem_of.pixels
    heads = problem_of.heads if with_heads else None
    with torch.no_grad():
        texts, _ = fast.text_embedding(parts.text, batch.caption_ids)
        image = parts.vision(pixels)
        score = pairs_consistency(heads, image, texts if heads is None else heads.text(texts))
        torch.testing.assert_close(problem.objective(pixels), -2 * score)


def test_losses_share_the_images_in_proportion():
    groups = allotted(8, {"contrastive": 0.5, "question": 0.25, "caption": 0.25})
    assert {name: len(rows) for name, rows in groups.items()} == {"contrastive": 4, "question": 2, "caption": 2}
    assert sorted(torch.cat(list(groups.values())).tolist()) == list(range(8))
    # Spread evenly: each half of the batch has its part of every loss.
    assert all(int((rows < 4).sum()) * 2 == len(rows) for rows in groups.values())


def test_targeted_images_come_nearer_to_a_caption_that_is_false_of_them(problem_of):
    inner = Inner(targeted=1.0, epsilon=16 / 255, steps=6, step_size=4 / 255, start="clean")
    problem, pixels, batch = problem_of(inner), problem_of.pixels, problem_of.batch
    assert problem.aimed.all() and not batch.truth[ALL, problem.toward].any()
    found = perturb(pixels, problem.objective, inner)
    with torch.no_grad():
        texts, _ = fast.text_embedding(problem_of.parts.text, batch.caption_ids)
        goal = nn.functional.normalize(texts[problem.toward], dim=-1)
        before, after = (
            (nn.functional.normalize(problem_of.parts.vision(x).pooled, dim=-1) * goal).sum(dim=-1)
            for x in (pixels, found)
        )
    assert (after > before).all()


def test_images_do_not_depend_on_each_other(problem_of):
    inner = Inner(losses={"contrastive": 1.0}, epsilon=4 / 255, steps=2, step_size=2 / 255, start="clean")
    whole = perturb(problem_of.pixels, problem_of(inner).objective, inner)
    rows = torch.tensor([2, 3, 4])
    part = perturb(problem_of.pixels[rows], problem_of(inner, rows).objective, inner)
    # Signs of gradients near zero may differ with the order of summation.
    assert ((whole[rows] - part).abs() > 1e-6).float().mean() < 0.01


def test_nothing_is_perturbed_without_steps_or_radius(problem_of):
    for inner in (Inner(steps=0), Inner(epsilon=0.0)):
        assert torch.equal(perturb(problem_of.pixels, problem_of(inner).objective, inner), problem_of.pixels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"losses": {"nothing": 1.0}},
        {"losses": {}},
        {"alpha": 0.0, "beta": 0.0},
        {"alpha": -1.0},
        {"norm": "l1"},
        {"start": "anywhere"},
        {"start": "noise", "steps": 2},
        {"words": 2},
        {"targeted": 1.5},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(OptionError):
        replace(Inner(), **wrong)
