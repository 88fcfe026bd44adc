"""Objectives: what the attacker raises, one number per sample, differentiable in the pixels.

Objectives add, subtract, negate and scale: `alpha * TaskObjective(task) - beta * Consistency()` is the inner problem of
MBAT. An objective is first bound to a model and a batch: texts are encoded there, once and without gradients. The bound
one is called at every step with the pixels and their features.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.data.pair import Batch, PairDataset
from cmai_core.errors import OptionError
from cmai_core.models.features import take_rows
from cmai_core.models.scoring import image_vectors, text_vectors
from cmai_core.options import number

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Task

Memo = dict[Any, Any]
"""What the parts of one attack have made already, so that each thing is made once."""


class Objective(ABC):
    """A per-sample score that an attack raises.

    Attributes:
        backward_passes: passes of the model that one gradient takes.
    """

    backward_passes: int = 1

    @property
    def extra_forwards(self) -> int:
        """Passes of the model that one value takes besides the search's own."""
        return 0

    @abstractmethod
    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        """Return this objective made ready for one model and one batch: all that needs no pixels is computed here.

        `shared` is a memo for one attack: what two of its parts both need (a prepared task, encoded texts) is made
        once.
        """

    @abstractmethod
    def select(self, rows: torch.Tensor) -> Objective:
        """Return the bound objective of some rows of the batch (int64 indices), in their order."""

    @abstractmethod
    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Return values of the bound objective (N) for pixels N×3×H×W and `features = model.image_features(pixels)`."""

    def value_and_grad(
        self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values of the bound objective and, N×3×H×W, the direction in which a search should raise each.

        That is the gradient of the values, unless an objective defines another. `pixels` require a gradient.
        """
        value = needs_gradient(self, self(model, pixels, features))
        return value, torch.autograd.grad(value.sum(), pixels)[0]

    def margins(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Return the margins over the decision boundaries, N×K: positive where fooled, −inf where there is none.

        Searches that look for the nearest boundary (DeepFool, FAB) linearise these. An objective with one boundary at
        the value 0 need not override this.
        """
        return self(model, pixels, features).unsqueeze(1)

    @abstractmethod
    def describe(self) -> str:
        """Return a short formula for reports, such as "1*task:retrieval - 0.5*consistency"."""

    def __add__(self, other: Objective) -> Objective:
        return Weighted(_terms(self) + _terms(other)) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: Objective) -> Objective:
        return self + (-other) if isinstance(other, Objective) else NotImplemented

    def __neg__(self) -> Objective:
        return self * -1.0

    def __mul__(self, weight: float) -> Objective:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            return NotImplemented
        number("weight", abs(weight), 0.0)
        return Weighted(tuple((weight * w, objective) for w, objective in _terms(self)))

    __rmul__ = __mul__


def needs_gradient(objective: Objective, value: torch.Tensor) -> torch.Tensor:
    """Return the value itself.

    Raises:
        OptionError: it has no gradient.
    """
    if not value.requires_grad:
        raise OptionError(
            f"The objective {objective.describe()} has no gradient in the pixels.",
            "Choose one that depends on the image, on a model whose gradients can be seen.",
        )
    return value


def _unbound(name: str) -> OptionError:
    return OptionError(f"The {name} objective is not bound to a batch.", "Call bind(model, batch) first.")


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, Weighted) else ((1.0, objective),)


@dataclass(frozen=True)
class Weighted(Objective):
    """A weighted sum of objectives. Terms of weight 0 are not computed."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def extra_forwards(self) -> int:
        return sum(objective.extra_forwards for _, objective in self.terms)

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        kept = tuple((w, o.bind(model, batch, shared)) for w, o in self.terms if w != 0)
        if not kept:
            raise OptionError("Every weight of the objective is 0.", "At least one part needs a weight.")
        return Weighted(kept)

    def select(self, rows: torch.Tensor) -> Objective:
        return Weighted(tuple((w, o.select(rows)) for w, o in self.terms))

    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        values = [(weight, objective(model, pixels, features)) for weight, objective in self.terms]
        first, *others = (value if weight == 1 else weight * value for weight, value in values)
        return sum(others, start=first)

    def describe(self) -> str:
        text = ""
        for weight, objective in self.terms:
            sign = ("-" if weight < 0 else "") if not text else (" - " if weight < 0 else " + ")
            factor = "" if abs(weight) == 1 else f"{abs(weight):g}*"
            text += f"{sign}{factor}{objective.describe()}"
        return text


@dataclass(frozen=True)
class TaskObjective(Objective):
    """The task's loss: larger is worse for the model, so raising it is an untargeted attack on the task.

    Attributes:
        task: any object with the interface of `cmai_core.tasks` tasks.
        prepared: `task.prepare(...)` of the batch's pairs in the batch's order; prepared at binding when None.
        dataset: handed to `task.prepare` (galleries and classes come from it).
    """

    task: Task
    prepared: Any = None
    dataset: PairDataset | None = None

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        prepared = prepare_task(self.task, self.prepared, model, batch, self.dataset, shared)
        return _BoundTask(self.task, TaskRows(self.task, prepared, len(batch.ids)))

    def select(self, rows: torch.Tensor) -> Objective:
        raise _unbound("task")

    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        raise _unbound("task")

    def describe(self) -> str:
        return f"task:{self.task.name}"


@dataclass(frozen=True)
class _BoundTask(Objective):
    task: Task
    rows: TaskRows

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundTask(self.task, self.rows.select(rows))

    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        return self.rows.apply(lambda f, prepared: self.task.loss(model, f, prepared), features)

    def describe(self) -> str:
        return f"task:{self.task.name}"


def prepare_task(
    task: Task,
    prepared: Any,
    model: VisionLanguageModel,
    batch: Batch,
    dataset: PairDataset | None,
    shared: Memo | None = None,
) -> Any:
    """Return `prepared`, or the task prepared on the batch's pairs without gradients (once for each memo `shared`)."""
    if prepared is not None:
        return prepared
    shared = {} if shared is None else shared
    key = ("task", id(task), id(dataset))
    if key in shared:
        return shared[key]
    if len(batch.pairs) != len(batch.ids):
        raise OptionError(
            f"Task {task.name} needs the batch's pairs: {len(batch.pairs)} for {len(batch.ids)} images.",
            "Give Batch(pairs=…), or prepare the task beforehand.",
        )
    with torch.no_grad():
        shared[key] = task.prepare(model, list(batch.pairs), dataset)
    return shared[key]


@dataclass(frozen=True)
class TaskRows:
    """A prepared task seen through some rows of its batch.

    What a task prepares may have a method `select_rows(rows)` (int64 tensor → the same for these samples); then only
    these are computed. Where it has none, the features are laid out in the full batch's order (absent rows hold a copy
    of a present one) and the rows wanted are taken from the answer: more work, the same values, since every task scores
    its samples one by one.
    """

    task: Task
    prepared: Any
    total: int
    rows: torch.Tensor | None = None

    def select(self, rows: torch.Tensor) -> TaskRows:
        if hasattr(self.prepared, "select_rows"):
            return TaskRows(self.task, self.prepared.select_rows(rows), len(rows))
        kept = rows if self.rows is None else self.rows[rows]
        return TaskRows(self.task, self.prepared, self.total, kept)

    def apply(self, function: Any, features: ImageFeatures, width: bool = False) -> torch.Tensor:
        """Return `function(features, prepared)` for these rows: length N, or N×K with `width`. Rows may recur."""
        if self.rows is None:
            return self._checked(function(features, self.prepared), width)
        parts = []
        for chosen in self._groups:
            rows = self.rows[chosen]
            source = torch.zeros(self.total, dtype=torch.int64, device=rows.device)
            source[rows] = chosen
            values = self._checked(function(take_rows(features, source), self.prepared), width)
            parts.append((chosen.to(values.device), values[rows.to(values.device)]))
        if len(parts) == 1:
            return parts[0][1]
        order = torch.cat([chosen for chosen, _ in parts])
        return torch.cat([values for _, values in parts])[order.argsort()]

    @functools.cached_property
    def _groups(self) -> list[torch.Tensor]:
        return [] if self.rows is None else _once_each(self.rows)

    def _checked(self, values: torch.Tensor, width: bool) -> torch.Tensor:
        if values.dim() != 1 + width or len(values) != self.total:
            wanted = "one row of numbers" if width else "one number"
            raise OptionError(
                f"Task {self.task.name} scored {tuple(values.shape)} for {self.total} samples.",
                f"An objective is {wanted} per sample.",
            )
        return values


def _once_each(rows: torch.Tensor) -> list[torch.Tensor]:
    """Return the positions of `rows` in groups within which no row occurs twice."""
    if len(rows) == 0 or len(rows.unique()) == len(rows):
        return [torch.arange(len(rows), device=rows.device)]
    order = rows.argsort(stable=True)
    ordered = rows[order]
    position = torch.arange(len(rows), device=rows.device)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = torch.where(first, position, 0).cummax(dim=0).values
    occurrence = torch.empty_like(rows)
    occurrence[order] = position - start
    return [(occurrence == k).nonzero().squeeze(1) for k in range(int(occurrence.max()) + 1)]


@dataclass(frozen=True)
class Consistency(Objective):
    """S_c, the cosine of image and text in the model's consistency heads, in [−1, 1].

    Without heads (`models.scoring`), the cosine of the contrastive embeddings.

    Raising `-Consistency()` makes a true pair look inconsistent; raising `Consistency()` makes a false caption
    look consistent. With several texts for an image, their mean.

    Attributes:
        texts: strings, or int64 token ids T×L; the batch's texts when None.
        image_of_text: T row indices; one text per image, in order, when None.
    """

    texts: Sequence[str] | torch.Tensor | None = None
    image_of_text: Sequence[int] | None = None

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        own = self.texts is not None
        given = batch.texts if self.texts is None else self.texts
        places = batch.image_of_text if self.texts is None else self.image_of_text
        count = len(batch.ids)
        owners = torch.as_tensor(list(range(count) if places is None else places), dtype=torch.int64)
        texts = given if isinstance(given, torch.Tensor) else list(given)
        if len(texts) != len(owners):
            raise OptionError(
                f"{len(texts)} texts for {len(owners)} images.", "Give image_of_text, or one text per image."
            )
        if len(owners) and not (int(owners.min()) >= 0 and int(owners.max()) < count):
            raise OptionError(f"image_of_text points outside the {count} images.", f"Accepted: 0 to {count - 1}.")
        per_image = torch.bincount(owners, minlength=count)
        if bool((per_image == 0).any()):
            row = int((per_image == 0).nonzero()[0])
            raise OptionError(f"Image {batch.ids[row]!r} has no text to be consistent with.", "Give at least one each.")
        shared = {} if shared is None else shared
        vectors = None if own else shared.get("texts")
        if vectors is None:
            with torch.no_grad():
                vectors = text_vectors(model, texts).detach()
            if not own:
                shared["texts"] = vectors
        # S_c is linear in the text's vector, so the mean over an image's texts is one vector.
        owners, per_image = owners.to(vectors.device), per_image.to(vectors.device)
        summed = vectors.new_zeros(count, vectors.shape[1]).index_add_(0, owners, vectors)
        return _BoundConsistency(summed / per_image.unsqueeze(1).to(summed))

    def select(self, rows: torch.Tensor) -> Objective:
        raise _unbound("consistency")

    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        raise _unbound("consistency")

    def describe(self) -> str:
        return "consistency"


@dataclass(frozen=True, eq=False)
class _BoundConsistency(Objective):
    vectors: torch.Tensor

    def bind(self, model: VisionLanguageModel, batch: Batch, shared: Memo | None = None) -> Objective:
        return self

    def select(self, rows: torch.Tensor) -> Objective:
        return _BoundConsistency(self.vectors[rows.to(self.vectors.device)])

    def __call__(self, model: VisionLanguageModel, pixels: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        return (image_vectors(model, features) * self.vectors).sum(dim=1)

    def describe(self) -> str:
        return "consistency"
