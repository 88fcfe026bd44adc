"""Small models and tasks whose answers are known in closed form, and the checker every attack must pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.attacks import Consistency
from cmai_core.data.pair import Batch, Pair

CLASSES = 5


@dataclass(frozen=True)
class Features:
    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    answer: str
    correct: bool | None
    score: float
    detail: dict = field(default_factory=dict)


class FakeVLM(nn.Module):
    """Pixels → class scores, which also serve as the embedding; texts are given vectors in a table."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower.double()
        self.text_encodings = 0

    def preprocess(self, images):
        return torch.from_numpy(np.stack(images)).movedim(-1, 1).double() / 255

    def image_features(self, pixels):
        scores = self.tower(pixels)
        return Features(scores, scores)

    def encode_text(self, texts):
        self.text_encodings += 1
        generator = torch.Generator().manual_seed(7)
        table = F.normalize(torch.randn(64, CLASSES, generator=generator, dtype=torch.float64), dim=1)
        return table[[int(text.split()[-1]) for text in texts]]

    def forward(self, pixels):
        return self.tower(pixels)


def linear_model(size=6, seed=0, scale=1.0):
    torch_rng = torch.Generator().manual_seed(seed)
    layer = nn.Linear(3 * size * size, CLASSES)
    layer.weight.data = scale * torch.randn(layer.weight.shape, generator=torch_rng)
    layer.bias.data = torch.randn(layer.bias.shape, generator=torch_rng)
    return FakeVLM(nn.Sequential(nn.Flatten(), layer))


def conv_model(seed=0):
    model = FakeVLM(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Conv2d(8, 8, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        )
    )
    model(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model.eval()


class LabelTask:
    """Classification by the largest score; the label is the pair's."""

    name = "labels"

    def prepare(self, model, pairs, dataset=None):
        return torch.tensor([int(pair.label) for pair in pairs])

    def loss(self, model, features, prepared):
        return F.cross_entropy(features.embedding, prepared, reduction="none")

    def predict(self, model, features, prepared):
        answers = features.embedding.argmax(dim=1).tolist()
        return [Prediction(str(a), a == t, 0.0) for a, t in zip(answers, prepared.tolist(), strict=True)]


@dataclass(frozen=True)
class Labels:
    values: torch.Tensor

    def select_rows(self, rows):
        return Labels(self.values[rows])


class SelectableTask(LabelTask):
    """The same with a prepared record that can be narrowed to some rows."""

    name = "selectable"

    def prepare(self, model, pairs, dataset=None):
        return Labels(super().prepare(model, pairs, dataset))

    def loss(self, model, features, prepared):
        return super().loss(model, features, prepared.values)

    def predict(self, model, features, prepared):
        return super().predict(model, features, prepared.values)


class ScoredTask(LabelTask):
    """The same with its class scores exposed."""

    name = "scored"

    def logits(self, model, features, prepared):
        return features.embedding

    def true_classes(self, prepared):
        return F.one_hot(prepared, CLASSES).bool()


def make_batch(model, count=4, size=6, seed=0, texts=True):
    """Images away from the box's edge and touching it, labelled as the model sees them when clean."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    pixels = levels.double() / 255
    with torch.no_grad():
        labels = model(pixels).argmax(dim=1).tolist()
    blank = np.zeros((size, size, 3), np.uint8)
    pairs = tuple(Pair(f"fake/{seed}/{i}", blank, (f"text {i}",), label=str(label)) for i, label in enumerate(labels))
    names = tuple(f"text {i}" for i in range(count)) if texts else ()
    return Batch(tuple(p.id for p in pairs), pixels, names, tuple(range(len(names))), pairs)


def take(batch, rows):
    """Some rows of a batch with one text per image."""
    return Batch(
        tuple(batch.ids[i] for i in rows),
        batch.pixels[rows],
        tuple(batch.texts[i] for i in rows) if batch.texts else (),
        tuple(range(len(rows))) if batch.texts else (),
        tuple(batch.pairs[i] for i in rows),
    )


def linear_optimum(model, batch, epsilon):
    """Exact maximum of −S_c of a linear model over the L∞ ball ∩ box."""
    weight = model.tower[1].weight.double()
    gradient = -(model.encode_text(list(batch.texts)) @ weight).view_as(batch.pixels)
    lower, upper = (batch.pixels - epsilon).clamp(min=0), (batch.pixels + epsilon).clamp(max=1)
    best = torch.where(gradient > 0, upper, lower)
    with torch.no_grad():
        return best, -(model(best) * model.encode_text(list(batch.texts))).sum(dim=1)


def violations(make_attack, epsilon=8 / 255):
    """What is wrong with an L∞ attack on −S_c, judged on a linear model with dropout-free training mode switched on.

    `make_attack(objective)` builds it. An empty list: it stays in ball and box, leaves everything as it found it, does
    not depend on order or split, reports what a fresh evaluation confirms, and reaches the known optimum.
    """
    model, found = linear_model().train(), []
    model.tower[1].weight.grad = torch.ones_like(model.tower[1].weight)
    model.tower[1].bias.requires_grad_(False)
    batch = make_batch(model, 5)
    before = (batch.pixels.clone(), {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state())
    attack = make_attack(-Consistency())
    result = attack(model, batch, seed=3)
    delta = result.pixels - before[0]
    if delta.abs().max() > epsilon + 1e-12:
        found.append("ball")
    if result.pixels.min() < 0 or result.pixels.max() > 1:
        found.append("box")
    if not torch.equal(batch.pixels, before[0]) or batch.pixels.requires_grad:
        found.append("input changed")
    state = model.state_dict()
    flags = model.tower[1].weight.requires_grad and not model.tower[1].bias.requires_grad
    modes = all(module.training for module in model.modules())
    gradient = torch.equal(model.tower[1].weight.grad, torch.ones_like(model.tower[1].weight))
    if not (flags and modes and gradient and all(torch.equal(state[k], v) for k, v in before[1].items())):
        found.append("model changed")
    if not torch.equal(torch.get_rng_state(), before[2]):
        found.append("global random state changed")
    order = [3, 0, 4, 2, 1]
    if not torch.allclose(attack(model, take(batch, order), seed=3).pixels, result.pixels[order], atol=1e-9):
        found.append("order")
    split = torch.cat([attack(model, take(batch, rows), seed=3).pixels for rows in ([0, 1], [2], [3, 4])])
    if not torch.allclose(split, result.pixels, atol=1e-9):
        found.append("split")
    with torch.no_grad():
        texts = model.encode_text(list(batch.texts))
        fresh, clean = (-(model(x) * texts).sum(dim=1) for x in (result.pixels, before[0]))
    if not torch.allclose(fresh, result.objective) or not torch.equal(result.success, fresh > clean):
        found.append("report")
    optimum = linear_optimum(model, batch, epsilon)[1]
    if ((optimum - fresh) / (optimum - clean) > 1e-6).any():
        found.append("optimum")
    return found


@pytest.fixture(scope="session")
def kit():
    """The builders above."""
    return SimpleNamespace(
        Features=Features,
        FakeVLM=FakeVLM,
        LabelTask=LabelTask,
        SelectableTask=SelectableTask,
        ScoredTask=ScoredTask,
        linear_model=linear_model,
        conv_model=conv_model,
        make_batch=make_batch,
        take=take,
        linear_optimum=linear_optimum,
        violations=violations,
        CLASSES=CLASSES,
    )
