"""Forward and backward passes of an attack, in micro-batches that shrink when the device runs out of memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.objectives.objective import Objective, needs_gradient
from cmai_core.attacks.objectives.success import Criterion, Scored
from cmai_core.data.pair import Batch
from cmai_core.models.oom import is_out_of_memory, smaller


@dataclass(frozen=True)
class Evaluation:
    """Scores of some images, each a tensor of length N on the device.

    Attributes:
        value: the objective. consistency: S_c (None without texts). success: bool (None where it was not asked).
    """

    value: torch.Tensor
    consistency: torch.Tensor | None
    success: torch.Tensor | None


class Evaluator:
    """Scores images under one model with a bound objective, S_c and criterion.

    Args:
        model: anything with `image_features(pixels)`.
        objective, criterion, consistency: bound to the batch; the last two may be None.
        micro_batch: images in one pass (None: all); halved, for good, whenever the device runs out of memory.
        batch, shared, rows: where other objectives are bound (`with_objective`): the batch, its memo, and which of its
            samples this evaluator sees (None: all).
        sampled: the model bound to these samples, where it has randomness of its own (`detectors.SampledView`).

    Attributes:
        forward_cost, backward_cost: passes of the model that scoring a picture, and taking its gradient, costs.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        criterion: Criterion | None,
        consistency: Objective | None,
        micro_batch: int | None = None,
        *,
        batch: Batch | None = None,
        shared: dict | None = None,
        rows: torch.Tensor | None = None,
        sampled: Any = None,
    ):
        self.model, self.sampled = model, sampled
        passes = getattr(model, "passes", 1)
        self.forward_cost = passes * (1 + objective.extra_forwards)
        self.backward_cost = passes * objective.backward_passes
        self.objective, self.criterion, self.consistency = objective, criterion, consistency
        self.micro_batch = micro_batch
        self.batch, self.shared, self.rows = batch, shared, rows
        self.clean_value: torch.Tensor | None = None
        self._parts_key: Any = None
        self._parts: list[_Part] = []

    def select(self, rows: torch.Tensor) -> Evaluator:
        """Return an evaluator of some of the samples only (int64 indices)."""
        pick = lambda item: None if item is None else item.select(rows)  # noqa: E731
        chosen = rows if self.rows is None else self.rows[rows]
        parts = (pick(self.objective), pick(self.criterion), pick(self.consistency))
        part = self._like(*parts, chosen, self._sampled(rows))
        part.clean_value = None if self.clean_value is None else self.clean_value[rows]
        return part

    def with_objective(self, objective: Objective, clean: torch.Tensor | None = None) -> Evaluator:
        """Return an evaluator of the same samples and criterion under another objective, which is bound here.

        `clean`: pixels whose value under it becomes the clean value (costs one pass over them).
        """
        bound = objective.bind(self.model, self.batch, self.shared)
        bound = bound if self.rows is None else bound.select(self.rows)
        other = self._like(bound, self.criterion, self.consistency, self.rows, self.sampled)
        if clean is not None:
            other.clean_value = other.score(clean, success=False).value
        return other

    def _like(
        self,
        objective: Objective,
        criterion: Criterion | None,
        consistency: Objective | None,
        rows: torch.Tensor | None,
        sampled: Any,
    ) -> Evaluator:
        """Return another evaluator of the same model and batch."""
        known = {"batch": self.batch, "shared": self.shared, "rows": rows, "sampled": sampled}
        return Evaluator(self.model, objective, criterion, consistency, self.micro_batch, **known)

    def _sampled(self, rows: torch.Tensor) -> Any:
        return None if self.sampled is None else self.sampled.select_rows(rows)

    def score(self, pixels: torch.Tensor, rows: torch.Tensor | None = None, success: bool = True) -> Evaluation:
        """Score without gradients. `rows`: which samples of the batch the pixels are (None: all, in order).

        A row may occur several times: several candidates of one sample in one call.
        """
        with torch.no_grad():
            return self._retrying(lambda: self._run(pixels, rows, success, None), rows)[0]

    def value_and_grad(
        self,
        pixels: torch.Tensor,
        rows: torch.Tensor | None = None,
        success: bool = False,
        through: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
        precision: str = "float32",
    ) -> tuple[Evaluation, torch.Tensor]:
        """Score, and take the gradient of each sample's objective in its own pixels.

        Args:
            through: a differentiable map that pixels take before the model (of the given rows of `pixels`).
            precision: "bfloat16": in half precision; a success seen there counts only when a pass in single precision
                confirms it. Scores without gradients are always taken in single precision.
        """
        low = precision == "bfloat16"
        with torch.enable_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=low):
            evaluation, (gradient,) = self._retrying(
                lambda: self._run(pixels, rows, success, _value_and_grad, through), rows
            )
        return self._confirmed(evaluation, pixels, rows) if low else evaluation, gradient

    def _confirmed(self, seen: Evaluation, pixels: torch.Tensor, rows: torch.Tensor | None) -> Evaluation:
        """Return scores of a pass in half precision, its successes confirmed in single precision."""
        value = seen.value.to(pixels.dtype)
        consistency = None if seen.consistency is None else seen.consistency.to(pixels.dtype)
        claimed = None if seen.success is None else seen.success.nonzero()[:, 0]
        if claimed is None or not len(claimed):
            return Evaluation(value, consistency, seen.success)
        again = self.score(pixels[claimed], claimed if rows is None else rows[claimed])
        return Evaluation(value, consistency, seen.success.index_copy(0, claimed, again.success))

    def class_gradients(
        self, pixels: torch.Tensor, rows: torch.Tensor | None = None, count: int | None = None, success: bool = True
    ) -> tuple[Evaluation, torch.Tensor, torch.Tensor]:
        """Score, and take the `count` largest margins of each sample (N×k; all when None) with gradients N×k×3×H×W.

        The objective's `margins` are taken, with one batched vector-Jacobian product for all of them.
        """
        with torch.enable_grad():
            evaluation, (values, gradients) = self._retrying(
                lambda: self._run(pixels, rows, success, functools.partial(_largest, count=count)), rows
            )
        return evaluation, values, gradients

    def _run(
        self,
        pixels: torch.Tensor,
        rows: torch.Tensor | None,
        success: bool,
        derive: Callable[..., tuple[torch.Tensor, ...]] | None,
        through: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
    ) -> tuple[Evaluation, tuple[torch.Tensor, ...]]:
        values, consistencies, successes, derived = [], [], [], []
        for part in self._split(len(pixels), rows, pixels.device):
            x = pixels[part.span].detach()
            if derive is not None:
                x.requires_grad_(True)
            features = part.model.image_features(x if through is None else through(x, part.span))
            if derive is None:
                value = part.objective(part.model, x, features)
            else:
                value, *more = derive(part.objective, part.model, x, features)
                derived.append(more)
            value = value.detach()
            values.append(value)
            with torch.no_grad():
                if part.consistency is not None:
                    consistencies.append(part.consistency(part.model, x, features).detach())
                if success and part.criterion is not None:
                    scored = Scored(part.model, x, features, value, part.clean_value)
                    successes.append(part.criterion(scored))
        evaluation = Evaluation(torch.cat(values), _joined(consistencies), _joined(successes))
        return evaluation, tuple(_joined(list(parts)) for parts in zip(*derived, strict=True))

    def _split(self, count: int, rows: torch.Tensor | None, device: torch.device) -> list[_Part]:
        size = min(self.micro_batch or count, count)
        key = (count, size, id(rows), self.clean_value is None)
        if key != self._parts_key:
            self._parts = [
                self._part(slice(i, min(i + size, count)), count, rows, device) for i in range(0, count, size)
            ]
            self._parts_key = key
            self._rows = rows  # kept alive: its id is part of the key
        return self._parts

    def _part(self, span: slice, count: int, rows: torch.Tensor | None, device: torch.device) -> _Part:
        if rows is None and span == slice(0, count):
            model = self.model if self.sampled is None else self.sampled
            return _Part(span, model, self.objective, self.criterion, self.consistency, self.clean_value)
        chosen = torch.arange(span.start, span.stop, device=device) if rows is None else rows[span]
        pick = lambda item: None if item is None else item.select(chosen)  # noqa: E731
        clean = None if self.clean_value is None else self.clean_value[chosen]
        model = self.model if self.sampled is None else self._sampled(chosen)
        return _Part(span, model, pick(self.objective), pick(self.criterion), pick(self.consistency), clean)

    def _retrying(self, work: Callable[[], Any], rows: torch.Tensor | None) -> Any:
        if self.sampled is not None:  # once a pass, however it is split
            self.sampled.advance(rows)
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # The exception and the frames it holds are gone here, and with them the tensors of the failed pass.
            largest = max((part.span.stop - part.span.start for part in self._parts), default=1)
            self.micro_batch = smaller(largest)


