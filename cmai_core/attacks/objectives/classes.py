"""Objectives and criteria on a task's class scores: margin, DLR, targeted variants, KL from the clean prediction.

They need a task that exposes its scores:

    task.logits(model, features, prepared) -> N×K      differentiable; K the same for every sample of a batch
    task.true_classes(prepared) -> bool N×K            which classes are right (several may be); at least one

A sample is right when the class with the highest score is a true one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from cmai_core.attacks.engine.clean_features import clean_features
from cmai_core.attacks.objectives.objective import Objective, TaskRows, prepare_task
from cmai_core.attacks.objectives.success import Criterion, Scored
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import whole

Target = int | Sequence[int] | torch.Tensor | None


def exposes_logits(task: Any) -> bool:
    """Tell whether a task has class scores, which these objectives and several searches need."""
    return callable(getattr(task, "logits", None)) and callable(getattr(task, "true_classes", None))


def check_classes(task: Any) -> None:
    """Raise `OptionError` for a task without class scores."""
    if not exposes_logits(task):
        raise OptionError(
            f"Task {task.name} has no class scores.", "Choose its loss (TaskObjective), or a task of classes."
        )


@dataclass(frozen=True, eq=False)
class ClassScores:
    """A task's class scores for the samples of a batch.

    Attributes:
        task, rows: the task and what it prepared. true: bool N×K.
    """

    task: Any
    rows: TaskRows
    true: torch.Tensor

    @staticmethod
    def bind(task: Any, prepared: Any, model: Any, batch: Batch, dataset: Any, shared: dict | None) -> ClassScores:
        """Bind to a batch; raises OptionError without class scores, or where a sample has no true or no false class."""
        check_classes(task)
        prepared = prepare_task(task, prepared, model, batch, dataset, shared)
        true = task.true_classes(prepared)
        if true.dtype != torch.bool or true.dim() != 2 or len(true) != len(batch.ids):
            raise OptionError(f"Task {task.name} names true classes of shape {tuple(true.shape)}.", "Expected N×K.")
        for name, rows in (("true", ~true.any(dim=1)), ("false", true.all(dim=1))):
            if bool(rows.any()):
                sample = batch.ids[int(rows.nonzero()[0])]
                raise OptionError(f"Sample {sample!r} has no {name} class.", "Leave it out of the batch.")
        return ClassScores(task, TaskRows(task, prepared, len(batch.ids)), true)

    def select(self, rows: torch.Tensor) -> ClassScores:
        return ClassScores(self.task, self.rows.select(rows), self.true[rows.to(self.true.device)])

    def __call__(self, model: Any, features: Any) -> torch.Tensor:
        """Return scores N×K."""
        return self.rows.apply(lambda f, prepared: self.task.logits(model, f, prepared), features, width=True)

    def split(self, model: Any, features: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return scores N×K, the best true one (N), and the false ones with −inf at the true (N×K)."""
        scores = self(model, features)
        true = self.true.to(scores.device)
        best_true = scores.masked_fill(~true, -torch.inf).amax(dim=1)
        return scores, best_true, scores.masked_fill(true, -torch.inf)


def resolve_target(
    scores: ClassScores, target: Target, rank: int | None, model: Any, batch: Batch, shared: dict | None
) -> torch.Tensor | None:
    """Return each sample's target class (int64 N), or None where there is none."""
    count, classes = scores.true.shape
    if rank is not None:
        fewest = int((~scores.true).sum(dim=1).min())
        if rank > fewest:
            raise OptionError(
                f"rank={rank}, but a sample has only {fewest} false classes.", f"Accepted: 1 to {fewest}."
            )
        with torch.no_grad():
            false = scores.split(model, clean_features(model, batch, shared))[2]
        return false.topk(rank, dim=1).indices[:, -1]
    if target is None:
        return None
    values = torch.as_tensor(target, dtype=torch.int64, device=scores.true.device)
    values = values.expand(count) if values.dim() == 0 else values
    if values.shape != (count,):
        raise OptionError(f"{len(values)} targets for {count} samples.", "Give one, or one per sample.")
    if bool(((values < 0) | (values >= classes)).any()):
        raise OptionError(f"A target is outside the {classes} classes.", f"Accepted: 0 to {classes - 1}.")
    if bool(scores.true.gather(1, values.unsqueeze(1)).any()):
        raise OptionError("A target is a true class of its sample.", "Choose a false one, or rank=1.")
    return values


