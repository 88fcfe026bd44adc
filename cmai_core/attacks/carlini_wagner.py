"""Carlini & Wagner's L2 attack (2017, arXiv 1608.04644, §V): the smallest change found by penalised descent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cmai_core.attacks.gradient import Outcome, Problem
from cmai_core.attacks.ledger import NearestLedger, column
from cmai_core.attacks.options import flag, number, strict_options, whole
from cmai_core.attacks.watch import Watch

# Pixels 0 and 1 would be infinitely far in tanh space.
INSIDE = 0.999999


@strict_options
@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """Minimises ‖δ‖² + c·max(κ − objective, 0) in tanh space with Adam; c is searched for each sample on its own.

    The objective must be positive where the sample is fooled: a margin (whose true classes are masked with −inf), or
    `Constant(tau) - Consistency()`. A minimum-norm search: `AttackResult.minimum` is what it found, whatever ε.

    Attributes:
        steps: Adam steps for one c (10,000 in the authors' code; 1,000 is usual). step_size: 0.01.
        searches: values of c tried for each sample (9). initial: the first (0.001), then ×10 until one succeeds, then
            bisection. confidence: κ.
        abort_early: a sample leaves the batch when a fifth of the steps brought its least loss no further down. (The
            authors' code compares two moments, of the batch's total: near the boundary the loss goes up and down.)
        micro_batch: as in `GradientSearch`.
    """

    norms = ("l2",)
    steps: int = 1000
    step_size: float = 0.01
    searches: int = 9
    initial: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("searches", self.searches, 1)
        number("step_size", self.step_size, 0.0, above_low=True)
        number("initial", self.initial, 0.0, above_low=True)
        number("confidence", self.confidence, 0.0)
        flag("abort_early", self.abort_early)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("steps", "step_size", "searches", "initial", "confidence", "abort_early")
        return {"search": "carlini-wagner"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attacks all samples of the problem. Nothing is random."""
        ledger = NearestLedger(problem, watch, self.searches)
        rows = ledger.unfooled()
        weight = torch.full((len(rows),), self.initial).to(ledger.value)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for search in range(self.searches):
            if len(rows) == 0 or ledger.stop():
                break
            if search == self.searches - 1 and self.searches >= 10:  # as the authors: once more at the upper end
                weight = high.clamp(max=1e10)
            found = self._descend(problem, ledger, rows, weight, search)
            high = torch.where(found, weight, high)
            low = torch.where(found, low, weight)
            weight = torch.where(high.isinf(), weight * 10, (low + high) / 2)
            good = ledger.bad_step[rows] < 0
            if not bool(good.all()):
                rows, weight, low, high = rows[good], weight[good], low[good], high[good]
        return ledger.outcome()

    def _descend(
        self, problem: Problem, ledger: NearestLedger, rows: torch.Tensor, weight: torch.Tensor, search: int
    ) -> torch.Tensor:
        """One c for each row; whether each found an adversarial image."""
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        active = torch.arange(len(rows), device=rows.device)
        base = torch.atanh((problem.region.centre[rows] * 2 - 1) * INSIDE)
        anchor = (base.tanh() + 1) / 2
        delta, first, second = (torch.zeros_like(base) for _ in range(3))
        checked = torch.full_like(weight, torch.inf)
        least = checked.clone()
        fifth = math.ceil(self.steps / 5)
        for step in range(self.steps):
            if len(active) == 0 or ledger.stop():
                break
            at = rows[active]
            squashed = (base + delta).tanh()
            x = (squashed + 1) / 2
            evaluation, gradient = ledger.climb(x, at, search + 1, offer=False)
            good = ledger.finite(gradient, at, search)
            gradient = torch.where(column(good, gradient), gradient, 0.0)
            success = evaluation.success & (evaluation.value >= self.confidence)
            ledger.offer(x, at, evaluation.value, success)
            found[active] |= success
            lacking = self.confidence - evaluation.value
            pull = torch.where(lacking > 0, weight[active], 0.0)
            slope = (2 * (x - anchor) - column(pull, x) * gradient) * (1 - squashed**2) / 2
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope**2
            scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            delta = delta - self.step_size * (first / (1 - 0.9 ** (step + 1))) / scale
            ledger.steps_done += 1
            self._report(ledger, search, step)
            keep = good
            if self.abort_early:
                loss = ((x - anchor) ** 2).flatten(1).sum(dim=1) + weight[active] * lacking.clamp(min=0)
                least[active] = torch.minimum(least[active], loss)
                if step % fifth == 0:
                    keep = keep & (least[active] <= 0.9999 * checked[active])
                    checked[active] = least[active]
            if not bool(keep.all()):
                kept = keep.nonzero().squeeze(1)
                active, base, anchor = active[kept], base[kept], anchor[kept]
                delta, first, second = delta[kept], first[kept], second[kept]
        return found

    def _report(self, ledger: NearestLedger, search: int, step: int) -> None:
        done, total = search * self.steps + step + 1, self.searches * self.steps

        def data() -> dict:
            trace, other = ledger.objective_trace[1 : search + 2], ledger.consistency_trace
            other = None if other is None else other[1 : search + 2].clone()
            return {
                "step": done,
                "restart": search,
                "objective": trace.clone(),
                "consistency": other,
                "pixels": ledger.pixels,
            }

        ledger.watch.report(done, total, f"weight {search + 1} of {self.searches}", data, force=done in (1, total))
        ledger.watch.pace(ledger.pixels.device)