def _value_and_grad(objective: Objective, model: Any, x: torch.Tensor, features: Any) -> tuple:
    return objective.value_and_grad(model, x, features)


def _largest(objective: Objective, model: Any, x: torch.Tensor, features: Any, count: int | None) -> tuple:
    value = needs_gradient(objective, objective(model, x, features))
    margins = objective.margins(model, x, features)
    if count is not None and count < margins.shape[1]:
        margins = margins.topk(count, dim=1).values
    return value, margins.detach(), jacobian(margins, x)


def jacobian(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return gradients of N×K values in x, N×K×…, where row n of the values depends on row n of x only."""
    count = values.shape[1]
    eye = torch.eye(count, dtype=values.dtype, device=values.device)
    if count > 1:
        try:
            outputs = eye.unsqueeze(1).expand(count, *values.shape)
            (stacked,) = torch.autograd.grad(values, x, outputs, retain_graph=True, is_grads_batched=True)
            return stacked.movedim(0, 1)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # An operation of the model that cannot be batched: one product after another gives the same.
    outputs = [row.expand_as(values) for row in eye]
    parts = [torch.autograd.grad(values, x, o, retain_graph=k + 1 < count)[0] for k, o in enumerate(outputs)]
    return torch.stack(parts, dim=1)


@dataclass(frozen=True)
class _Part:
    span: slice
    model: Any
    objective: Objective
    criterion: Criterion | None
    consistency: Objective | None
    clean_value: torch.Tensor | None


def _joined(parts: list[torch.Tensor]) -> torch.Tensor | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.cat(parts)
