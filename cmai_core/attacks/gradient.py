"""Projected gradient ascent: one search whose settings are FGSM, PGD, R+FGSM and momentum PGD.

Sources: FGSM, Goodfellow et al. 2015, eq. 1; PGD, Madry et al. 2018, §2.1; R+FGSM, Tramèr et al. 2018, §4; momentum
(MI-FGSM), Dong et al. 2018, eq. 6 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cmai_core.attacks.evaluator import Evaluation, Evaluator
from cmai_core.attacks.options import flag, number, one_of, strict_options, whole
from cmai_core.attacks.seeds import sample_generators
from cmai_core.attacks.threat import LinfRegion, Region
from cmai_core.attacks.watch import Watch
from cmai_core.errors import OptionError

KEEP = ("best", "last")


@dataclass(frozen=True)
class Problem:
    """What a search works on: the allowed region, sample ids, the evaluator, and the clean images' scores."""

    region: Region
    ids: Sequence[str]
    evaluator: Evaluator
    clean: Evaluation


@dataclass
class Outcome:
    """What a search found. Tensors on the device; N samples, S steps.

    Attributes:
        pixels: N×3×H×W.
        objective_trace, consistency_trace: (S+1)×N; row k is the iterate after k steps of the restart that was kept,
            NaN where none was scored. The second is None without texts.
        forwards, backwards: passes spent by the search on each sample.
        bad_step: int64 N; the step at which a gradient was not finite, −1 where all were.
        steps_done: steps taken over all restarts; cancelled: whether it ended early because it was told to.
        last_unscored: `pixels` are the last iterate and were not scored: the last row of the traces is still NaN.
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


@strict_options
@dataclass(frozen=True, kw_only=True)
class GradientSearch:
    """Projected gradient ascent on each sample's objective.

    Attributes:
        steps: gradient steps of one restart.
        step_size: length of a step in pixel units of [0, 1]; None: 2.5·ε/steps (Madry et al. 2018).
        random_start: start at a random point of the allowed region instead of at the clean image. The point depends on
            (seed, sample id, restart) alone.
        restarts: how many starts; needs random_start when more than one. The best over restarts is kept, and a success
            is never given up for a later one.
        momentum: μ in [0, 1] (MI-FGSM); 0: none.
        keep: "best": the best iterate, the start and the last one included (success first, then the objective; the
            clean image where nothing was better); "last": the last iterate, as other libraries return it.
        stop_on_success: a sample that meets the criterion is left as it is, and the batch shrinks to the others. Costs
            one synchronisation with the device a step. Samples that meet it when clean are not attacked at all.
        micro_batch: images in one pass (None: the whole batch); halved whenever the device runs out of memory.

    Raises:
        OptionError: a value outside its range, or values that contradict each other.
    """

    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0
    keep: str = "best"
    stop_on_success: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, above_low=True)
        number("momentum", self.momentum, 0.0, 1.0)
        one_of("keep", self.keep, KEEP)
        flag("random_start", self.random_start)
        flag("stop_on_success", self.stop_on_success)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)
        if self.restarts > 1 and not self.random_start:
            raise OptionError(
                f"restarts={self.restarts} without random_start would repeat one and the same run.",
                "Accepted: restarts=1, or random_start=True.",
            )
        if self.keep == "last" and (self.restarts > 1 or self.stop_on_success):
            other = "stop_on_success=True" if self.stop_on_success else f"restarts={self.restarts}"
            raise OptionError(f"keep='last' contradicts {other}.", "Accepted with it: keep='best'.")

    def describe(self) -> dict:
        """Plain values for reports (micro_batch is left out: it does not change the result)."""
        names = ("steps", "step_size", "random_start", "restarts", "momentum", "keep", "stop_on_success")
        return {"search": "gradient"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attacks all samples of the problem. The model is expected at rest (`evaluator.at_rest`)."""
        kept = _Kept(problem, self)
        for restart in range(self.restarts):
            _Climb(self, problem, kept, restart, watch).run(seed)
            if kept.outcome.cancelled:
                break
        return kept.outcome


