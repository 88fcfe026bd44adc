"""Attacks, predictions, detectors on a model with consistency heads: S_c is the heads', ranking stays contrastive."""

from __future__ import annotations

import pytest
import torch

from cmai_core.attacks import pgd
from cmai_core.attacks.engine.pair_evaluator import PairEvaluator
from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA
from cmai_core.attacks.objectives.detectors import Guard, Slack, Verification
from cmai_core.attacks.objectives.objective import Consistency
from cmai_core.attacks.objectives.success import Raised
from cmai_core.attacks.objectives.text import Mismatch, PairConsistency, PairFlagged
from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_searches.proposers import Vocabulary
from cmai_core.attacks.text_searches.search import BeamSearch
from cmai_core.attacks.text_searches.tokens import HotFlip
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data import load_dataset
from cmai_core.defenses import AnyDetector, ConsistencyDetector, System, VerificationDetector
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.predictor import predict_images, predict_pairs
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks import get_task
from cmai_core.tasks.zero_shot import prompt

COUNT = 4
SEARCH = BeamSearch(proposer=Vocabulary(words=("ring", "red", "cube", "ball", "small", "metal")))


@pytest.fixture(scope="module")
def model(tools):
    """A small CoCa with heads, in training mode and with gradients on: attacks must leave it so."""
    found = tools.small_coca()
    found.heads = ConsistencyHeads(found.head_sizes(8), torch.Generator().manual_seed(4))
    with torch.no_grad():  # a verifier that has doubts
        found.heads.word_mlp[-1].weight.mul_(30)
    found.clip.train(), found.heads.train()
    return found


@pytest.fixture(scope="module")
def batch(tools):
    return tools.tabletop_batch(COUNT)


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="test", limit=COUNT)


def s_c(model, pixels, texts):
    with torch.no_grad():
        return model.consistency(pixels, list(texts))


