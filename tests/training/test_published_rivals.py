"""What the published rivals need, and what is offered to all: short true texts, LEAF's text side, ProEAT's stages."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cmai_core.data import load_dataset
from cmai_core.data.text import question_with_answer
from cmai_core.errors import OptionError
from cmai_core.models import fused_forward as fast
from cmai_core.models import load_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.batches import draw
from cmai_core.training.edits import TrueEdits
from cmai_core.training.extra_losses import prompts_loss
from cmai_core.training.inner import InnerProblem, perturb
from cmai_core.training.losses import step_losses
from cmai_core.training.projector import projector
from cmai_core.training.recipes import get_recipe
from cmai_core.training.settings import Inner
from cmai_core.training.text_inner import farthest_words, worst_question_words
from cmai_core.training.trainer import Training, take_apart

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


@pytest.fixture(scope="module")
def scene():
    """(parts, edits, batch of 16 with questions, pixels) of the bundled model and real scenes."""
    model, data = load_model("tabletop", "cpu"), load_dataset("tabletop", split="validation", limit=16)
    parts, edits = take_apart(model), TrueEdits.tabletop(bundled_tokenizer_dir() / "tokenizer.json")
    pairs = [data[k] for k in range(16)]
    empty = draw(helpers.arrays(), get_recipe("tecoa", batch=16, nlvr_share=0.0, questions=0), 0, 0)
    asked = [pair.questions[:2] for pair in pairs]
    before = [model.tokenize([q.text for q in some]) for some in asked]
    ids = torch.cat([model.tokenize([question_with_answer(q.text, q.answers[0]) for q in some]) for some in asked])
    pixels = model.preprocess([pair.image for pair in pairs])
    batch = replace(
        empty,
        images=(pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1),
        caption_ids=model.tokenize([pair.captions[0] for pair in pairs]),
        truth=torch.eye(16, dtype=torch.bool),
        question_ids=ids,
        answer_at=(torch.cat(before) != 0).sum(dim=1) - 1,
        has_question=torch.ones(32, dtype=torch.bool),
    )
    return parts, edits, batch, pixels


def test_the_farthest_of_the_words_drawn_is_found_by_trying_them(scene):
    parts, edits, batch, _ = scene
    rows = torch.arange(0, 16, 2)
    changed = farthest_words(parts, parts.text, batch, rows, edits, torch.Generator().manual_seed(0), tried=10_000)
    different = changed != batch.caption_ids
    assert not different[1::2].any() and int(different.sum(dim=1).max()) == 1 and different[rows].any()
    few = farthest_words(parts, parts.text, batch, rows, edits, torch.Generator().manual_seed(0), tried=2)
    with torch.no_grad():
        goal, _ = fast.text_embedding(parts.text, batch.caption_ids)

        def distance(ids):
            return (fast.text_embedding(parts.text, ids)[0] - goal).square().sum(dim=-1)

        far = distance(changed)
        assert (far[rows] >= distance(few)[rows] - 1e-4).all() and far[rows].sum() > distance(few)[rows].sum()
        row, options = int(rows[0]), edits.candidates(batch.caption_ids[rows[:1]])[0]
        place, k = (options >= 0).nonzero(as_tuple=True)
        tried = batch.caption_ids[row].repeat(len(place), 1)
        tried[torch.arange(len(place)), place] = options[place, k]
        each = (fast.text_embedding(parts.text, tried)[0] - goal[row]).square().sum(dim=-1)
    torch.testing.assert_close(far[row], each.max())


def test_leaf_brings_edited_captions_back_to_where_the_words_were(scene):
    recipe = get_recipe("leaf", **{**SMALL, "batch": 16, "learning_rate": 3e-5})
    training = Training(load_model("tabletop", "cpu"), recipe, 0)
    training.total_steps = 12
    seen = [training.advance(scene[2]) for _ in range(12)]
    first, last = float(seen[0]["text_drift"]), sum(float(s["text_drift"]) for s in seen[-4:]) / 4
    assert last < 0.85 * first and seen[0]["drift"] > 0  # which edits are drawn differs from step to step


def test_answers_and_captions_that_are_drawn_near_are_wrong_ones(scene):
    parts, _, batch, pixels = scene
    rows = torch.arange(16)
    inner = Inner(losses={"question": 1.0, "caption": 1.0}, targeted=0.5, epsilon=8 / 255, steps=5, start="clean")
    problem = InnerProblem(inner, parts, batch, rows, None, None, pixels)
    own = batch.question_ids[::2].gather(1, batch.answer_at[::2, None])[:, 0][problem.groups["question"]]
    aimed = problem.asked_for
    assert aimed.tolist() == [True] * 4 + [False] * 4 == problem.written.tolist()
    assert (problem.answers != own).tolist() == aimed.tolist()
    assert set(problem.answers.tolist()) <= set(batch.question_ids.gather(1, batch.answer_at[:, None])[:, 0].tolist())
    attacked = perturb(pixels, problem.objective, inner)
    with torch.no_grad():
        image, clean = parts.vision(attacked), parts.vision(pixels)
        asked, written = problem.groups["question"], problem.groups["caption"]
        gains = [
            problem._question(image, asked) - problem._question(clean, asked),
            problem._caption(image, written) - problem._caption(clean, written),
        ]
    assert all(gain.mean() > 0 and (gain > 0).float().mean() > 0.8 for gain in gains)
    assert (problem._question(clean, asked)[aimed] < 0).all() and (problem._caption(clean, written)[:4] < 0).all()


def test_one_word_before_the_answer_changes_and_the_answer_gets_less_likely(scene):
    parts, edits, batch, pixels = scene
    rows = torch.arange(0, 16, 2)
    with torch.no_grad():
        image = parts.vision(pixels)
    changed = worst_question_words(parts, batch, image, rows, edits)
    different = (changed != batch.question_ids).view(16, 2, -1)
    assert not different[1::2].any() and int(different.sum(dim=-1).max()) == 1 and different.any(dim=-1).sum() >= 6
    place = different.flatten(0, 1).float().argmax(dim=1)
    assert (place < batch.answer_at).all()
    answer = batch.question_ids.gather(1, batch.answer_at[:, None])[:, 0]

    def losses(ids):
        with torch.no_grad():
            (read,) = fast.decode(
                parts.decoder, image.tokens, [fast.text_states(parts.text, ids)], [batch.answer_at - 1]
            )
            return F.cross_entropy(fast.vocabulary_logits(parts.decoder, read), answer, reduction="none")

    gain = (losses(changed) - losses(batch.question_ids))[different.flatten(0, 1).any(dim=1)]
    assert gain.mean() > 0


@pytest.mark.parametrize("architecture", ["tabletop", "tabletop-b"])
def test_the_first_stage_of_proeat_moves_what_leads_to_the_decoder_alone(architecture):
    training = training_of("proeat", architecture=architecture, projector_share=0.1)
    before = {name: p.detach().clone() for name, p in training.module.named_parameters()}
    own = {id(p) for p in projector(training.parts.visual)}
    assert stepped(training).keys() == {"loss", "gradient_norm", "drift"}
    moved = {name for name, p in training.module.named_parameters() if not torch.equal(p, before[name])}
    assert moved and {id(dict(training.module.named_parameters())[name]) for name in moved} <= own
    seen = stepped(training, 1)  # the second step is beyond the share
    assert {"loss_clean", "loss_perturbed"} <= seen.keys()
    assert any(not torch.equal(p, before[n]) for n, p in training.module.named_parameters() if "text_decoder" in n)


def test_two_losses_are_weighed_by_their_moving_averages():
    training = training_of("proeat", projector_share=0.0, balance=0.9)
    mean = None
    for step in range(3):
        seen = stepped(training, step)
        found = torch.stack([seen["loss_clean"], seen["loss_perturbed"]])
        mean = found if mean is None else 0.9 * mean + 0.1 * found
        torch.testing.assert_close(seen["loss"], (mean / mean.sum() * found).sum())
        assert found[1] > found[0]
    with pytest.raises(OptionError, match="balance"):
        get_recipe("continued", balance=0.5)
