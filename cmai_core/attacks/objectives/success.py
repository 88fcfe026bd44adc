"""Criteria of success: values that are combined with `&`, `|` and `~`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.attacks.objectives.objective import Consistency, Memo, Objective, TaskRows, prepare_task
from cmai_core.data.pair import Batch, PairDataset
from cmai_core.options import number

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Task


@dataclass(frozen=True)
class Scored:
    """What a criterion may look at: one evaluation of some images.

    Attributes:
        model: the model under attack.
        pixels: N×3×H×W; features: `model.image_features(pixels)`.
        value: objective, length N; clean_value: the objective of the clean images (None while these are being scored).
    """

    model: VisionLanguageModel
    pixels: torch.Tensor
    features: ImageFeatures
    value: torch.Tensor
    clean_value: torch.Tensor | None = None


class Criterion(ABC):
    """Decides, sample by sample, whether the attacker has what they want."""

    @property
    def stepwise(self) -> bool:
        """Whether it is cheap and free of host synchronisation, so that a search asks at every step.

        Others are asked once a restart (at every step with `stop_on_success`).
        """
        return True

    @abstractmethod
    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        """Return this criterion made ready for one model and one batch; `shared` as in `Objective.bind`."""

    @abstractmethod
    def select(self, rows: torch.Tensor) -> Criterion:
        """Return the bound criterion of some rows of the batch."""

    @abstractmethod
    def __call__(self, scored: Scored) -> torch.Tensor:
        """Return which samples succeed (bool N)."""

    @abstractmethod
    def describe(self) -> str:
        """Return words for reports."""

    def __and__(self, other: Criterion) -> Criterion:
        return _Both(self, other, "and")

    def __or__(self, other: Criterion) -> Criterion:
        return _Both(self, other, "or")

    def __invert__(self) -> Criterion:
        return _Not(self)


@dataclass(frozen=True)
class Raised(Criterion):
    """The objective is higher than on the clean image by more than `margin`: for where nothing is right or wrong."""

    margin: float = 0.0

    def __post_init__(self) -> None:
        number("margin", self.margin, 0.0)

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        return self

    def select(self, rows: torch.Tensor) -> Criterion:
        return self

    def __call__(self, scored: Scored) -> torch.Tensor:
        if scored.clean_value is None:
            return torch.zeros_like(scored.value, dtype=torch.bool)
        return scored.value > scored.clean_value + self.margin

    def describe(self) -> str:
        return "objective raised" + (f" by {self.margin:g}" if self.margin else "")


@dataclass(frozen=True)
class Untargeted(Criterion):
    """The task's prediction is wrong. A prediction whose truth is unknown is no success.

    A task may have a method `wrong(model, features, prepared)`, a bool tensor of length N made on the device without
    synchronising; then the criterion is asked at every step. Others are decoded by `task.predict`, which takes longer.

    Attributes:
        task: any object with the interface of `cmai_core.tasks` tasks.
        prepared: `task.prepare(...)` of the batch's pairs; prepared at binding when None.
        dataset: handed to `task.prepare`.
    """

    task: Task
    prepared: Any = None
    dataset: PairDataset | None = None

    @property
    def stepwise(self) -> bool:
        return hasattr(self.task, "wrong")

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        prepared = prepare_task(self.task, self.prepared, model, batch, self.dataset, shared)
        return _BoundUntargeted(self.task, TaskRows(self.task, prepared, len(batch.ids)))

    def select(self, rows: torch.Tensor) -> Criterion:
        raise TypeError("bind the criterion first")

    def __call__(self, scored: Scored) -> torch.Tensor:
        raise TypeError("bind the criterion first")

    def describe(self) -> str:
        return f"{self.task.name} wrong"


@dataclass(frozen=True)
class _BoundUntargeted(Criterion):
    task: Task
    rows: TaskRows

    @property
    def stepwise(self) -> bool:
        return hasattr(self.task, "wrong")

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        return self

    def select(self, rows: torch.Tensor) -> Criterion:
        return _BoundUntargeted(self.task, self.rows.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        def wrong(features: ImageFeatures, prepared: Any) -> torch.Tensor:
            cheap = getattr(self.task, "wrong", None)
            if cheap is not None:
                return cheap(scored.model, features, prepared)
            predictions = self.task.predict(scored.model, features, prepared)
            flags = [p.correct is False for p in predictions]
            return torch.tensor(flags, dtype=torch.bool, device=scored.pixels.device)

        with torch.no_grad():
            return self.rows.apply(wrong, scored.features)

    def describe(self) -> str:
        return f"{self.task.name} wrong"


@dataclass(frozen=True)
class Flagged(Criterion):
    """S_c falls below τ, so that consistency verification flags the pair; `~Flagged(tau)` is acceptance."""

    tau: float
    consistency: Objective = field(default_factory=Consistency)

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        return Flagged(self.tau, self.consistency.bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        return Flagged(self.tau, self.consistency.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        return self.consistency(scored.model, scored.pixels, scored.features) < self.tau

    def describe(self) -> str:
        return f"S_c < {self.tau:g}"


@dataclass(frozen=True)
class _Both(Criterion):
    left: Criterion
    right: Criterion
    word: str

    @property
    def stepwise(self) -> bool:
        return self.left.stepwise and self.right.stepwise

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        return _Both(self.left.bind(model, batch, shared), self.right.bind(model, batch, shared), self.word)

    def select(self, rows: torch.Tensor) -> Criterion:
        return _Both(self.left.select(rows), self.right.select(rows), self.word)

    def __call__(self, scored: Scored) -> torch.Tensor:
        left, right = self.left(scored), self.right(scored)
        return left & right if self.word == "and" else left | right

    def describe(self) -> str:
        return f"({self.left.describe()} {self.word} {self.right.describe()})"


@dataclass(frozen=True)
class _Not(Criterion):
    inner: Criterion

    @property
    def stepwise(self) -> bool:
        return self.inner.stepwise

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Criterion:
        return _Not(self.inner.bind(model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        return _Not(self.inner.select(rows))

    def __call__(self, scored: Scored) -> torch.Tensor:
        return ~self.inner(scored)

    def describe(self) -> str:
        return f"not {self.inner.describe()}"
