"""Margin, DLR, targeted variants, KL, embedding objectives: values by hand, gradients numerically, rows."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmai_core.attacks import Attack, Consistency, GradientSearch, ThreatModel, pgd
from cmai_core.attacks.engine.clean_features import clean_features
from cmai_core.attacks.engine.evaluator import jacobian
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Divergence, Margin, Misclassified
from cmai_core.attacks.objectives.embedding import Constant, EmbeddingDeviation, EmbeddingTarget
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError

SCORES = [[3.0, 1.0, 2.5, 0.0, -1.0], [0.0, 1.0, 2.0, 3.0, 4.0]]
TRUE = [[True, False, False, False, False], [True, False, False, True, False]]


@dataclass(frozen=True)
class Fixed:
    """A task whose scores are the embedding and whose true classes are given."""

    true: torch.Tensor
    name: str = "fixed"

    def prepare(self, model, pairs, dataset=None):
        return self

    def logits(self, model, features, prepared):
        return features.embedding

    def true_classes(self, prepared):
        return self.true


def values(kit, objective, rows=None):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    scores = torch.tensor(SCORES, dtype=torch.float64)
    bound = objective.bind(model, batch)
    features = kit.Features(scores, scores)
    if rows is not None:
        bound, features = bound.select(rows), kit.Features(scores[rows], scores[rows])
    return bound, bound(model, batch.pixels, features), bound.margins(model, batch.pixels, features)


def test_values_by_hand(kit):
    task = Fixed(torch.tensor(TRUE))
    cases = {
        Margin(task): [-0.5, 1.0],
        Margin(task, target=[2, 1]): [-0.5, -3.0],
        DLR(task): [-0.5 / (3 - 1), 1.0 / (4 - 2)],
        DLR(task, target=[3, 2]): [-3.0 / (3 - 0.5), -1.0 / (4 - 1.5)],
    }
    for objective, expected in cases.items():
        assert values(kit, objective)[1].tolist() == pytest.approx(expected), objective
        repeated = values(kit, objective, torch.tensor([1, 0, 1]))[1].tolist()
        assert repeated == pytest.approx([expected[1], expected[0], expected[1]])
    scores = torch.tensor(SCORES, dtype=torch.float64).softmax(dim=1)
    assert values(kit, ClassLoss(task))[1].tolist() == pytest.approx(
        [-scores[0, 0].log().item(), -(scores[1, 0] + scores[1, 3]).log().item()]
    )
    assert values(kit, ClassLoss(task, target=2))[1].tolist() == pytest.approx(scores[:, 2].log().tolist())
    inf = float("inf")
    assert values(kit, Margin(task))[2].tolist() == [[-inf, -2, -0.5, -3, -4], [-inf, -2, -1, -inf, 1]]
    assert values(kit, DLR(task, target=[3, 2]))[2].tolist() == [[-3], [-1]]
    assert values(kit, 2 * Margin(task))[2].tolist() == [[-1], [2]]


def test_rank_is_the_likeliest_false_class_of_the_clean_image(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8)
    task = kit.ScoredTask()
    order = model(batch.pixels).argsort(dim=1, descending=True)  # the label is the first
    for rank in (1, 3):
        bound = Margin(task, rank=rank).bind(model, batch)
        assert torch.equal(bound.target, order[:, rank])
    success = Misclassified(task, rank=2)
    attack = Attack(
        threat=ThreatModel("linf", 0.3),
        objective=Margin(task, rank=2),
        search=GradientSearch(steps=20),
        success=success,
    )
    result = attack(model, batch)
    assert torch.equal(result.success, model(result.pixels).argmax(dim=1) == order[:, 2]) and result.success.any()
    assert torch.equal(result.success, result.objective > 0)


def test_dlr_agrees_with_torchattacks(kit):
    torchattacks = pytest.importorskip("torchattacks")
    model = kit.conv_model()
    batch = kit.make_batch(model, 8, size=8)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    peer = torchattacks.APGD(model, loss="dlr").dlr_loss(model(batch.pixels), labels)
    ours = DLR(kit.ScoredTask()).bind(model, batch)(model, batch.pixels, model.image_features(batch.pixels))
    assert torch.allclose(ours, peer)


def test_misclassified_is_the_tasks_own_judgement(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    task = kit.ScoredTask()
    result = pgd(Margin(task), epsilon=10 / 255, success=Misclassified(task))(model, batch)
    wrong = model(result.pixels).argmax(dim=1) != torch.tensor([int(p.label) for p in batch.pairs])
    assert torch.equal(result.success, wrong) and 0 < int(wrong.sum()) < 12
    assert torch.equal(result.success, result.objective > 0)


def test_divergence_is_kl_from_the_clean_prediction(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    moved = (batch.pixels + 0.1).clamp(0, 1)
    bound = Divergence(kit.ScoredTask()).bind(model, batch)
    p, q = model(batch.pixels).softmax(dim=1), model(moved).softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1)
    assert torch.allclose(bound(model, moved, model.image_features(moved)), expected)
    assert bound(model, batch.pixels, model.image_features(batch.pixels)).abs().max() < 1e-12
    result = pgd(Divergence(kit.ScoredTask()), epsilon=0.1)(model, batch)
    assert (result.objective > expected.min() / 100).all()


def test_embedding_objectives(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    moved = (batch.pixels + 0.1).clamp(0, 1)
    clean, attacked = model(batch.pixels), model(moved)
    features = model.image_features(moved)
    cases = {
        EmbeddingDeviation(): ((attacked - clean) ** 2).sum(dim=1),
        EmbeddingDeviation("embedding", "cosine"): 1 - F.cosine_similarity(attacked, clean),
        EmbeddingTarget(text="text 5"): F.cosine_similarity(attacked, model.encode_text(["text 5"])),
        EmbeddingTarget(image=batch.pixels.roll(1, 0)): F.cosine_similarity(attacked, clean.roll(1, 0)),
        EmbeddingTarget(embedding=clean.mean(dim=0, keepdim=True) * 3): F.cosine_similarity(
            attacked, clean.mean(dim=0, keepdim=True)
        ),
        Constant(0.25) - Consistency(): 0.25 - (attacked * model.encode_text(list(batch.texts))).sum(dim=1),
    }
    for objective, expected in cases.items():
        bound = objective.bind(model, batch)
        assert torch.allclose(bound(model, moved, features), expected), objective
        rows = torch.tensor([2, 2, 0])
        part = bound.select(rows)(model, moved[rows], model.image_features(moved[rows]))
        assert torch.allclose(part, expected[rows]), objective
        result = pgd(objective, epsilon=0.1)(model, batch)
        assert (result.objective > result.clean_objective).all()
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    by_array = EmbeddingTarget(image=[image]).bind(model, batch).goal
    assert torch.allclose(by_array, EmbeddingTarget(image=model.preprocess([image])).bind(model, batch).goal)


def test_what_does_not_combine_is_named(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    with pytest.raises(OptionError, match=kit.LabelTask().name):
        Margin(kit.LabelTask()).bind(model, batch)
    with pytest.raises(OptionError, match=r"target.*rank"):
        Margin(kit.ScoredTask(), target=1, rank=1)
    with pytest.raises(OptionError, match=r"rank=5.*4"):
        Margin(kit.ScoredTask(), rank=5).bind(model, batch)
    with pytest.raises(OptionError, match="rank=1"):
        Margin(kit.ScoredTask(), target=[int(p.label) for p in batch.pairs]).bind(model, batch)
    with pytest.raises(OptionError, match="5"):
        Margin(kit.ScoredTask(), target=5).bind(model, batch)
    two = Fixed(torch.tensor([[True, False]] * 2))
    with pytest.raises(OptionError, match="3"):
        DLR(two).bind(model, batch)
    with pytest.raises(OptionError, match="false"):
        Margin(Fixed(torch.tensor([[True, True]] * 2))).bind(model, batch)
    with pytest.raises(OptionError, match=r"text.*embedding"):
        EmbeddingTarget(text="a", embedding=torch.ones(1, 5))
    with pytest.raises(OptionError, match=r"3.*2"):
        EmbeddingTarget(embedding=torch.ones(3, 5)).bind(model, batch)


def test_clean_features_are_made_once_and_in_pieces(kit, monkeypatch):
    model = kit.conv_model()
    batch = kit.make_batch(model, 5, size=8, texts=False)
    whole = clean_features(model, batch)
    monkeypatch.setattr("cmai_core.attacks.engine.clean_features.PIECE", 2)
    shared = {}
    pieces = clean_features(model, batch, shared)
    assert torch.allclose(pieces.embedding, whole.embedding) and pieces.tokens is None
    assert clean_features(model, Batch(batch.ids, batch.pixels * 0, (), ()), shared) is pieces


def test_batched_jacobian_agrees_with_single_products(kit):
    model = kit.conv_model()
    x = kit.make_batch(model, 3, size=8).pixels.requires_grad_(True)
    batched = jacobian(model(x), x)
    single = torch.stack([torch.autograd.grad(model(x)[:, k].sum(), x)[0] for k in range(5)], dim=1)
    assert torch.allclose(batched, single)

    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            if gradient.data_ptr() == 0:
                raise RuntimeError("cannot be batched")
            return gradient * 2 + 0 * float(gradient.sum())

    assert torch.allclose(jacobian(Stubborn.apply(model(x)), x), 2 * single)
