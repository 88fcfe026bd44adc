"""The record of a search: the best found, the passes spent, traces, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cmai_core.attacks.engine.best import BestTracker, NearestTracker
from cmai_core.attacks.engine.evaluator import Evaluation
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.reporting import Watch

Through = Callable[[torch.Tensor, slice], torch.Tensor]


class SearchRecord:
    """What a search has found and spent so far.

    Every score goes through here: it is counted for its sample, entered in the traces and offered to `best`. `rows` are
    sample indices in ascending order, each once.

    Args:
        steps: steps of one restart; the traces have one more row.
        best: begins with the clean images where None is given.
    """

    def __init__(self, problem: Problem, watch: Watch, steps: int, best: BestTracker | None = None):
        self.problem, self.watch, self.steps = problem, watch, steps
        centre, value = problem.region.centre, problem.clean.value
        self.count, device = len(centre), centre.device
        self.best = BestTracker(centre.clone(), value, clean_success(problem)) if best is None else best
        self.forwards = torch.zeros(self.count, dtype=torch.int64, device=device)
        self.backwards = self.forwards.clone()
        self.bad_step = self.forwards - 1
        self.objective_trace = torch.full((steps + 1, self.count), torch.nan, dtype=value.dtype, device=device)
        self.consistency_trace = None if problem.clean.consistency is None else self.objective_trace.clone()
        self.steps_done = 0
        self.cancelled = False

    @staticmethod
    def of_nearest(problem: Problem, watch: Watch, steps: int) -> SearchRecord:
        """Return the record of a minimum-norm search."""
        best = NearestTracker(problem.region, problem.clean.value, clean_success(problem))
        return SearchRecord(problem, watch, steps, best)

    def restart(self, best: BestTracker) -> SearchRecord:
        """Return a record with a best and traces of its own, whose passes count here too."""
        part = SearchRecord(self.problem, self.watch, self.steps, best)
        part.forwards, part.backwards, part.bad_step = self.forwards, self.backwards, self.bad_step
        return part

    def begin(self) -> None:
        """Enter the clean images as row 0 of the traces."""
        self.objective_trace[0] = self.problem.clean.value
        if self.consistency_trace is not None:
            self.consistency_trace[0] = self.problem.clean.consistency

    def rows(self, flags: torch.Tensor | None = None) -> torch.Tensor:
        """Return the indices of the samples with a flag (of all, when None)."""
        if flags is None:
            return torch.arange(self.count, device=self.forwards.device)
        return flags.nonzero().squeeze(1)

    def unfooled(self) -> torch.Tensor:
        """Return the indices of the samples that have not succeeded and whose gradient has been finite."""
        return self.rows(~self.best.success & (self.bad_step < 0))

    def stop(self) -> bool:
        """Ask whether to stop because somebody cancelled; remember the answer."""
        self.cancelled = self.cancelled or self.watch.cancelled
        return self.cancelled

    def score(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        step: int | None = None,
        *,
        passes: int = 1,
        offer: bool = True,
        success: bool = True,
    ) -> Evaluation:
        """Score one image for each of the rows, averaged over `passes` (one query each).

        Args:
            step: the row of the traces. offer: whether it may become the best. success: whether the criterion is asked.
        """
        evaluator, seen = self.problem.evaluator, []
        for _ in range(passes):
            self._count(self.forwards, rows, evaluator.forward_cost)
            seen.append(evaluator.score(x, self._view(rows), success=success))
        return self._note(x, rows, mean_evaluation(seen), step, offer)

    def value_and_grad(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        step: int | torch.Tensor | None = None,
        *,
        passes: int = 1,
        offer: bool = True,
        success: bool = True,
        precision: str = "float32",
        draw: Callable[[], Through] | None = None,
    ) -> tuple[Evaluation, torch.Tensor]:
        """Score, and take gradients in the pixels, averaged over `passes` (for randomness of model or transformation).

        Args:
            step: the row of the traces, or one for each of the rows. offer, success: as in `score`.
            precision: as in `Evaluator.value_and_grad`.
            draw: makes the transformation through which each pass sees the images.
        """
        evaluator, seen, total = self.problem.evaluator, [], None
        for _ in range(passes):
            self._count(self.forwards, rows, evaluator.forward_cost)
            self._count(self.backwards, rows, evaluator.backward_cost)
            through = None if draw is None else draw()
            asked = {"success": success, "through": through, "precision": precision}
            evaluation, gradient = evaluator.value_and_grad(x, self._view(rows), **asked)
            seen.append(evaluation)
            total = gradient if total is None else total + gradient
        return self._note(x, rows, mean_evaluation(seen), step, offer), total / passes if passes > 1 else total

    def class_gradients(
        self, x: torch.Tensor, rows: torch.Tensor, count: int | None, step: int | None = None
    ) -> tuple[Evaluation, torch.Tensor, torch.Tensor]:
        """Score, and take margins with their gradients (`Evaluator.class_gradients`): one backward pass a margin."""
        evaluator = self.problem.evaluator
        self._count(self.forwards, rows, evaluator.forward_cost)
        evaluation, margins, gradients = evaluator.class_gradients(x, self._view(rows), count)
        self._count(self.backwards, rows, evaluator.backward_cost * margins.shape[1])
        return self._note(x, rows, evaluation, step, True), margins, gradients

    def score_many(
        self, candidates: torch.Tensor, rows: torch.Tensor, step: int | None = None, offer: bool = True
    ) -> Evaluation:
        """Score P candidates for each of n rows (n×P×3×H×W) in one call: n×P results, P queries for each row."""
        n, many = candidates.shape[:2]
        self._count(self.forwards, rows, many * self.problem.evaluator.forward_cost)
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

    def finite(self, gradient: torch.Tensor, rows: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """Flag the rows whose gradient is finite; the first step at which one was not is remembered."""
        good = gradient.flatten(1).sum(dim=1).isfinite()  # infinities of both signs add up to NaN
        return self.good(good, rows, step)

    def good(self, flags: torch.Tensor, rows: torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """Return the flags (bool, one a row); the first step at which a sample's was not set is remembered."""
        bad = self.bad_step[rows]
        self.bad_step[rows] = torch.where(~flags & (bad < 0), step, bad)
        return flags

    def report(
        self,
        step: int,
        *,
        restart: int = 0,
        restarts: int = 1,
        stage: str = "attacking",
        pixels: torch.Tensor | None = None,
    ) -> None:
        """Send progress after `step` steps of a restart.

        Args:
            pixels: what is shown, N×3×H×W; None: the best so far.
        """
        done, total = restart * self.steps + step, restarts * self.steps

        def data() -> dict:
            consistency = None if self.consistency_trace is None else self.consistency_trace[: step + 1].clone()
            return {
                "step": step,
                "restart": restart,
                "objective": self.objective_trace[: step + 1].clone(),
                "consistency": consistency,
                "pixels": self.best.examples if pixels is None else pixels,
            }

        self.watch.report(done, total, stage, data, force=done in (0, total))
        self.watch.pace(self.forwards.device)

    def take_traces(self, other: SearchRecord, chosen: torch.Tensor) -> None:
        """Take over the traces of the chosen samples (bool N) from another record."""
        self.objective_trace = torch.where(chosen, other.objective_trace, self.objective_trace)
        if self.consistency_trace is not None:
            self.consistency_trace = torch.where(chosen, other.consistency_trace, self.consistency_trace)

    def outcome(self) -> Outcome:
        """Return what the search hands back."""
        return Outcome(
            objective_trace=self.objective_trace,
            consistency_trace=self.consistency_trace,
            forwards=self.forwards,
            backwards=self.backwards,
            bad_step=self.bad_step,
            steps_done=self.steps_done,
            cancelled=self.cancelled,
            **self.best.found(),
        )

    def _view(self, rows: torch.Tensor) -> torch.Tensor | None:
        return None if len(rows) == self.count else rows

    def _count(self, counter: torch.Tensor, rows: torch.Tensor, cost: int) -> None:
        counter[rows] += cost

    def _note(
        self, x: torch.Tensor, rows: torch.Tensor, seen: Evaluation, step: int | torch.Tensor | None, offer: bool
    ) -> Evaluation:
        """Enter scores in the traces and offer the images; where success was not asked, none has succeeded."""
        success = torch.zeros_like(seen.value, dtype=torch.bool) if seen.success is None else seen.success
        if step is not None:
            self.objective_trace[step, rows] = seen.value
            if self.consistency_trace is not None:
                self.consistency_trace[step, rows] = seen.consistency
        if offer:
            self.best.offer(x, seen.value, success, self._view(rows))
        return Evaluation(seen.value, seen.consistency, success)


def clean_success(problem: Problem) -> torch.Tensor:
    """Return which clean images succeed already (bool N)."""
    success = problem.clean.success
    return torch.zeros_like(problem.clean.value, dtype=torch.bool) if success is None else success


def may_hold(flags: torch.Tensor) -> bool:
    """Return False only where no flag is set, as far as that can be known without waiting for a device."""
    return flags.device.type != "cpu" or bool(flags.any())


def mean_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Average scores of several passes; a sample succeeds where most of the passes say so."""
    if len(evaluations) == 1:
        return evaluations[0]

    def stacked(name: str) -> torch.Tensor | None:
        values = [getattr(evaluation, name) for evaluation in evaluations]
        return None if values[0] is None else torch.stack(values)

    consistency, success = stacked("consistency"), stacked("success")
    return Evaluation(
        stacked("value").mean(dim=0),
        None if consistency is None else consistency.mean(dim=0),
        None if success is None else success.double().mean(dim=0) > 0.5,
    )