def test_lowering_s_c_by_the_heads_leaves_them_as_found(model, batch):
    result = pgd(-Consistency(), epsilon=8 / 255, steps=4)(model, batch, seed=0)
    assert (result.objective > result.clean_objective + 1e-3).all()
    torch.testing.assert_close(-result.objective, s_c(model, result.pixels, batch.texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.clean_consistency, s_c(model, batch.pixels, batch.texts), atol=1e-5, rtol=0)
    assert model.heads.training and model.clip.training
    parameters = [*model.heads.parameters(), *model.clip.parameters()]
    assert all(p.requires_grad and p.grad is None for p in parameters)


def test_several_texts_count_by_their_mean(model, tools):
    several = tools.tabletop_batch(2, each=3)
    bound = Consistency().bind(model, several)
    found = bound(model, several.pixels, model.image_features(several.pixels)).detach()
    each = s_c(model, several.pixels[list(several.image_of_text)], several.texts)
    torch.testing.assert_close(found, each.view(2, 3).mean(dim=1), atol=1e-5, rtol=0)


def test_the_text_edited_is_scored_by_the_heads_and_retrieved_by_the_embeddings(model, batch):
    scores, retrieved = {}, {}
    for name, heads in (("with", model.heads), ("without", None)):
        kept, model.heads = model.heads, heads
        try:
            evaluator = PairEvaluator(model, batch, PairConsistency() + Mismatch("both"), PairFlagged(0.0))
            texts = [f"{text[:-1]} ring." for text in batch.texts]
            found = evaluator.score(texts, range(COUNT), evaluator.images(batch.pixels))
            scores[name], retrieved[name] = found.consistency, found.value - found.consistency
            torch.testing.assert_close(found.consistency, s_c(model, batch.pixels, texts), atol=1e-5, rtol=0)
            assert torch.equal(found.success, found.consistency < 0)
        finally:
            model.heads = kept
    torch.testing.assert_close(retrieved["with"], retrieved["without"], atol=1e-5, rtol=0)
    assert (scores["with"] - scores["without"]).abs().min() > 1e-3


@pytest.mark.parametrize("search", [SEARCH, HotFlip()], ids=["beam", "hotflip"])
def test_text_attacks_lower_s_c_of_the_heads(model, batch, search):
    result = TextAttack(threat=TextThreat(words=1), search=search)(model, batch)
    torch.testing.assert_close(-result.objective, s_c(model, batch.pixels, result.texts), atol=1e-5, rtol=0)
    assert (result.objective >= result.clean_objective).all() and (result.objective > result.clean_objective).any()


@pytest.mark.parametrize(
    "schedule", [SGA(text=SEARCH, steps=2), BestResponse(text=SEARCH, steps=4)], ids=["sga", "ours"]
)
def test_joint_attacks_lower_s_c_of_the_heads(model, tools, schedule):
    several = tools.tabletop_batch(2, each=2)
    attack = JointAttack(threat=ThreatModel("linf", 4 / 255), schedule=schedule, success=Raised())
    result = attack(model, several, seed=0)
    pixels = result.pixels[list(several.image_of_text)]
    torch.testing.assert_close(-result.objective, s_c(model, pixels, result.texts), atol=1e-5, rtol=0)
    assert result.objective.mean() > result.clean_objective.mean() + 1e-3


def test_readings_give_s_c_of_the_heads(model, batch, data):
    expected = s_c(model, batch.pixels, batch.texts)
    (pairs,) = predict_pairs(model, None, None, batch, [(batch.pixels, batch.texts)])
    assert [r.consistency for r in pairs] == pytest.approx(expected.tolist(), abs=1e-5)
    (images,) = predict_images(model, get_task("zero-shot"), data, batch, [batch.pixels], answers=True)
    assert [r.consistency for r in images] == pytest.approx(expected.tolist(), abs=1e-5)
    said = s_c(model, batch.pixels, [prompt(r.answer, "tabletop") for r in images])
    assert [r.answer_consistency for r in images] == pytest.approx(said.tolist(), abs=1e-5)


def test_the_models_own_verifier_is_the_default(model, batch, tools):
    with torch.no_grad():
        seen = model.image_features(batch.pixels)
        v = model.verify(seen, list(batch.texts))
        bound = Verification().bind(model, batch)
        torch.testing.assert_close(bound(model, batch.pixels, seen), v, atol=1e-6, rtol=0)
        rows = torch.tensor([3, 3, 1])
        torch.testing.assert_close(
            bound.select(rows)(model, batch.pixels[rows], seen[rows]), v[rows], atol=1e-6, rtol=0
        )
        guards = (Guard(0.1), Guard(0.5, Verification()))
        slack = Slack(guards).bind(model, batch)(model, batch.pixels, seen)
        own = s_c(model, batch.pixels, batch.texts)
        torch.testing.assert_close(slack, torch.minimum(own - 0.1, v - 0.5), atol=1e-5, rtol=0)
    for sign in (1, -1):
        moved = pgd(sign * Verification(log=True), epsilon=8 / 255, steps=4)(model, batch, seed=0)
        assert (moved.objective > moved.clean_objective).all()
    with pytest.raises(OptionError):
        Verification().bind(tools.BagOfWords(), batch)


def test_detectors_of_a_system(model, batch, data):
    own = s_c(model, batch.pixels, batch.texts)
    with torch.no_grad():
        log_v = model.verify(batch.pixels, list(batch.texts), log=True)
    tau, tau_v = float(own.sort().values[1:3].mean()), float(log_v.sort().values[1:3].mean())
    parts = (ConsistencyDetector(tau), VerificationDetector(tau_v))
    flags = (own < tau, log_v < tau_v)
    task = get_task("zero-shot")
    for detector, expected in zip((*parts, AnyDetector(parts)), (*flags, flags[0] | flags[1]), strict=True):
        response = System(model, detector=detector).respond(task, batch, dataset=data)
        assert torch.equal(response.flagged, expected) and torch.equal(response.rejected, expected)
        assert "detector" in System(model, detector=detector).describe()
    about_answers = System(model, detector=VerificationDetector.at(0.5, task, data)).respond(task, batch, dataset=data)
    with torch.no_grad():
        said = model.verify(batch.pixels, [prompt(p.answer, "tabletop") for p in about_answers.predictions])
    assert torch.equal(about_answers.flagged, said < 0.5)
    system = System(model, detector=AnyDetector(parts))
    with torch.no_grad():
        torch.testing.assert_close(system.consistency(batch.pixels, list(batch.texts)), own)
    attack = pgd(Slack(), epsilon=8 / 255, steps=4)
    assert (attack(system, batch, seed=0).objective >= torch.minimum(own - tau, log_v - tau_v)).all()
    with pytest.raises(OptionError):
        AnyDetector(())
    with pytest.raises(OptionError, match="probability"):
        VerificationDetector.at(0.0)
