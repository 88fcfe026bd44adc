"""The inner problem: its perturbations raise α·L_task − β·S_c, stay in the ball, and reduce to known cases."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.errors import OptionError
from cmai_core.models import fused_forward as fast
from cmai_core.models.heads import ConsistencyHeads, HeadSizes
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.inner import InnerProblem, allotted, perturb
from cmai_core.training.losses import contrastive_logits, pairs_consistency
from cmai_core.training.recipes import get_recipe
from cmai_core.training.rivals import CaptionQueue
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
        heads_or_none = heads if with_heads else None
        return InnerProblem(inner, parts, batch, rows, heads_or_none, start, pixels[rows], rivals)

    data = helpers.arrays()
    queue = CaptionQueue(20, data)
    for step in (1, 2, 3):  # batches of earlier steps, of which the last twenty captions stay
        other = draw(data, LOUD, 0, step)
        with torch.no_grad():
            queue.push(fast.text_embedding(parts.text, other.caption_ids)[0], other.rows, other.columns)
    rivals = queue.beside(batch)
    make.rivals = rivals
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


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_ranking_is_against_every_false_caption_of_batch_and_queue_and_the_own_false_one(problem_of, margin):
    model, batch, pixels, rivals = problem_of.model, problem_of.batch, problem_of.pixels, problem_of.rivals
    problem = problem_of(Inner(losses={"rank": 1.0}, margin=margin, beta=0.0))
    assert len(rivals.texts) == 20 and rivals.truth.any() and not rivals.truth.all()
    with torch.no_grad():
        found = problem.objective(pixels)
        images = model.encode_image(pixels)
        texts = [model.encode_text(ids) for ids in (batch.caption_ids, rivals.ids, batch.false_ids)]
        for row in range(8):
            own = model.logit_scale * images[row] @ texts[0][row]
            false = torch.cat([texts[0][~batch.truth[row]], texts[1][~rivals.truth[row]], texts[2][row : row + 1]])
            others = model.logit_scale * false @ images[row]
            expected = others.max() - own if margin else (own.exp() + others.exp().sum()).log() - own
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-3)


def test_a_share_goes_by_the_margin_and_the_others_by_cross_entropy(problem_of):
    one, other, both = (problem_of(Inner(losses={"rank": 1.0}, margin=m, beta=0.0)) for m in (0.0, 1.0, 0.5))
    with torch.no_grad():
        entropy, margin, mixed = (p.objective(problem_of.pixels) for p in (one, other, both))
    assert torch.equal(mixed[0::2], entropy[0::2]) and torch.equal(mixed[1::2], margin[1::2])


def test_verified_ranking_is_the_fused_score_that_answers(problem_of):
    """Against the wrapper's own scores and its verifier, caption by caption."""
    model, batch, pixels, rivals = problem_of.model, problem_of.batch, problem_of.pixels, problem_of.rivals
    rule = VerifiedAnswers(shortlist=3, temperature=2.0, gamma=0.5, kappa=0.7)
    inner = Inner(losses={"verified": 1.0}, margin=1.0, beta=0.0, answering=rule)
    model.heads = problem_of.heads
    with torch.no_grad():
        found = problem_of(inner).objective(pixels)
        images = model.encode_image(pixels)

        def fused(row, ids):
            scores = model.logit_scale * images[row : row + 1] @ model.encode_text(ids).T
            log_v = model.verify(pixels[row : row + 1].expand(len(ids), -1, -1, -1), ids, log=True)
            words = problem_of.parts.counted(ids).sum(dim=1)[None]
            return scores[0], rule.fuse(scores, log_v[None], words)[0]

        for row in range(8):
            kept = [batch.caption_ids[~batch.truth[row]], rivals.ids[~rivals.truth[row]], batch.false_ids[row, None]]
            false = torch.cat(kept)
            scores, others = fused(row, false)
            own = fused(row, batch.caption_ids[row, None])[1]
            expected = others[scores.topk(3).indices].max() - own[0]
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-3)
    model.heads = None


def test_statements_about_two_images_take_whole_pairs(problem_of):
    items = len(problem_of.batch.nlvr_ids)
    assert items == 2
    problem = problem_of(Inner(losses={"nlvr": 0.5, "rank": 0.5}, beta=0.0))
    assert problem.groups["nlvr"].tolist() == [0, 1, 2, 3] and problem.groups["rank"].tolist() == [4, 5, 6, 7]
    alone = problem_of(Inner(losses={"nlvr": 0.5, "rank": 0.5}), torch.tensor([0, 1, 3, 5]))
    assert alone.groups["nlvr"].tolist() == [1, 2]  # the first has no partner among the perturbed ones
    model, batch, pixels = problem_of.model, problem_of.batch, problem_of.pixels
    with torch.no_grad():
        found = problem.objective(pixels)[:4]
        tokens = model.two_image_tokens(*model.image_features(pixels[:4]).tokens.chunk(2))
        logits = model.fusion_logits(tokens, batch.nlvr_ids)
    each = torch.arange(2)
    loss = nn.functional.cross_entropy(
        logits[each, batch.nlvr_at - 1], batch.nlvr_ids[each, batch.nlvr_at], reduction="none"
    )
    torch.testing.assert_close(found, loss.repeat(2) / 2, rtol=1e-4, atol=1e-4)


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
        {"margin": 1.5},
        {"answering": VerifiedAnswers(shortlist=None)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(OptionError):
        replace(Inner(), **wrong)
