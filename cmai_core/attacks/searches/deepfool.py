"""DeepFool (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2): step to the nearest linearised boundary."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.threats.regions.l2 import L2Region
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.attacks.threats.regions.patch import PatchRegion
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.errors import OptionError
from cmai_core.options import number, strict_options, whole
from cmai_core.reporting import Watch


@strict_options
@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """A minimum-norm search: `AttackResult.minimum` is what it found, whatever ε.

    The boundaries are where the objective's `margins` are 0 (class differences, or the zero of any other objective).
    Gradients of all candidates come from one batched vector-Jacobian product; fooled samples leave the batch.

    Attributes:
        steps: 50 as published. overshoot: 0.02. candidates: classes looked at, the right one included (10).
        micro_batch: as in `GradientSearch`.
    """

    norms = ("linf", "l2")
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("candidates", self.candidates, 2)
        number("overshoot", self.overshoot, 0.0)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        return {"search": "deepfool"} | {n: getattr(self, n) for n in ("steps", "overshoot", "candidates")}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem. Nothing is random."""
        norm = length_norm(problem.region, "DeepFool")
        record = SearchRecord.of_nearest(problem, watch, self.steps)
        rows = record.unfooled()
        x0 = problem.region.centre[rows]
        x, total = x0, torch.zeros_like(x0)
        for step in range(self.steps + 1):
            if len(rows) == 0 or record.stop():
                break
            if step == self.steps:
                record.score(x, rows, step)
                record.report(step)
                break
            evaluation, values, gradients = record.class_gradients(x, rows, self.candidates - 1, step)
            record.report(step)
            keep = record.finite(gradients, rows, step) & ~evaluation.success
            if not bool(keep.all()):
                kept = keep.nonzero().squeeze(1)
                rows, x0, total = rows[kept], x0[kept], total[kept]
                values, gradients = values[kept], gradients[kept]
            distance, normal, _ = nearest(values, gradients, norm)
            size = (distance + 1e-4).to(x0)  # for numerical stability, as published implementations do
            if norm == "linf":
                total = total + column(size, x0) * normal.sign()
            else:
                total = total + column(size / normal.flatten(1).norm(dim=1).clamp(min=1e-30), x0) * normal
            x = (x0 + (1 + self.overshoot) * total).clamp(0, 1)
            record.steps_done = step + 1
        return record.outcome()


def length_norm(region: Region, name: str) -> str:
    """Return the norm of a region of lengths: "linf" or "l2".

    Raises:
        OptionError: the region is of another kind.
    """
    if isinstance(region, LinfRegion) and not isinstance(region, PatchRegion):
        return "linf"
    if isinstance(region, L2Region):
        return "l2"
    raise OptionError(f"{name} measures lengths; this threat is of another kind.", "Accepted: linf, l2.")


def nearest(
    values: torch.Tensor, gradients: torch.Tensor, norm: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the distance to the nearest linearised boundary (N), its normal (N×3×H×W) and the margin there (N).

    Args:
        values: N×K margins (−inf: no boundary). gradients: N×K×3×H×W.
    """
    flat = gradients.flatten(2)
    dual = flat.abs().sum(dim=2) if norm == "linf" else flat.norm(dim=2)
    distance = values.abs() / dual.clamp(min=1e-12)
    distance = distance.masked_fill(~values.isfinite(), torch.inf)
    best = distance.argmin(dim=1)
    at = torch.arange(len(values), device=values.device)
    return distance[at, best], gradients[at, best], values[at, best]
