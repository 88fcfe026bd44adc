"""The problem that a search on images is given, its outcome, and the protocol of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from cmai_core.attacks.engine.evaluator import Evaluation, Evaluator
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.reporting import Watch


@dataclass(frozen=True)
class Problem:
    """The allowed region, sample ids, the evaluator, and the scores of the clean images."""

    region: Region
    ids: Sequence[str]
    evaluator: Evaluator
    clean: Evaluation

    def select(self, rows: torch.Tensor) -> Problem:
        """Return the same problem for some of the samples (int64 indices)."""
        clean = (self.clean.value, self.clean.consistency, self.clean.success)
        picked = Evaluation(*(None if item is None else item[rows] for item in clean))
        ids = [self.ids[row] for row in rows.tolist()]
        return Problem(self.region.select(rows), ids, self.evaluator.select(rows), picked)


@dataclass
class Outcome:
    """What a search found. Tensors on the device; N samples, S steps.

    Attributes:
        pixels: N×3×H×W.
        objective_trace, consistency_trace: (S+1)×N; row k is the iterate after k steps of the restart that was kept,
            NaN where none was scored. The second is None without texts.
        forwards, backwards: passes spent by the search on each sample.
        bad_step: int64 N; the step at which a gradient was not finite, −1 where all were.
        steps_done: steps taken over all restarts. cancelled: whether it ended early because it was told to.
        last_unscored: `pixels` are the last iterate and were not scored: the last row of the traces is still NaN.
        minimum, minimum_norm: of a minimum-norm search: the closest adversarial images, whatever ε, and their distance
            (inf where none was found).
        universal: 3×H×W, the one perturbation of a universal search (the patch's content under a patch threat).
    """

    pixels: torch.Tensor
    objective_trace: torch.Tensor
    consistency_trace: torch.Tensor | None
    forwards: torch.Tensor
    backwards: torch.Tensor
    bad_step: torch.Tensor
    steps_done: int
    cancelled: bool
    last_unscored: bool = False
    minimum: torch.Tensor | None = None
    minimum_norm: torch.Tensor | None = None
    universal: torch.Tensor | None = None


class Search(Protocol):
    """A way to raise the objective within the region."""

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome: ...

    def describe(self) -> dict: ...
