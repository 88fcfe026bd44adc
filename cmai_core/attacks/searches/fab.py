"""FAB (Croce & Hein 2020, arXiv 1907.02044, algorithm 1): the closest adversarial image, boundary by boundary."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.searches.deepfool import length_norm, nearest
from cmai_core.attacks.searches.halfspace import step_across
from cmai_core.options import number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


@strict_options
@dataclass(frozen=True, kw_only=True)
class FAB:
    """A minimum-norm search for linf and l2; `AttackResult.minimum` is what it found, whatever ε.

    Each step projects the iterate and the clean image onto the nearest linearised boundary within the box, moves to a
    mixture of the two biased towards the clean image, and goes back towards it whenever the result is adversarial.
    Boundaries are those of the objective's `margins`, as in `DeepFool`.

    Attributes:
        steps: 100 as published. alpha: largest weight of the clean image's projection (0.1). eta: overshoot (1.05).
        beta: how far an adversarial iterate is left on its way back (0.9).
        restarts: the first starts at the clean image, the others at random within half the best distance.
        candidates: classes looked at, the right one included. final: queries of the last search on the line to the
            clean image (3). micro_batch: as in `GradientSearch`.
    """

    norms = ("linf", "l2")
    steps: int = 100
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    restarts: int = 1
    candidates: int = 10
    final: int = 3
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        whole("candidates", self.candidates, 2)
        whole("final", self.final, 0)
        number("alpha", self.alpha, 0.0, 1.0)
        number("eta", self.eta, 1.0)
        number("beta", self.beta, 0.0, 1.0)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("steps", "alpha", "eta", "beta", "restarts", "candidates", "final")
        return {"search": "fab"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        norm = length_norm(problem.region, "FAB")
        record = SearchRecord.of_nearest(problem, watch, self.steps)
        intact = record.unfooled()
        for restart in range(self.restarts):
            if len(intact) == 0 or record.stop():
                break
            self._single(problem, record, intact, norm, seed, restart)
        if not record.stop():
            self._search_line(problem, record, intact)
        return record.outcome()

    def _single(
        self, problem: Problem, record: SearchRecord, rows: torch.Tensor, norm: str, seed: int, restart: int
    ) -> None:
        x0 = problem.region.centre[rows]
        x = x0 if restart == 0 else self._random_start(problem, record, rows, norm, seed, restart)
        for step in range(self.steps):
            if len(rows) == 0 or record.stop():
                break
            _, values, gradients = record.class_gradients(x, rows, self.candidates - 1)
            good = record.finite(gradients, rows, step)
            if not bool(good.all()):
                kept = good.nonzero().squeeze(1)
                rows, x0, x, values, gradients = rows[kept], x0[kept], x[kept], values[kept], gradients[kept]
                if len(rows) == 0:
                    break
            _, normal, height = nearest(values, gradients, norm)
            offset = (normal * (x - x0)).flatten(1).sum(dim=1)
            from_x = step_across(x, normal, -height, norm)
            from_clean = step_across(x0, normal, -height + offset, norm)
            near, far = _size(from_x, norm).clamp(min=1e-8), _size(from_clean, norm).clamp(min=1e-8)
            weight = column((near / (near + far)).clamp(max=self.alpha), x)
            x = (1 - weight) * (x + self.eta * from_x) + weight * (x0 + self.eta * from_clean)
            x = x.clamp(0, 1)
            evaluation = record.score(x, rows, step + 1)
            x = torch.where(column(evaluation.success, x), x0 + self.beta * (x - x0), x)
            record.steps_done += 1
            record.report(step + 1, restart=restart, restarts=self.restarts)

    def _random_start(
        self, problem: Problem, record: SearchRecord, rows: torch.Tensor, norm: str, seed: int, restart: int
    ) -> torch.Tensor:
        x0 = problem.region.centre[rows]
        radius = torch.minimum(record.best.distance[rows], problem.region.epsilon[rows].flatten()) / 2
        generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], restart)
        if norm == "linf":
            noise = [2 * torch.rand(x0.shape[1:], generator=g, dtype=x0.dtype) - 1 for g in generators]
        else:
            noise = [torch.randn(x0.shape[1:], generator=g, dtype=x0.dtype) for g in generators]
        noise = torch.stack(noise).to(x0.device)
        return (x0 + column(radius / _size(noise, norm), x0) * noise).clamp(0, 1)

    def _search_line(self, problem: Problem, record: SearchRecord, rows: torch.Tensor) -> None:
        """Search the line from the clean image to the best: regula falsi where values have signs, else bisection."""
        rows = rows[record.best.distance[rows].isfinite()]
        x0, best = problem.region.centre[rows], record.best.examples[rows]
        low, high = torch.zeros(len(rows)).to(x0), torch.ones(len(rows)).to(x0)
        low_value, high_value = problem.clean.value[rows], record.best.value[rows]
        for _ in range(self.final):
            if len(rows) == 0 or record.stop():
                break
            signed = (low_value < 0) & (high_value > 0)
            share = torch.where(signed, -low_value / (high_value - low_value).clamp(min=1e-30), 0.5)
            middle = low + (high - low) * share.clamp(0.05, 0.95)
            evaluation = record.score(x0 + column(middle, x0) * (best - x0), rows)
            high, low = torch.where(evaluation.success, middle, high), torch.where(evaluation.success, low, middle)
            high_value = torch.where(evaluation.success, evaluation.value, high_value)
            low_value = torch.where(evaluation.success, low_value, evaluation.value)


def _size(delta: torch.Tensor, norm: str) -> torch.Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)
