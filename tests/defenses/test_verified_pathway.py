"""Flagged pictures are answered by verification, the others by the model's own scores."""

from __future__ import annotations

import pytest
import torch
from small_models import small_coca

from cmai_core.attacks.objectives.objective import TaskObjective
from cmai_core.data import load_dataset
from cmai_core.defenses import ConsistencyDetector, Regime, System, VerifiedAnswers, VerifiedPathway
from cmai_core.defenses.verified_pathway import MarkedFeatures
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.models.features import take_rows
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks.retrieval import Retrieval

COUNT = 4
TASK = Retrieval(8)
RULE = VerifiedAnswers(shortlist=4, gamma=3.0)
POLICY = "robust pathway"


@pytest.fixture(scope="module")
def model():
    found = small_coca()
    found.heads = ConsistencyHeads(found.head_sizes(8), torch.Generator().manual_seed(3))
    with torch.no_grad():
        found.heads.word_mlp[-1].weight.mul_(30)
    found.clip.eval()
    return found


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="validation", limit=8)


@pytest.fixture(scope="module")
def batch(model, data):
    return make_batch(model, [data[k] for k in range(COUNT)], 1)


@pytest.fixture(scope="module")
def detector(model, batch):
    """Flags two of the four."""
    with torch.no_grad():
        scores = model.consistency(batch.pixels, list(batch.texts)).sort().values
    return ConsistencyDetector(float((scores[1] + scores[2]) / 2))


def logits(system, data, batch):
    with torch.no_grad():
        sampled = system.for_samples(batch, 0)
        prepared = TASK.prepare(system, batch.pairs, data)
        return TASK.logits(sampled, sampled.image_features(batch.pixels), prepared), sampled.scores(batch.pixels)[1]


def test_rows_are_answered_by_their_flag(model, data, batch, detector):
    plain, _ = logits(System(model), data, batch)
    verified, _ = logits(System(model, answering=RULE), data, batch)
    system = System(model, detector=detector, policy=POLICY, pathway=VerifiedPathway(RULE))
    found, flagged = logits(system, data, batch)
    assert flagged.sum() == 2 and not torch.allclose(plain, verified, atol=1e-2)
    torch.testing.assert_close(found[flagged], verified[flagged], rtol=1e-4, atol=1e-4)
    assert torch.equal(found[~flagged], plain[~flagged])
    assert system.passes == 1 and "verified" in system.describe()["pathway"]


def test_the_others_may_have_a_rule_of_their_own(model, data, batch, detector):
    other = VerifiedAnswers(shortlist=2, gamma=0.5)
    expected, _ = logits(System(model, answering=other), data, batch)
    for answering in (other, {"retrieval": other}):
        path = VerifiedPathway(RULE)
        system = System(model, detector=detector, policy=POLICY, pathway=path, answering=answering)
        found, flagged = logits(system, data, batch)
        torch.testing.assert_close(found[~flagged], expected[~flagged], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found[flagged], expected[flagged], atol=1e-2)


def test_features_may_take_another_pathway_too(model, data, batch, detector):
    tower = small_coca(seed=1)
    tower.clip.eval()
    moved = Regime(model.with_image_tower(tower.image_tower))
    system = System(model, detector=detector, policy=POLICY, pathway=VerifiedPathway(RULE, then=moved))
    found, flagged = logits(system, data, batch)
    expected, _ = logits(System(moved.tower, answering=RULE), data, batch)
    torch.testing.assert_close(found[flagged], expected[flagged], rtol=1e-4, atol=1e-4)


def test_marks_stay_with_their_rows(model, batch):
    with torch.no_grad():
        features = VerifiedPathway(RULE).mark(model.image_features(batch.pixels), torch.tensor([1, 3]))
    rows = torch.tensor([3, 0, 3])
    for some in (features[rows], take_rows(features, rows), features[rows].detach()):
        assert isinstance(some, MarkedFeatures) and some.flagged.tolist() == [True, False, True]


def test_attacks_climb_through_it(model, data, batch, detector):
    system = System(model, detector=detector, policy=POLICY, pathway=VerifiedPathway(RULE))
    sampled = system.for_samples(batch, 0)
    x = batch.pixels.clone().requires_grad_()
    loss = TaskObjective(TASK, dataset=data).bind(system, batch)
    gradient = torch.autograd.grad(loss(sampled, x, sampled.image_features(x)).sum(), x)[0]
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_a_model_without_heads_cannot_verify(detector):
    with pytest.raises(OptionError, match="heads"):
        System(small_coca(), detector=detector, policy=POLICY, pathway=VerifiedPathway(RULE))
