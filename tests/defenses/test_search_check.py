"""Answers certified by search: the search, its gradient, what an attacker raises against it, and what stays hidden."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_models import small_coca

from cmai_core.attacks.adaptive_attack import stable_mistake
from cmai_core.attacks.objectives.detectors import Detector
from cmai_core.attacks.objectives.stability import AnswerStability, Neighbourhood, StableMistake, margin
from cmai_core.data import load_dataset
from cmai_core.defenses import AnyDetector, ConsistencyDetector, SearchDetector, System
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval

COUNT = 3
TASK = Retrieval(8)


@pytest.fixture(scope="module")
def model():
    found = small_coca()
    for parameter in found.clip.parameters():
        parameter.requires_grad_(False)
    found.clip.eval()
    return found


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="validation", limit=8)


@pytest.fixture(scope="module")
def batch(model, data):
    return make_batch(model, [data[k] for k in range(COUNT)], 1)


def linear(weights):
    """A model whose scores are a linear function of the pixels."""
    return SimpleNamespace(image_features=lambda x: x.flatten(1) @ weights)


def test_the_search_finds_the_corner_of_a_linear_model():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    x = torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    search = Neighbourhood(radius=0.01, steps=4)
    option = (x.flatten(1) @ weights).argmax(dim=1)
    worst = search.worst(linear(weights[:, :2]), x, option.clamp(max=1), lambda model, f: f)
    away = weights[:, option.clamp(max=1)].T - weights[:, 1 - option.clamp(max=1)].T
    torch.testing.assert_close(worst, x - 0.01 * away.sign().view_as(x))


def test_the_margin_is_over_the_best_other_option():
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert margin(scores, torch.tensor([0, 1])).tolist() == [1.0, -2.0]


def test_the_score_is_never_above_the_margin_of_the_picture(model, data, batch):
    with torch.no_grad():
        features = model.image_features(batch.pixels)
        prepared = TASK.prepare(model, batch.pairs, data)
        scores = TASK.logits(model, features, prepared)
        plain = margin(scores, scores.argmax(dim=1))
        found = {}
        for radius in (0.5 / 255, 16 / 255):
            search = Neighbourhood(radius=radius, steps=5)
            found[radius] = AnswerStability(TASK, dataset=data, search=search).bind(model, batch)(
                model, batch.pixels, features
            )
    assert (found[0.5 / 255] < plain).all() and (found[16 / 255] < found[0.5 / 255]).all()


def test_the_gradient_is_that_of_finite_differences(model, data, batch):
    """Through the search: a step in the picture moves the worst point along, and its signs stay."""
    search = Neighbourhood(radius=1 / 255, steps=4)
    bound = AnswerStability(TASK, dataset=data, search=search).bind(model, batch)
    inside = 0.5 + 0.9 * (batch.pixels - 0.5)  # where no pixel is cut at 0 or 1
    x = inside.clone().requires_grad_()
    gradient = torch.autograd.grad(bound(model, x, model.image_features(x)).sum(), x)[0]
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = 0.01
    with torch.no_grad():
        at = [bound(model, x + s * unit, model.image_features(x + s * unit)) for s in (step, -step)]
    slope, expected = (at[0] - at[1]) / (2 * step), (gradient * unit).flatten(1).sum(dim=1)
    torch.testing.assert_close(slope, expected, rtol=0.1, atol=1e-3)


def test_a_system_rejects_what_the_search_changes(model, data, batch):
    """At a radius at which any answer of a random model changes, everything is flagged; at none next to nothing is."""
    wide, narrow = (SearchDetector(TASK, data, radius=r, steps=4) for r in (0.5, 1e-9))
    assert isinstance(wide, Detector) and wide.describe()["steps"] == 4
    assert System(model, detector=wide).respond(TASK, batch, dataset=data).rejected.all()
    kept = System(model, detector=narrow).respond(TASK, batch, dataset=data)
    assert not kept.rejected.any() and (kept.scores >= 0).all()
    both = AnyDetector((ConsistencyDetector(-1.0), wide))
    assert System(model, detector=both).respond(TASK, batch, dataset=data).rejected.all()


def test_the_system_searches_whatever_an_attacker_may_see(model, data, batch):
    """The verdict is the same, and no gradient leaves."""
    system = System(model, detector=SearchDetector(TASK, data, radius=4 / 255, steps=3))
    white, scores = system.for_samples(batch, 0), system.view("scores").for_samples(batch, 0)
    torch.testing.assert_close(white.scores(batch.pixels)[0], scores.scores(batch.pixels)[0])
    x = batch.pixels.clone().requires_grad_()
    for sampled, seen in ((white, True), (scores, False)):
        value = system.detector.consistency.bind(sampled, batch)(sampled, x, sampled.image_features(x))
        assert value.requires_grad == seen


def test_an_attacker_makes_a_mistake_stable(model, data, batch):
    search = Neighbourhood(radius=1 / 255, steps=3)
    system = System(model, detector=SearchDetector(TASK, data, radius=search.radius, steps=3))
    result = stable_mistake(TASK, dataset=data, search=search, epsilon=32 / 255, steps=8)(system, batch, seed=0)
    assert (result.objective >= result.clean_objective).all()
    assert (result.success | result.clean_success).any()
    # What is above 0 is wrong and accepted, which is what the attack wants.
    assert torch.equal(result.success, result.objective > 0)


def test_a_mistake_of_a_task_without_scores_is_refused():
    with pytest.raises(OptionError, match="scores"):
        StableMistake(get_task("captioning"))
    with pytest.raises(OptionError, match="radius"):
        SearchDetector(TASK, radius=0.0)
    with pytest.raises(OptionError, match="steps"):
        SearchDetector(TASK, steps=0)
