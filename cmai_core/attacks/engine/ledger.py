"""What searches other than plain gradient ascent have in common: the best found, what it cost, traces, progress."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmai_core.attacks.engine.evaluator import Evaluation
from cmai_core.attacks.searches.gradient import Outcome, Problem
from cmai_core.attacks.threats.image import Region
from cmai_core.reporting import Watch


class Ledger:
    """The best image of every sample so far, beginning with the clean one, and the passes spent on it.

    Every score goes through here: it is counted for its sample and offered as the new best (success first, then the
    objective). `rows` are sample indices in ascending order, except in `score_many`.

    Args:
        steps: how many steps the search takes; the traces have one more row.
    """

    def __init__(self, problem: Problem, watch: Watch, steps: int):
        self.problem, self.watch, self.steps = problem, watch, steps
        centre = problem.region.centre
        count, device = len(centre), centre.device
        self.count = count
        self.pixels = centre.clone()
        self.value = problem.clean.value.clone()
        success = problem.clean.success
        self.success = torch.zeros(count, dtype=torch.bool, device=device) if success is None else success.clone()
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = self.forwards.clone()
        self.bad_step = self.forwards - 1
        self.objective_trace = torch.full((steps + 1, count), torch.nan, dtype=self.value.dtype, device=device)
        self.consistency_trace = None if problem.clean.consistency is None else self.objective_trace.clone()
        self.steps_done = 0
        self.cancelled = False

    def begin(self) -> None:
        """Enters the clean images as row 0 of the traces."""
        self.objective_trace[0] = self.problem.clean.value
        if self.consistency_trace is not None:
            self.consistency_trace[0] = self.problem.clean.consistency

    def rows(self, flags: torch.Tensor | None = None) -> torch.Tensor:
        """Indices of the samples with a flag (of all, when None)."""
        if flags is None:
            return torch.arange(self.count, device=self.pixels.device)
        return flags.nonzero().squeeze(1)

    def unfooled(self) -> torch.Tensor:
        """Indices of the samples that have not succeeded and whose gradient has been finite."""
        return self.rows(~self.success & (self.bad_step < 0))

    def stop(self) -> bool:
        """Whether to stop because somebody cancelled; remembers it."""
        self.cancelled = self.cancelled or self.watch.cancelled
        return self.cancelled

    def score(self, x: torch.Tensor, rows: torch.Tensor, step: int | None = None, offer: bool = True) -> Evaluation:
        """Scores one image for each of the rows: one query each."""
        self.forwards[rows] += self.problem.evaluator.forward_cost
        evaluation = self.problem.evaluator.score(x, self._view(rows))
        return self._note(x, rows, evaluation, step, offer)

    def climb(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        step: int | torch.Tensor | None = None,
        eot: int = 1,
        offer: bool = True,
        precision: str = "float32",
    ) -> tuple[Evaluation, torch.Tensor]:
        """Scores and gradients, averaged over `eot` passes (for models with randomness of their own).

        `step`: the row of the traces, or one for each of the rows.
        """
        evaluator = self.problem.evaluator
        evaluations, total = [], None
        for _ in range(eot):
            self.forwards[rows] += evaluator.forward_cost
            self.backwards[rows] += evaluator.backward_cost
            evaluation, gradient = evaluator.climb(x, self._view(rows), success=True, precision=precision)
            evaluations.append(evaluation)
            total = gradient if total is None else total + gradient
        evaluation = evaluations[0] if eot == 1 else _mean(evaluations)
        return self._note(x, rows, evaluation, step, offer), total / eot if eot > 1 else total

    def slopes(
        self, x: torch.Tensor, rows: torch.Tensor, count: int | None, step: int | None = None
    ) -> tuple[Evaluation, torch.Tensor, torch.Tensor]:
        """Scores, rivals and their gradients (`Evaluator.slopes`); counts one backward pass for each rival."""
        evaluator = self.problem.evaluator
        self.forwards[rows] += evaluator.forward_cost
        evaluation, values, gradients = evaluator.slopes(x, self._view(rows), count)
        self.backwards[rows] += evaluator.backward_cost * values.shape[1]
        return self._note(x, rows, evaluation, step, True), values, gradients

    def score_many(
        self, candidates: torch.Tensor, rows: torch.Tensor, step: int | None = None, offer: bool = True
    ) -> Evaluation:
        """Scores P candidates for each of n rows (n×P×3×H×W) in one call: n×P results, P queries for each row."""
        n, many = candidates.shape[:2]
        self.forwards[rows] += many * self.problem.evaluator.forward_cost
        flat = self.problem.evaluator.score(candidates.flatten(0, 1), rows.repeat_interleave(many))
        parts = (flat.value, flat.consistency, flat.success)
        found = Evaluation(*(None if part is None else part.view(n, many) for part in parts))
        success = torch.zeros_like(found.value, dtype=torch.bool) if found.success is None else found.success
        ranked = torch.where(success | ~success.any(dim=1, keepdim=True), found.value, -torch.inf)
        best = ranked.nan_to_num(nan=-torch.inf).argmax(dim=1)
        at = torch.arange(n, device=best.device)
        chosen = Evaluation(*(None if p is None else p[at, best] for p in (found.value, found.consistency, success)))
        self._note(candidates[at, best], rows, chosen, step, offer)
        return Evaluation(found.value, found.consistency, success)

    def _view(self, rows: torch.Tensor) -> torch.Tensor | None:
        return None if len(rows) == self.count else rows

    def _note(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        evaluation: Evaluation,
        step: int | torch.Tensor | None,
        offer: bool,
    ) -> Evaluation:
        success = evaluation.success
        if success is None:
            success = torch.zeros_like(evaluation.value, dtype=torch.bool)
            evaluation = Evaluation(evaluation.value, evaluation.consistency, success)
        if step is not None:
            self.objective_trace[step, rows] = evaluation.value
            if self.consistency_trace is not None:
                self.consistency_trace[step, rows] = evaluation.consistency
        if offer:
            self.offer(x, rows, evaluation.value, success)
        return evaluation

    def offer(self, x: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, success: torch.Tensor) -> None:
        """Keeps an image where it is better than the best so far."""
        old_value, old_success = self.value[rows], self.success[rows]
        better = (success & ~old_success) | ((success == old_success) & ~(value <= old_value) & ~value.isnan())
        self._put(x, rows, value, success, better)

    def replace(self, x: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, chosen: torch.Tensor) -> None:
        """Puts images that succeed in the place of the best, whatever that was, where chosen (bool, one a row)."""
        self._put(x, rows, value, torch.ones_like(chosen), chosen)

    def _put(
        self, x: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, success: torch.Tensor, better: torch.Tensor
    ) -> None:
        # New tensors, since the old ones may have been sent to a listener.
        if better.device.type == "cpu":
            # Nothing is copied but what improves. (Elsewhere, asking which that is would wait for the device.)
            chosen = better.nonzero().squeeze(1)
            if len(chosen) == 0:
                return
            rows, x, value, success = rows[chosen], x[chosen], value[chosen], success[chosen]
        else:
            x = torch.where(column(better, x), x, self.pixels[rows])
            value = torch.where(better, value, self.value[rows])
            success = torch.where(better, success, self.success[rows])
        self.pixels = self.pixels.index_copy(0, rows, x)
        self.value = self.value.index_copy(0, rows, value)
        self.success = self.success.index_copy(0, rows, success)

    def finite(self, gradient: torch.Tensor, rows: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """Flags the rows whose gradient is finite; the first step at which one was not is remembered."""
        good = gradient.flatten(1).sum(dim=1).isfinite()  # infinities of both signs add up to NaN
        bad = self.bad_step[rows]
        self.bad_step[rows] = torch.where(~good & (bad < 0), step, bad)
        return good

    def report(self, step: int, stage: str = "attacking", restart: int = 0, total: int | None = None) -> None:
        """Progress after `step` steps of `total`; the images shown are the best so far."""
        total = self.steps if total is None else total
        shown = min(step % (self.steps + 1) if total != self.steps else step, self.steps)

        def data() -> dict:
            consistency = None if self.consistency_trace is None else self.consistency_trace[: shown + 1].clone()
            return {
                "step": step,
                "restart": restart,
                "objective": self.objective_trace[: shown + 1].clone(),
                "consistency": consistency,
                "pixels": self.pixels,
            }

        self.watch.report(step, total, stage, data, force=step in (0, total))
        self.watch.pace(self.pixels.device)

    def outcome(self) -> Outcome:
        """What the search hands back."""
        return Outcome(
            pixels=self.pixels,
            objective_trace=self.objective_trace,
            consistency_trace=self.consistency_trace,
            forwards=self.forwards,
            backwards=self.backwards,
            bad_step=self.bad_step,
            steps_done=self.steps_done,
            cancelled=self.cancelled,
        )


class NearestLedger(Ledger):
    """Keeps the closest image that succeeds, whatever ε; handed back brought into the region.

    One run serves every ε: `AttackResult.success_at`.
    """

    def __init__(self, problem: Problem, watch: Watch, steps: int):
        super().__init__(problem, watch, steps)
        self.norm = torch.where(self.success, 0.0, torch.inf).to(self.value)
        self._around: tuple[torch.Tensor | None, Region] = (None, problem.region)

    def offer(self, x: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, success: torch.Tensor) -> None:
        if self._around[0] is not rows:  # searches keep the tensor while the same samples stay
            self._around = (rows, self.problem.region.select(rows))
        distance = self._around[1].distance(x)
        better = success & (distance < self.norm[rows])
        self.norm = self.norm.index_copy(0, rows, torch.where(better, distance, self.norm[rows]))
        self._put(x, rows, value, success, better)

    def outcome(self) -> Outcome:
        outcome = super().outcome()
        outcome.minimum, outcome.minimum_norm = self.pixels, self.norm
        region = self.problem.region
        within = self.norm <= region.epsilon.flatten() * (1 + 1e-9)
        outcome.pixels = torch.where(column(within, self.pixels), self.pixels, region.project(self.pixels))
        return outcome


def column(flags: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Per-sample values shaped to go with pixels."""
    return flags.view(-1, *[1] * (like.dim() - 1))


def may_hold(flags: torch.Tensor) -> bool:
    """False only where no flag is set, as far as that can be known without waiting for a device."""
    return flags.device.type != "cpu" or bool(flags.any())


def _mean(evaluations: Sequence[Evaluation]) -> Evaluation:
    value = torch.stack([e.value for e in evaluations]).mean(dim=0)
    first = evaluations[0]
    consistency = first.consistency
    if consistency is not None:
        consistency = torch.stack([e.consistency for e in evaluations]).mean(dim=0)
    success = first.success
    if success is not None:
        success = torch.stack([e.success for e in evaluations]).double().mean(dim=0) > 0.5
    return Evaluation(value, consistency, success)
