"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690, algorithm 1): gradient ascent that sets its own step size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.searches.gradient import PRECISIONS
from cmai_core.attacks.threats.image import L2Region, LinfRegion, Region
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

RULES = ("paper", "code")


@strict_options
@dataclass(frozen=True, kw_only=True)
class APGD:
    """Ascent with momentum from a step of 2ε, halved at checkpoints where it no longer pays.

    A halving goes back to the best iterate. It happens at checkpoint w_j where the objective rose in fewer than
    ρ·(w_j − w_{j−1}) of the steps since the last one, or where neither the step nor the best value has changed since.

    Attributes:
        steps: 100 as published; restarts: each from its own random start.
        momentum: α of the paper, the weight of the new direction (0.75).
        rho: 0.75.
        stop_on_success: leave a fooled sample as it is and shrink the batch to the others (as published); else the
            objective is raised to the end.
        eot: gradients averaged in a step, for a model with randomness of its own.
        rule: "paper"; or "code": the authors' published code, which rounds checkpoints down, counts "not more than"
            instead of "fewer than", and never applies the second condition at the first checkpoint.
        micro_batch, precision: as in `GradientSearch`.
    """

    norms = ("linf", "l2", "patch")
    steps: int = 100
    restarts: int = 1
    momentum: float = 0.75
    rho: float = 0.75
    stop_on_success: bool = True
    eot: int = 1
    rule: str = "paper"
    micro_batch: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "eot"):
            whole(name, getattr(self, name), 1)
        one_of("precision", self.precision, PRECISIONS)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)
        number("momentum", self.momentum, 0.0, 1.0, above_low=True)
        number("rho", self.rho, 0.0, 1.0)
        flag("stop_on_success", self.stop_on_success)
        one_of("rule", self.rule, RULES)

    def describe(self) -> dict:
        names = ("steps", "restarts", "momentum", "rho", "stop_on_success", "eot", "rule")
        low = {} if self.precision == "float32" else {"precision": self.precision}
        return {"search": "apgd"} | {name: getattr(self, name) for name in names} | low

    def checkpoints(self) -> list[int]:
        """Steps w_1 < w_2 < … after which the step size is reconsidered (§3.3)."""
        found, position = [], 0
        if self.rule == "paper":
            last, share = 0.0, 0.22
            while share <= 1 and (position := math.ceil(share * self.steps - 1e-9)) <= self.steps:
                found.append(position)
                last, share = share, share + max(share - last - 0.03, 0.06)
            return sorted(set(found))
        window, least, shrink = (max(int(p * self.steps), 1) for p in (0.22, 0.06, 0.03))
        while (position := position + window) <= self.steps:
            found.append(position)
            window = max(window - shrink, least)
        return found

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attacks all samples of the problem."""
        record = SearchRecord(problem, watch, self.steps)
        for restart in range(self.restarts):
            rows = record.unfooled() if self.stop_on_success else record.rows(record.bad_step < 0)
            if len(rows) == 0 or record.stop():
                break
            self._single(problem, record, rows, seed, restart)
        return record.outcome()

    def _start(self, region: Region, problem: Problem, rows: torch.Tensor, seed: int, restart: int) -> torch.Tensor:
        """As the authors' code: noise stretched to touch the ball's surface."""
        generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], restart)
        if type(region) not in (LinfRegion, L2Region):
            return region.random(generators)
        centre = region.centre
        shape, dtype = centre.shape[1:], centre.dtype
        if type(region) is LinfRegion:
            noise = [2 * torch.rand(shape, generator=g, dtype=dtype) - 1 for g in generators]
            noise = [n / n.abs().max() for n in noise]
        else:
            noise = [torch.randn(shape, generator=g, dtype=dtype) for g in generators]
            noise = [n / n.norm() for n in noise]
        return region.project(centre + region.epsilon * torch.stack(noise).to(centre.device))

    def _single(self, problem: Problem, record: SearchRecord, rows: torch.Tensor, seed: int, restart: int) -> None:
        region = problem.region.select(rows)
        x = self._start(region, problem, rows, seed, restart)
        evaluation, gradient = record.value_and_grad(x, rows, 0, passes=self.eot, precision=self.precision)
        record.report(0, restart=restart, restarts=self.restarts)
        value = evaluation.value
        code = self.rule == "code"
        state = {
            "rows": rows,
            "x": x,
            "old": x,
            "gradient": gradient,
            "length": 2 * region.reach.expand(len(rows), *[1] * (x.dim() - 1)).clone(),
            "best_x": x,
            "best_gradient": gradient,
            "best": value,
            # The authors' code compares the first value with 0.
            "previous": torch.zeros_like(value) if code else value,
            "checked": value,
            "rises": torch.zeros_like(value),
            "reduced": torch.full_like(value, code, dtype=torch.bool),
        }
        keep = record.finite(gradient, rows, 0)
        state, region = self._narrow(state, region, keep & ~(evaluation.success & self.stop_on_success))
        checkpoints, before = set(self.checkpoints()), 0
        for step in range(1, self.steps + 1):
            if len(state["rows"]) == 0 or record.stop():
                break
            evaluation = self._step(record, region, state, step)
            record.steps_done += 1
            if step in checkpoints:
                self._reconsider(state, step - before)
                before = step
            record.report(step, restart=restart, restarts=self.restarts)
            keep = record.bad_step[state["rows"]] < 0
            if self.stop_on_success:
                keep = keep & ~evaluation.success
            if self.stop_on_success or step == 1:
                state, region = self._narrow(state, region, keep)

    def _step(self, record: SearchRecord, region: Region, state: dict, step: int):
        x, rows = state["x"], state["rows"]
        weight = self.momentum if step > 1 else 1.0
        aim = region.project(x + state["length"] * region.direction(state["gradient"]))
        moved = region.project(x + weight * (aim - x) + (1 - weight) * (x - state["old"]))
        state["old"], state["x"] = x, moved
        if step < self.steps:
            evaluation, gradient = record.value_and_grad(moved, rows, step, passes=self.eot, precision=self.precision)
            good = record.finite(gradient, rows, step)
            gradient = torch.where(column(good, gradient), gradient, 0.0)
        else:  # the last gradient is not needed
            evaluation, gradient = record.score(moved, rows, step), state["gradient"]
        value = evaluation.value
        state["rises"] = state["rises"] + (value > state["previous"])
        state["previous"] = value
        better = value > state["best"]
        state["best_x"] = torch.where(column(better, moved), moved, state["best_x"])
        state["best_gradient"] = torch.where(column(better, gradient), gradient, state["best_gradient"])
        state["best"] = torch.where(better, value, state["best"])
        state["gradient"] = gradient
        return evaluation

    def _reconsider(self, state: dict, window: int) -> None:
        enough = self.rho * window
        few = state["rises"] <= enough if self.rule == "code" else state["rises"] < enough
        stalled = ~state["reduced"] & (state["checked"] >= state["best"])
        cut = few | stalled
        at = column(cut, state["x"])
        state["length"] = torch.where(at, state["length"] / 2, state["length"])
        state["x"] = torch.where(at, state["best_x"], state["x"])
        state["gradient"] = torch.where(at, state["best_gradient"], state["gradient"])
        state["reduced"], state["checked"] = cut, state["best"]
        state["rises"] = torch.zeros_like(state["rises"])

    @staticmethod
    def _narrow(state: dict, region: Region, keep: torch.Tensor) -> tuple[dict, Region]:
        if bool(keep.all()):
            return state, region
        kept = keep.nonzero().squeeze(1)
        return {name: value[kept] for name, value in state.items()}, region.select(kept)