class _Kept:
    """The best over restarts so far, beginning with the clean images."""

    def __init__(self, problem: Problem, search: GradientSearch):
        centre = problem.region.centre
        count, device = len(centre), centre.device
        self.value = problem.clean.value
        self.success = problem.clean.success
        if self.success is None:
            self.success = torch.zeros(count, dtype=torch.bool, device=device)
        zeros = torch.zeros(count, dtype=torch.int64, device=device)
        trace = torch.full((search.steps + 1, count), torch.nan, dtype=self.value.dtype, device=device)
        self.from_clean = torch.ones(count, dtype=torch.bool, device=device)
        self.outcome = Outcome(
            pixels=centre,
            objective_trace=trace,
            consistency_trace=None if problem.clean.consistency is None else trace.clone(),
            forwards=zeros,
            backwards=zeros.clone(),
            bad_step=zeros - 1,
            steps_done=0,
            cancelled=False,
        )

    def merge(self, climb: _Climb) -> None:
        """Takes over what a restart found where it is better: a new success, or more objective while there is none."""
        higher = (climb.best_value > self.value) | (self.value.isnan() & ~climb.best_value.isnan())
        same = climb.best_success == self.success
        replace = (climb.best_success & ~self.success) | (same & higher & (~self.success | self.from_clean))
        outcome = self.outcome
        outcome.pixels = torch.where(_column(replace, climb.best_pixels), climb.best_pixels, outcome.pixels)
        self.value = torch.where(replace, climb.best_value, self.value)
        self.success = self.success | climb.best_success
        show = replace if climb.restart else torch.ones_like(replace)
        self.from_clean = self.from_clean & ~replace
        outcome.objective_trace = torch.where(show, climb.objective_trace, outcome.objective_trace)
        if climb.consistency_trace is not None:
            outcome.consistency_trace = torch.where(show, climb.consistency_trace, outcome.consistency_trace)


