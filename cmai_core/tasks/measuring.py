"""Measuring a task on unattacked pairs: asked batch by batch, counted at the end, with chance beside every figure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.tasks.metrics import METRICS, Interval, Records

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Prediction, Task


@dataclass(frozen=True)
class MeasurementSetting:
    """What a measurement is about.

    Attributes:
        dataset: whose first `count` pairs are asked about. batch: images at a time. seed: of the bootstrap.
        gallery: pairs that a search goes through: the pairs in stretches of so many; None: all of them at once.
    """

    dataset: PairDataset
    count: int
    batch: int = 64
    gallery: int | None = None
    seed: int = 0


class Measurement(ABC):
    """The answers to one task, gathered over batches."""

    def __init__(self, task: Task, setting: MeasurementSetting):
        self.task, self.setting = task, setting

    @abstractmethod
    def ask(self, model: VisionLanguageModel, pairs: Sequence[Pair], features: ImageFeatures, start: int) -> None:
        """Ask about one batch, without gradients.

        Args:
            pairs: the dataset's pairs from place `start` on. features: of their pictures.
        """

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """Return measure → {value, low, high, n, chance}; {} where no answer's truth is known."""


class AnswerMeasurement(Measurement):
    """Every pair asked once; the figures are the registered metrics of the task's answers."""

    def __init__(self, task: Task, setting: MeasurementSetting):
        super().__init__(task, setting)
        self.answers: list[tuple[Pair, Prediction, float]] = []

    def ask(self, model: VisionLanguageModel, pairs: Sequence[Pair], features: ImageFeatures, start: int) -> None:
        """Ask about each pair."""
        prepared = self.task.prepare(model, pairs, self.setting.dataset)
        chance = self.chance(prepared, len(pairs))
        found = self.task.predict(model, features, prepared)
        self.answers += zip(map(without_image, pairs), found, chance, strict=True)

    def chance(self, prepared: Any, count: int) -> list[float | None]:
        """Return how likely a guess is right, for each of `count` pairs; None where nobody can say."""
        target = getattr(prepared, "target", None)
        return [None] * count if target is None else target.float().mean(dim=1).tolist()

    def figures(self) -> dict[str, Any]:
        """Return the metrics of the answers whose truth is known."""
        return metric_figures(self.task, self.records())

    def records(self) -> Records:
        """Return the answers as metrics read them."""
        pairs, found, chance = zip(*self.answers, strict=True) if self.answers else ((), (), ())
        return Records(tuple(found), tuple(pairs), tuple(chance), seed=self.setting.seed)


def metric_figures(task: Task, records: Records) -> dict[str, Any]:
    """Return the metrics that a task declares, and those that name it, where the records allow them.

    Raises:
        OptionError: the task declares a metric that does not exist.
    """
    named = [name for name, metric in METRICS.items() if task.name in metric.tasks]
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*task.metrics, *named)):
        figure = METRICS.find(name).measure(records)
        if figure is not None:
            found[name] = entry(*figure)
    return found


def entry(interval: Interval, chance: float | None) -> dict[str, Any]:
    """Return a figure as JSON values, with what guessing gives."""
    return {**interval.to_dict(), "chance": chance}


def without_image(pair: Pair) -> Pair:
    """Return a pair without its picture: pictures of a large set would not fit into memory."""
    return replace(pair, image=np.zeros((0, 0, 3), np.uint8))
