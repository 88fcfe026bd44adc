"""Forward and backward passes of an attack, in micro-batches that shrink when the device runs out of memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cmai_core.attacks.objectives import Objective
from cmai_core.attacks.success import Criterion, Scored
from cmai_core.errors import CmaiError, OptionError


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
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        criterion: Criterion | None,
        consistency: Objective | None,
        micro_batch: int | None = None,
    ):
        self.model = model
        self.objective, self.criterion, self.consistency = objective, criterion, consistency
        self.micro_batch = micro_batch
        self.clean_value: torch.Tensor | None = None
        self._parts_key: Any = None
        self._parts: list[_Part] = []

    def score(self, pixels: torch.Tensor, rows: torch.Tensor | None = None, success: bool = True) -> Evaluation:
        """Scores without gradients. `rows`: which samples of the batch the pixels are (None: all, in order)."""
        with torch.no_grad():
            return self._retrying(lambda: self._run(pixels, rows, success, gradient=False))[0]

    def climb(
        self, pixels: torch.Tensor, rows: torch.Tensor | None = None, success: bool = False
    ) -> tuple[Evaluation, torch.Tensor]:
        """Scores, and the gradient of each sample's objective in its own pixels."""
        with torch.enable_grad():
            return self._retrying(lambda: self._run(pixels, rows, success, gradient=True))

    def _run(
        self, pixels: torch.Tensor, rows: torch.Tensor | None, success: bool, gradient: bool
    ) -> tuple[Evaluation, torch.Tensor | None]:
        values, consistencies, successes, gradients = [], [], [], []
        for part in self._split(len(pixels), rows, pixels.device):
            x = pixels[part.span].detach()
            if gradient:
                x.requires_grad_(True)
            features = self.model.image_features(x)
            value = part.objective(self.model, x, features)
            values.append(value.detach())
            with torch.no_grad():
                if part.consistency is not None:
                    consistencies.append(part.consistency(self.model, x, features).detach())
                if success and part.criterion is not None:
                    scored = Scored(self.model, x, features, value.detach(), part.clean_value)
                    successes.append(part.criterion(scored))
            if gradient:
                if not value.requires_grad:
                    raise OptionError(
                        f"The objective {part.objective.describe()} has no gradient in the pixels.",
                        "Choose one that depends on the image.",
                    )
                gradients.append(torch.autograd.grad(value.sum(), x)[0])
        evaluation = Evaluation(torch.cat(values), _joined(consistencies), _joined(successes))
        return evaluation, _joined(gradients)

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
            return _Part(span, self.objective, self.criterion, self.consistency, self.clean_value)
        chosen = torch.arange(span.start, span.stop, device=device) if rows is None else rows[span]
        pick = lambda item: None if item is None else item.select(chosen)  # noqa: E731
        clean = None if self.clean_value is None else self.clean_value[chosen]
        return _Part(span, pick(self.objective), pick(self.criterion), pick(self.consistency), clean)

    def _retrying(self, work: Callable[[], Any]) -> Any:
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # The exception and the frames it holds are gone here, and with them the tensors of the failed pass.
            largest = max((part.span.stop - part.span.start for part in self._parts), default=1)
            if largest <= 1:
                raise CmaiError(
                    "The device has too little memory for a single image.", "Choose a smaller model, or the CPU."
                ) from None
            self.micro_batch = largest // 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Part:
    span: slice
    objective: Objective
    criterion: Criterion | None
    consistency: Objective | None
    clean_value: torch.Tensor | None


def _joined(parts: list[torch.Tensor]) -> torch.Tensor | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any kind of device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


@contextlib.contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Evaluation mode and no parameter gradients while inside; each module and parameter is put back as it was found.

    With `requires_grad` off, the forward pass keeps nothing for parameter gradients, which nobody asks for.
    """
    root = model if isinstance(model, nn.Module) else getattr(model, "clip", None)
    if not isinstance(root, nn.Module):
        yield
        return
    training = [module for module in root.modules() if module.training]
    trainable = [parameter for parameter in root.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