class _Climb:
    """One restart. `rows` are the samples still climbing (None: all); x, region and velocity hold these only."""

    def __init__(self, search: GradientSearch, problem: Problem, kept: _Kept, restart: int, watch: Watch):
        self.search, self.problem, self.kept, self.restart, self.watch = search, problem, kept, restart, watch
        centre = problem.region.centre
        count, device, dtype = len(centre), centre.device, problem.clean.value.dtype
        self.region = problem.region
        self.rows: torch.Tensor | None = None
        self.best_pixels = centre
        self.best_value = torch.full((count,), -torch.inf, dtype=dtype, device=device)
        self.best_success = torch.zeros(count, dtype=torch.bool, device=device)
        self.objective_trace = torch.full((search.steps + 1, count), torch.nan, dtype=dtype, device=device)
        self.consistency_trace = None if problem.clean.consistency is None else self.objective_trace.clone()
        self.alive = torch.ones(count, dtype=torch.bool, device=device)
        self.velocity: torch.Tensor | None = None
        criterion = problem.evaluator.criterion
        self.ask = criterion is not None and (criterion.stepwise or search.stop_on_success)

    def run(self, seed: int) -> None:
        search, watch = self.search, self.watch
        if search.random_start:
            self.x = self.problem.region.random(sample_generators(seed, self.problem.ids, self.restart))
        else:
            self.x = self.problem.region.centre
        if search.stop_on_success:
            self._drop(self.kept.success)
        finished = False
        for step in range(search.steps + 1):
            if len(self.x) == 0:  # every sample has succeeded
                break
            if watch.cancelled:
                self.kept.outcome.cancelled = True
                break
            finished = step == search.steps
            if finished and search.keep == "last":
                self.kept.outcome.last_unscored = True
                break
            evaluation, gradient = self._pass(step, climb=not finished)
            self._record(step, evaluation)
            self._report(step)
            if search.stop_on_success:
                gradient = self._drop(evaluation.success, gradient)
            if not finished and len(self.x):
                self._advance(step, gradient)
                self.kept.outcome.steps_done = self.restart * search.steps + step + 1
            watch.pace(self.x.device)
        if search.keep == "last":
            self._take_last()
        elif self.problem.evaluator.criterion is not None and not self.ask:
            self._judge(finished)
        self.kept.merge(self)

    def _pass(self, step: int, climb: bool) -> tuple[Evaluation, torch.Tensor | None]:
        evaluator = self.problem.evaluator
        self._count(self.kept.outcome.forwards)
        if not climb:
            return evaluator.score(self.x, self.rows, success=self.ask), None
        self._count(self.kept.outcome.backwards)
        return evaluator.climb(self.x, self.rows, success=self.ask)

    def _count(self, counter: torch.Tensor) -> None:
        if self.rows is None:
            counter += 1
        else:
            counter[self.rows] += 1

    def _record(self, step: int, evaluation: Evaluation) -> None:
        """Writes the traces and keeps the iterate where it is the best so far: success first, then the objective."""
        at = slice(None) if self.rows is None else self.rows
        self.objective_trace[step, at] = evaluation.value
        if self.consistency_trace is not None:
            self.consistency_trace[step, at] = evaluation.consistency
        if self.search.keep == "last":
            return
        old_value, old_success = self.best_value[at], self.best_success[at]
        success = torch.zeros_like(old_success) if evaluation.success is None else evaluation.success
        better = (success & ~old_success) | ((success == old_success) & (evaluation.value > old_value))
        pixels = torch.where(_column(better, self.x), self.x, self.best_pixels[at])
        value = torch.where(better, evaluation.value, old_value)
        success = torch.where(better, success, old_success)
        if self.rows is None:
            self.best_pixels, self.best_value, self.best_success = pixels, value, success
        else:
            # New tensors, since the old ones may have been sent to a listener.
            self.best_pixels = self.best_pixels.index_copy(0, at, pixels)
            self.best_value = self.best_value.index_copy(0, at, value)
            self.best_success = self.best_success.index_copy(0, at, success)

    def _advance(self, step: int, gradient: torch.Tensor) -> None:
        search, region = self.search, self.region
        at = slice(None) if self.rows is None else self.rows
        size = gradient.flatten(1).abs().sum(dim=1)
        row = self.objective_trace[step, at]
        finite = size.isfinite() & row.isfinite()
        bad = self.kept.outcome.bad_step
        bad[at] = torch.where(self.alive & ~finite & (bad[at] < 0), step, bad[at])
        self.alive = self.alive & finite
        alive = _column(self.alive, self.x)
        gradient = torch.where(alive, gradient, 0.0)
        if search.momentum:
            scale = size / gradient[0].numel() if isinstance(region, LinfRegion) else gradient.flatten(1).norm(dim=1)
            scale = torch.where(self.alive, scale, 1.0).clamp(min=torch.finfo(scale.dtype).tiny)
            unit = gradient / _column(scale, gradient)
            self.velocity = unit if self.velocity is None else search.momentum * self.velocity + unit
            gradient = self.velocity
        length = 2.5 * region.epsilon / search.steps if search.step_size is None else search.step_size
        moved = region.project(self.x + length * region.direction(gradient))
        self.x = torch.where(alive, moved, self.x)

    def _drop(self, success: torch.Tensor, gradient: torch.Tensor | None = None) -> torch.Tensor | None:
        """Leaves out the samples that have succeeded; returns the others' gradient."""
        keep = (~success).nonzero().squeeze(1)
        if len(keep) == len(success):
            return gradient
        self.rows = keep if self.rows is None else self.rows[keep]
        self.x, self.region, self.alive = self.x[keep], self.region.select(keep), self.alive[keep]
        self.velocity = None if self.velocity is None else self.velocity[keep]
        return None if gradient is None else gradient[keep]

    def _take_last(self) -> None:
        """keep="last": the last iterate stands, whatever it scored (also where the search was cancelled)."""
        self.best_pixels = self.x
        self.best_value = torch.full_like(self.best_value, torch.inf)
        self.best_success = torch.ones_like(self.best_success)

    def _judge(self, finished: bool) -> None:
        """A criterion too dear for every step: asked of the best iterate, and of the last one where the best fails."""
        evaluator, counter = self.problem.evaluator, self.kept.outcome.forwards
        counter += 1
        best = evaluator.score(self.best_pixels)
        self.best_success = best.success
        if finished:
            counter += 1
            last = evaluator.score(self.x)
            replace = last.success & ~best.success
            self.best_pixels = torch.where(_column(replace, self.x), self.x, self.best_pixels)
            self.best_value = torch.where(replace, last.value, self.best_value)
            self.best_success = best.success | last.success

    def _report(self, step: int) -> None:
        search = self.search
        end = step == search.steps and self.restart == search.restarts - 1

        def data() -> dict:
            pixels = self.x if self.rows is None else self.best_pixels.index_copy(0, self.rows, self.x)
            consistency = None if self.consistency_trace is None else self.consistency_trace[: step + 1]
            return {
                "step": step,
                "restart": self.restart,
                "objective": self.objective_trace[: step + 1],
                "consistency": consistency,
                "pixels": pixels,
            }

        stage = f"restart {self.restart + 1} of {search.restarts}" if search.restarts > 1 else "attacking"
        done, total = self.restart * search.steps + step, search.restarts * search.steps
        self.watch.report(done, total, stage, data, force=end or (step == 0 and self.restart == 0))


def _column(flags: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return flags.view(-1, *[1] * (like.dim() - 1))