@dataclass(frozen=True, eq=False)
class _ClassObjective(Objective):
    """Shared by the objectives below.

    Attributes:
        task, prepared, dataset: as in `TaskObjective`.
        target: None: untargeted; a class index, or one per sample: towards that class.
        rank: towards the rank-th likeliest false class of the clean image (1: the likeliest), in place of `target`.
    """

    task: Any
    prepared: Any = None
    dataset: Any = None
    target: Target = None
    rank: int | None = None

    word = "scores"
    least_classes = (2, 2)

    def __post_init__(self) -> None:
        check_classes(self.task)
        if self.rank is not None:
            whole("rank", self.rank, 1)
            if self.target is not None:
                raise OptionError("Both target and rank were given.", "Accepted: one of the two.")

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        scores = ClassScores.bind(self.task, self.prepared, model, batch, self.dataset, shared)
        target = resolve_target(scores, self.target, self.rank, model, batch, shared)
        least = self.least_classes[target is not None]
        if scores.true.shape[1] < least:
            raise OptionError(
                f"{self.describe()} needs at least {least} classes; the task has {scores.true.shape[1]}.",
                "Choose the margin.",
            )
        return _Bound(self, scores, target)

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    @abstractmethod
    def value(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        """Return N values from scores N×K, the best true one N, the false ones N×K (−inf where true), targets N."""

    def margins_from(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what `Objective.margins` does, from the same: each false score over the best true one."""
        if target is not None:
            false = false.gather(1, target.unsqueeze(1))
        return false - true.unsqueeze(1)

    def describe(self) -> str:
        aim = "" if self.target is None and self.rank is None else "→rank " + str(self.rank) if self.rank else "→target"
        return f"{self.word}:{self.task.name}{aim}"


@dataclass(frozen=True, eq=False)
class _Bound(Objective):
    kind: _ClassObjective
    scores: ClassScores
    target: torch.Tensor | None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        target = None if self.target is None else self.target[rows.to(self.target.device)]
        return _Bound(self.kind, self.scores.select(rows), target)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        scores, true, false = self.scores.split(model, features)
        return self.kind.value(scores, true, false, self.target)

    def margins(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        return self.kind.margins_from(*self.scores.split(model, features), self.target)

    def describe(self) -> str:
        return self.kind.describe()


@dataclass(frozen=True, eq=False)
class Margin(_ClassObjective):
    """Best false score − best true score (Carlini & Wagner 2017, f₆); targeted: target's score − best other score.

    Positive exactly where the sample is misclassified (as the target).
    """

    word = "margin"

    def value(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        if target is None:
            return false.amax(dim=1) - true
        aimed = target.unsqueeze(1)
        others = scores.scatter(1, aimed, -torch.inf).amax(dim=1)
        return scores.gather(1, aimed).squeeze(1) - others


@dataclass(frozen=True, eq=False)
class DLR(_ClassObjective):
    """Difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690, eq. 6 and 7): blind to the scale of the scores.

    Untargeted (best false − best true) / (first − third largest score); targeted (target − best true) /
    (first − mean of third and fourth largest). At least 3 (targeted 4) classes.
    """

    word = "dlr"
    least_classes = (3, 4)

    def value(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        largest = scores.topk(3 if target is None else 4, dim=1).values
        if target is None:
            return (false.amax(dim=1) - true) / (largest[:, 0] - largest[:, 2] + 1e-12)
        aimed = scores.gather(1, target.unsqueeze(1)).squeeze(1)
        return (aimed - true) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)


@dataclass(frozen=True, eq=False)
class ClassLoss(_ClassObjective):
    """Cross-entropy: −log of the true classes' probability; targeted: log of the target's probability."""

    word = "ce"

    def value(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        log_probabilities = scores.log_softmax(dim=1)
        if target is not None:
            return log_probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
        return -log_probabilities.masked_fill(false != -torch.inf, -torch.inf).logsumexp(dim=1)


@dataclass(frozen=True, eq=False)
class Divergence(Objective):
    """KL(clean prediction ‖ attacked prediction) (TRADES, Zhang et al. 2019, eq. 5): needs no labels.

    Its gradient is 0 at the clean image: start at a random point.
    """

    stable_name: ClassVar[str] = "cmai_core.attacks.class_objectives.Divergence"

    task: Any
    prepared: Any = None
    dataset: Any = None

    def __post_init__(self) -> None:
        check_classes(self.task)

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        scores = ClassScores.bind(self.task, self.prepared, model, batch, self.dataset, shared)
        with torch.no_grad():
            clean = scores(model, clean_features(model, batch, shared)).log_softmax(dim=1)
        return _BoundDivergence(scores, clean)

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select

    def describe(self) -> str:
        return f"kl:{self.task.name}"


@dataclass(frozen=True, eq=False)
class _BoundDivergence(Objective):
    scores: ClassScores
    clean: torch.Tensor

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundDivergence(self.scores.select(rows), self.clean[rows.to(self.clean.device)])

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        attacked = self.scores(model, features).log_softmax(dim=1)
        return F.kl_div(attacked, self.clean, reduction="none", log_target=True).sum(dim=1)

    def describe(self) -> str:
        return f"kl:{self.scores.task.name}"


@dataclass(frozen=True, eq=False)
class Misclassified(Criterion):
    """The highest score belongs to a false class; with `target` or `rank`, to that class. Asked at every step.

    Attributes: as in `Margin`.
    """

    task: Any
    prepared: Any = None
    dataset: Any = None
    target: Target = None
    rank: int | None = None

    __post_init__ = _ClassObjective.__post_init__

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        scores = ClassScores.bind(self.task, self.prepared, model, batch, self.dataset, shared)
        return _BoundMisclassified(scores, resolve_target(scores, self.target, self.rank, model, batch, shared))

    def select(self, rows: torch.Tensor) -> Criterion:
        raise TypeError("bind the criterion first")

    def __call__(self, scored: Scored) -> torch.Tensor:
        raise TypeError("bind the criterion first")

    def describe(self) -> str:
        return f"{self.task.name} wrong" if self.target is None and self.rank is None else f"{self.task.name} on target"


@dataclass(frozen=True, eq=False)
class _BoundMisclassified(Criterion):
    scores: ClassScores
    target: torch.Tensor | None

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Criterion:
        return self

    def select(self, rows: torch.Tensor) -> Criterion:
        target = None if self.target is None else self.target[rows.to(self.target.device)]
        return _BoundMisclassified(self.scores.select(rows), target)

    def __call__(self, scored: Scored) -> torch.Tensor:
        answer = self.scores(scored.model, scored.features).argmax(dim=1)
        if self.target is not None:
            return answer == self.target
        return ~self.scores.true.to(answer.device).gather(1, answer.unsqueeze(1)).squeeze(1)

    def describe(self) -> str:
        return f"{self.scores.task.name} " + ("wrong" if self.target is None else "on target")
