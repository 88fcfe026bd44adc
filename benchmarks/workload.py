"""What the benchmarks attack: a bundled model as a classifier that other libraries understand.

Peers want logits and one label a picture. Here the classes are the captions of a few test scenes, chosen so that every
caption is true of its own scene alone; the label of a picture is its own caption.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cmai_core.attacks.objectives.classes import Misclassified
from cmai_core.data import load_dataset
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.data.subset import Subset
from cmai_core.models import load_model
from cmai_core.models.open_clip_model import OpenClipModel
from cmai_core.tasks.retrieval import Retrieval


class Classifier(nn.Module):
    """Pixels N×3×S×S in [0, 1] → scaled cosines with the class texts, N×C. No parameter asks for a gradient."""

    def __init__(self, model: OpenClipModel, texts: tuple[str, ...]):
        super().__init__()
        self.model = model
        with torch.no_grad():
            weight = (model.logit_scale * model.encode_text(list(texts))).T.contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.image_features(pixels).embedding @ self.weight


@dataclass(frozen=True)
class Workload:
    """Attributes: the same question in our terms (task, dataset, batch, success) and in peers' (classifier, labels)."""

    model: OpenClipModel
    dataset: PairDataset
    task: Retrieval
    batch: Batch
    success: Misclassified
    classifier: Classifier
    labels: torch.Tensor


def exclusive_scenes(dataset: PairDataset, count: int) -> list[int]:
    """The first scenes whose first captions are true of none of the others chosen."""
    chosen: list[int] = []
    for index in range(len(dataset)):
        tried = [*chosen, index]
        truth = dataset.truth([dataset[k].captions[0] for k in tried], tried)
        if truth.sum() == len(tried):
            chosen = tried
            if len(chosen) == count:
                return chosen
    raise SystemExit(f"The split has only {len(chosen)} scenes with captions of their own.")


def build(name: str, images: int) -> Workload:
    """The workload of a bundled model: as many classes as images."""
    model = load_model(name)
    for parameter in model.clip.parameters():
        parameter.requires_grad_(False)
    whole = load_dataset("tabletop", split="test", limit=max(200, 4 * images))
    dataset = Subset(whole, exclusive_scenes(whole, images))
    pairs = tuple(dataset[k] for k in range(images))
    texts = tuple(pair.captions[0] for pair in pairs)
    pixels = model.preprocess([pair.image for pair in pairs])
    batch = Batch(tuple(pair.id for pair in pairs), pixels, texts, tuple(range(images)), pairs)
    task = Retrieval(gallery=images)
    success = Misclassified(task, dataset=dataset)
    return Workload(
        model, dataset, task, batch, success, Classifier(model, texts).to(pixels.device), torch.arange(images)
    )


@dataclass(frozen=True)
class Timing:
    """Attributes: median seconds of both; the median, least and largest of the rounds' ratios theirs/ours."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> Timing:
    """Times two calls in turn, after one uncounted call of each; who goes first alternates."""
    ours(), theirs()
    seconds: list[tuple[float, float]] = []
    for k in range(rounds):
        found = {}
        for which in ((0, 1), (1, 0))[k % 2]:
            start = time.perf_counter()
            (ours, theirs)[which]()
            found[which] = time.perf_counter() - start
        seconds.append((found[0], found[1]))
    ratios = [theirs / ours for ours, theirs in seconds]
    medians = (statistics.median(column) for column in zip(*seconds, strict=True))
    return Timing(*medians, statistics.median(ratios), min(ratios), max(ratios))
