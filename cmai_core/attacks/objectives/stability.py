"""Answers that stay as they are within a small radius: what a defence by search asks for, and the attack on it.

A system may accept an answer only if a search of radius ε̃ around the picture does not change it (consistent
prediction rejection, CPR: Chen et al. 2023, arXiv 2305.01139). `AnswerStability` is that score: the least margin of the
answer given over the other options, over the picture and every iterate of the search. `StableMistake` is what an
attacker raises who knows of it: the same score of the likeliest *wrong* answer (after their consistent high-confidence
misclassification attack).

Gradients are those of the margin at the worst point found, with the search's steps taken as they are. That is no
approximation: steps are signs and the projection clips, whose derivatives are 0 almost everywhere, so a search
differentiated through would give the same (and where the worst point is the true minimum, it is Danskin's gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from cmai_core.attacks.objectives.classes import ClassScores, check_classes
from cmai_core.attacks.objectives.objective import Objective, TaskRows, prepare_task
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import number, strict_options, whole

Scores = Callable[[Any, Any], torch.Tensor]
"""(model, features) → N×K."""


@strict_options
@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """A search around a picture: gradient steps from the picture itself, so that it has no randomness.

    Attributes:
        radius: ε̃ of L∞ in pixel units of [0, 1]; 0.25 to 0.5 of 1/255 in the paper's spirit: far below an attack's ε.
        steps: gradients; each moves by 2.5·radius/steps.
    """

    radius: float = 0.5 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        number("radius", self.radius, 0.0, 1.0, above_low=True)
        whole("steps", self.steps, 1)

    @property
    def passes(self) -> int:
        """Forward passes of one look, that of the answer not counted: the iterates, and the worst of them again."""
        return self.steps + 2

    def worst(self, model: Any, pixels: torch.Tensor, option: torch.Tensor, scores: Scores) -> torch.Tensor:
        """Return the picture (N×3×H×W) where an option (int64 N) has the least margin; differentiable in the pixels.

        Args:
            scores: of all options, for the rows at hand.
        """
        # A system searches with its own gradients, whatever of them is shown to others; only the point leaves.
        look = getattr(model, "own_features", model.image_features)
        start = pixels.detach()
        offset = torch.zeros_like(start)
        chosen = torch.zeros_like(start)
        least = torch.full(start.shape[:1], torch.inf, device=start.device, dtype=start.dtype)
        for step in range(self.steps + 1):
            last = step == self.steps
            with torch.set_grad_enabled(not last):
                point = offset.requires_grad_(not last)
                value = margin(scores(model, look((start + point).clamp(0, 1))), option)
                gradient = None if last else torch.autograd.grad(value.sum(), point)[0]
            offset, value = offset.detach(), value.detach().to(least)
            better = value < least
            least = torch.where(better, value, least)
            chosen = torch.where(better.view(-1, 1, 1, 1), offset, chosen)
            if gradient is not None:
                moved = offset - 2.5 * self.radius / self.steps * gradient.sign()
                offset = moved.clamp(-self.radius, self.radius)
        return (pixels + chosen).clamp(0, 1)


def margin(scores: torch.Tensor, option: torch.Tensor) -> torch.Tensor:
    """Return by how much an option (int64 N) is ahead of the best of the others in scores N×K: N values."""
    own = scores.gather(1, option[:, None])[:, 0]
    return own - scores.scatter(1, option[:, None], -torch.inf).amax(dim=1)


@dataclass(frozen=True)
class _AroundThePicture(Objective):
    """What is least over a search around the picture.

    Attributes:
        task, prepared, dataset: as in `TaskObjective`; a task with class scores. search: around the picture.
    """

    task: Any
    prepared: Any = None
    dataset: Any = None
    search: Neighbourhood = field(default_factory=Neighbourhood)

    def __post_init__(self) -> None:
        check_classes(self.task)

    @property
    def extra_forwards(self) -> int:
        return self.search.passes

    def select(self, rows: torch.Tensor) -> Objective:
        raise OptionError("The objective is not bound to a batch.", "Call bind(model, batch) first.")

    __call__ = select


@dataclass(frozen=True, eq=False)
class _Bound(Objective):
    search: Neighbourhood

    @property
    def extra_forwards(self) -> int:
        return self.search.passes

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return self


@dataclass(frozen=True)
class AnswerStability(_AroundThePicture):
    """The least margin of the answer given, over the search; below 0 the search has changed it."""

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        prepared = prepare_task(self.task, self.prepared, model, batch, self.dataset, shared)
        return _BoundStability(self.search, self.task, TaskRows(self.task, prepared, len(batch.ids)))

    def describe(self) -> str:
        return f"stability:{self.task.name}"


@dataclass(frozen=True, eq=False)
class _BoundStability(_Bound):
    task: Any
    rows: TaskRows

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundStability(self.search, self.task, self.rows.select(rows))

    def scores(self, model: Any, features: Any) -> torch.Tensor:
        return self.rows.apply(lambda f, prepared: self.task.logits(model, f, prepared), features, width=True)

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        answer = self.scores(model, features).detach().argmax(dim=1)
        return _least(self.search, self.scores, model, pixels, answer)

    def describe(self) -> str:
        return f"stability:{self.task.name}"


@dataclass(frozen=True)
class StableMistake(_AroundThePicture):
    """The least margin of the likeliest wrong answer, over the search; above 0 it is given, and the search keeps it.

    Attributes:
        search: as the attacked system has it.
    """

    def bind(self, model: Any, batch: Batch, shared: dict | None = None) -> Objective:
        return _BoundMistake(
            self.search, ClassScores.bind(self.task, self.prepared, model, batch, self.dataset, shared)
        )

    def describe(self) -> str:
        return f"stable mistake:{self.task.name}"


@dataclass(frozen=True, eq=False)
class _BoundMistake(_Bound):
    scores: ClassScores

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundMistake(self.search, self.scores.select(rows))

    def __call__(self, model: Any, pixels: torch.Tensor, features: Any) -> torch.Tensor:
        wrong = self.scores.split(model, features)[2].detach().argmax(dim=1)
        return _least(self.search, self.scores, model, pixels, wrong)

    def describe(self) -> str:
        return f"stable mistake:{self.scores.task.name}"


def _least(
    search: Neighbourhood, scores: Scores, model: Any, pixels: torch.Tensor, option: torch.Tensor
) -> torch.Tensor:
    """Return the option's margin at the worst point; gradients as the model shows them."""
    point = search.worst(model, pixels, option, scores)
    look = getattr(model, "plain_features", model.image_features)
    return margin(scores(model, look(point)), option)
