"""Somebody else's attack as a search: any function from a model and a batch to pictures.

    def mine(model, batch):            # a Batch of the samples still to be fooled; pixels in [0, 1]
        ...
        return adversarial_pixels      # the same shape

    Attack(threat=ThreatModel("linf", 4 / 255), objective=Margin(task), search=External(name="mine", function=mine))

What it returns is brought into the threat's region and scored like every other result, and it joins an ensemble as
`Member(name="mine", search=External(...))`. Its own passes are counted where it calls `model.image_features`; gradients
are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.options import strict_options
from cmai_core.reporting import Watch


@strict_options
@dataclass(frozen=True, kw_only=True)
class External:
    """A third party's attack.

    Attributes:
        name: for reports. function: (model, Batch) → pixels N×3×H×W.
    """

    name: str
    function: Callable[[Any, Batch], torch.Tensor]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise OptionError(f"function={self.function!r} is not accepted.", "Accepted: function(model, batch).")

    def describe(self) -> dict:
        return {"search": f"external:{self.name}"}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack the samples that have not succeeded yet; the function is responsible for its own randomness."""
        record = SearchRecord(problem, watch, 1)
        rows = record.unfooled()
        if len(rows) and not record.stop():
            evaluator = problem.evaluator
            chosen = rows if evaluator.rows is None else evaluator.rows[rows]
            batch = take_batch(evaluator.batch, chosen, problem.region.centre[rows])
            counted = _Counted(evaluator.model)
            with torch.enable_grad():
                pixels = self.function(counted, batch)
            if not isinstance(pixels, torch.Tensor) or pixels.shape != batch.pixels.shape:
                shape = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
                raise OptionError(
                    f"The attack {self.name!r} returned {shape}.",
                    f"Expected pixels of shape {tuple(batch.pixels.shape)}.",
                )
            record.forwards[rows] += counted.images // len(rows)
            pixels = torch.where(pixels.isfinite(), pixels.detach().to(batch.pixels), batch.pixels)
            record.score(problem.region.select(rows).project(pixels), rows, 1)
            record.steps_done = 1
        record.report(1)
        return record.outcome()


class _Counted:
    """The model, with the images it was shown counted."""

    def __init__(self, model: Any):
        self._model, self.images = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def image_features(self, pixels: torch.Tensor) -> Any:
        self.images += len(pixels)
        return self._model.image_features(pixels)

    def __call__(self, pixels: torch.Tensor) -> Any:
        self.images += len(pixels)
        return self._model(pixels)


def take_batch(batch: Batch, rows: torch.Tensor, pixels: torch.Tensor) -> Batch:
    """Return some image rows of a batch with their texts; `pixels` are theirs."""
    chosen = rows.tolist()
    position = {row: new for new, row in enumerate(chosen)}
    kept = [k for k, owner in enumerate(batch.image_of_text) if owner in position]
    return Batch(
        tuple(batch.ids[row] for row in chosen),
        pixels,
        tuple(batch.texts[k] for k in kept),
        tuple(position[batch.image_of_text[k]] for k in kept),
        tuple(batch.pairs[row] for row in chosen) if batch.pairs else (),
    )
