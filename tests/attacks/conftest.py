"""Small models and tasks whose answers are known in closed form, and the checks every attack must pass (checks.py)."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def _beside(name):
    """A module of this folder: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"attacks_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECKS = _beside("checks")


@pytest.fixture(scope="session")
def checks():
    """What every attack must keep (checks.py)."""
    return CHECKS


@pytest.fixture(scope="session")
def kit():
    """The builders above."""
    tools = SimpleNamespace(
        Features=Features,
        FakeVLM=FakeVLM,
        LabelTask=LabelTask,
        SelectableTask=SelectableTask,
        ScoredTask=ScoredTask,
        linear_model=linear_model,
        conv_model=conv_model,
        make_batch=make_batch,
        take=take,
        linear_optimum=CHECKS.linear_optimum,
        CLASSES=CLASSES,
    )
    tools.violations = functools.partial(CHECKS.violations, tools)
    tools.flaws = functools.partial(CHECKS.flaws, tools)
    return tools
