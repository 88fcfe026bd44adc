"""Verified answering: the shortlist, the fused score, its gradient, and attacks on the system that answers so."""

from __future__ import annotations

import math

import pytest
import torch

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.classes import Margin
from cmai_core.attacks.objectives.objective import TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.data import load_dataset
from cmai_core.data.pair import Batch
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import StatementCache, VerifiedAnswers
from cmai_core.errors import DataError, OptionError
from cmai_core.models import load_model
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval
from cmai_core.tasks.stages import first_stage, second_stage

COUNT, GALLERY = 6, 24
TASKS = {"retrieval": Retrieval(GALLERY), "zero-shot": get_task("zero-shot"), "vqa": get_task("vqa")}


@pytest.fixture(scope="module")
def model():
    return load_model("tabletop-hard-negative", device="cpu")


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", limit=GALLERY)


@pytest.fixture(scope="module")
def batch(model, data):
    pairs = tuple(data[k] for k in range(COUNT))
    return Batch(tuple(p.id for p in pairs), model.preprocess([p.image for p in pairs]), (), (), pairs)


def asked(system, task, data, batch):
    with torch.no_grad():
        prepared = task.prepare(system, batch.pairs, data)
        return task.logits(system, system.image_features(batch.pixels), prepared), prepared


@pytest.mark.parametrize(
    "wrong",
    [{"shortlist": 0}, {"shortlist": 2.5}, {"temperature": 0.0}, {"gamma": -1.0}, {"gamma": math.nan}, {"kappa": 2}],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        VerifiedAnswers(**wrong)


def test_a_model_without_heads_cannot_verify():
    with pytest.raises(OptionError, match="heads"):
        System(load_model("ViT-B-32/random", device="cpu"), answering=VerifiedAnswers())


@pytest.mark.parametrize("name", TASKS)
def test_without_weight_the_order_is_the_models(model, data, batch, name):
    task = TASKS[name]
    plain, _ = asked(model, task, data, batch)
    system = System(model, answering=VerifiedAnswers(shortlist=4, gamma=0.0, temperature=2.0))
    found, _ = asked(system, task, data, batch)
    assert torch.equal(plain.argsort(dim=1, stable=True), found.argsort(dim=1, stable=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_fused_score_is_as_defined(model, data, batch, name):
    task, rule = TASKS[name], VerifiedAnswers(shortlist=3, temperature=1.5, gamma=0.7, kappa=0.5)
    plain, prepared = asked(model, task, data, batch)
    found, _ = asked(System(model, answering=rule), task, data, batch)
    shortlist = plain.topk(3, dim=1).indices
    with torch.no_grad():
        features = model.image_features(batch.pixels)
        for row in range(COUNT):
            for option in shortlist[row].tolist():
                text = task.statement(prepared, row, option)
                log_v = model.verify(features[row : row + 1], [text], log=True)
                words = model.verification_states([text]).counted.sum()
                expected = plain[row, option] / 1.5 + 0.7 * log_v[0] / words**0.5
                assert torch.isclose(found[row, option], expected, rtol=1e-4, atol=1e-4)
            inside = torch.zeros(found.shape[1], dtype=torch.bool)
            inside[shortlist[row]] = True
            assert found[row, ~inside].max() <= found[row, inside].min() + 1e-5


def test_the_whole_gallery_may_be_verified(model, data, batch):
    task = TASKS["retrieval"]
    system = System(model, answering=VerifiedAnswers(shortlist=None, temperature=1e6))
    found, prepared = asked(system, task, data, batch)
    with torch.no_grad():
        features = model.image_features(batch.pixels)
        owner = torch.arange(COUNT).repeat_interleave(len(prepared.options))
        log_v = model.verify(features, list(prepared.options) * COUNT, owner, log=True).reshape(COUNT, -1)
    assert torch.allclose(found, log_v, rtol=1e-3, atol=1e-3)


def test_rules_belong_to_tasks(model, data, batch):
    system = System(model, answering={"zero-shot": VerifiedAnswers(gamma=5.0)})
    for name, task in TASKS.items():
        same = torch.equal(asked(system, task, data, batch)[0], asked(model, task, data, batch)[0])
        assert same == (name != "zero-shot")
    assert system.describe()["answering"]["zero-shot"]["gamma"] == 5.0


def test_verification_finds_what_the_cosine_missed(model):
    """More of 60 scenes are right with verification than without, by far more than chance."""
    data = load_dataset("tabletop", limit=60)
    pairs = [data[k] for k in range(60)]
    right = []
    for system in (model, System(model, answering=VerifiedAnswers(shortlist=10, gamma=5.0))):
        with torch.no_grad():
            task = get_task("zero-shot")
            prepared = task.prepare(system, pairs, data)
            found = task.predict(system, system.image_features(model.preprocess([p.image for p in pairs])), prepared)
        right.append(sum(bool(p.correct) for p in found))
    assert right[1] > right[0] + 5


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("stage", [lambda task: task, second_stage], ids=["system", "verifier"])
def test_the_gradient_is_that_of_finite_differences(model, data, batch, name, stage):
    system = System(model, answering=VerifiedAnswers(shortlist=3, gamma=1.0, kappa=0.5))
    task = stage(TASKS[name])
    with torch.no_grad():
        prepared = task.prepare(system, batch.pairs, data)

    best = prepared.target.int().argmax(dim=1, keepdim=True)

    def value(pixels):
        return task.logits(system, system.image_features(pixels), prepared).gather(1, best)[:, 0]

    pixels = batch.pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(pixels).sum(), pixels)
    slope = gradient.flatten(1).norm(dim=1)
    direction = gradient / slope.clamp(min=1e-12).view(-1, 1, 1, 1)
    step = 0.005  # in L2, along the gradient
    with torch.no_grad():
        change = (value(batch.pixels + step * direction) - value(batch.pixels - step * direction)) / (2 * step)
    assert slope.min() > 1e-4
    # The shortlist may change within a step, where the value jumps: not in most rows. (The last term is rounding.)
    assert ((change - slope).abs() <= 0.1 * slope + 2e-3).sum() >= COUNT - 1


def test_attacks_through_both_stages_lower_what_the_system_answers_by(model, data, batch):
    task = TASKS["retrieval"]
    system = System(model, answering=VerifiedAnswers(shortlist=5, gamma=1.0))
    for goal in (task, first_stage(task), second_stage(task)):
        objective = Margin(goal, dataset=data)
        attack = Attack(
            threat=ThreatModel(epsilon=4 / 255),
            objective=objective,
            search=GradientSearch(steps=6),
            success=Untargeted(task, dataset=data),
        )
        result = attack(system, batch, seed=0)
        assert (result.objective >= result.clean_objective - 1e-5).all()
        assert (result.objective > result.clean_objective + 1e-3).sum() >= COUNT - 1
    attack = Attack(
        threat=ThreatModel(epsilon=16 / 255),
        objective=TaskObjective(task, dataset=data),
        search=GradientSearch(steps=20),
        success=Untargeted(task, dataset=data),
    )
    result = attack(system, batch, seed=0)
    answers = asked(system, task, data, Batch(batch.ids, model.preprocess(result.images()), (), (), batch.pairs))
    right = answers[1].target.gather(1, answers[0].argmax(dim=1, keepdim=True))
    assert right.sum() <= COUNT // 2  # at 16/255 nothing should be left, unless the attack does not see the system


def test_an_attacker_by_scores_gets_no_gradient(model, data, batch):
    system = System(model, answering=VerifiedAnswers(shortlist=3)).view("scores")
    task = TASKS["retrieval"]
    prepared = task.prepare(system, batch.pairs, data)
    loss = task.loss(system, system.image_features(batch.pixels.clone().requires_grad_()), prepared)
    assert not loss.requires_grad


def test_statements_are_encoded_once_until_the_weights_change(model, monkeypatch):
    calls = []
    own = type(model).verification_states

    def counted(self, texts):
        calls.append(len(texts))
        return own(self, texts)

    monkeypatch.setattr(type(model), "verification_states", counted)
    cache = StatementCache()
    long = "a red cube to the left of a blue ball behind a green ring"
    first = cache.states(model, ["a red cube", long])
    again = cache.states(model, [long, "a red cube", "a blue ball"])
    assert calls == [2, 1]
    assert torch.equal(first.states[1], again.states[0])
    assert int(again.counted[1].sum()) == int(model.verification_states(["a red cube"]).counted.sum())
    with torch.no_grad():
        model.heads.log_scale.add_(0.0)  # a change in place, as an optimiser makes
    cache.states(model, ["a red cube"])
    assert calls[-1] == 1


def test_options_that_do_not_pair_up_are_refused(model, batch):
    with torch.no_grad():
        features = model.image_features(batch.pixels)
        with pytest.raises(DataError):
            model.verify_options(features, model.verification_states(["a red cube"] * (COUNT + 1)))


@pytest.mark.parametrize("name", TASKS)
def test_a_stage_is_the_task_but_for_its_logits(model, data, batch, name):
    task, system = TASKS[name], System(model, answering=VerifiedAnswers(shortlist=3, gamma=0.0))
    with torch.no_grad():
        prepared = task.prepare(system, batch.pairs, data)
        features = system.image_features(batch.pixels)
        first, second = first_stage(task), second_stage(task)
        assert (first.name, first.verifiable, first.metrics) == (task.name, task.verifiable, task.metrics)
        assert torch.equal(first.true_classes(prepared), task.true_classes(prepared))
        assert first.statement(prepared, 0, 1) == task.statement(prepared, 0, 1)
        assert torch.equal(first.logits(system, features, prepared), task.scores(system, features, prepared))
        # V decides in the second stage, though the system itself gives it no weight.
        shortlist = task.scores(system, features, prepared).topk(3, dim=1).indices
        texts = [task.statement(prepared, row, k) for row, ks in enumerate(shortlist.tolist()) for k in ks]
        log_v = model.verify_options(features, model.verification_states(texts))
        ranked = second.logits(system, features, prepared).argmax(dim=1)
        found = log_v[(shortlist == ranked[:, None])]
        assert len(found) == COUNT and (found >= log_v.amax(dim=1) - 0.1).all()
