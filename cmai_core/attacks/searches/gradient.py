"""Projected gradient ascent: one search whose settings are FGSM, PGD, R+FGSM, MI-FGSM, DI-FGSM, EOT, universal, patch.

Sources: FGSM, Goodfellow et al. 2015, eq. 1; PGD, Madry et al. 2018, §2.1; R+FGSM, Tramèr et al. 2018, §4; momentum
(MI-FGSM), Dong et al. 2018, eq. 6 and 7; input diversity, Xie et al. 2019, §3.3; EOT, Athalye et al. 2018, §3;
universal perturbation by batch gradients, Shafahi et al. 2020, alg. 1; adversarial patch, Brown et al. 2017, §2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.evaluator import Evaluation, Evaluator
from cmai_core.attacks.engine.transforms import InputTransform
from cmai_core.attacks.threats.image import LinfRegion, Region
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

KEEP = ("best", "last")
STARTS = ("uniform", "sign")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Problem:
    """What a search works on: the allowed region, sample ids, the evaluator, and the clean images' scores."""

    region: Region
    ids: Sequence[str]
    evaluator: Evaluator
    clean: Evaluation

    def select(self, rows: torch.Tensor) -> Problem:
        """The same for some of the samples (int64 indices)."""
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
        steps_done: steps taken over all restarts; cancelled: whether it ended early because it was told to.
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


@strict_options
@dataclass(frozen=True, kw_only=True)
class GradientSearch:
    """Projected gradient ascent on each sample's objective.

    Attributes:
        steps: gradient steps of one restart.
        step_size: length of a step in pixel units of [0, 1]; None: step_scale·ε/steps (for l0 and patch threats, where
            ε is not a length, step_scale/steps).
        step_scale: 2.5 (Madry et al. 2018).
        random_start: start at a random point of the allowed region instead of at the clean image. The point depends on
            (seed, sample id, restart) alone.
        start: "uniform": any point of the region; "sign": a corner of the linf ball (R+FGSM).
        start_scale: how far out, as a share of the way from the clean image to that point.
        restarts: how many starts; needs random_start when more than one. The best over restarts is kept, and a success
            is never given up for a later one.
        momentum: μ in [0, 1] (MI-FGSM); 0: none.
        keep: "best": the best iterate, the start and the last one included (success first, then the objective; the
            clean image where nothing was better); "last": the last iterate, as other libraries return it.
        stop_on_success: a sample that meets the criterion is left as it is, and the batch shrinks to the others. Costs
            one synchronisation with the device a step. Samples that meet it when clean are not attacked at all.
        micro_batch: images in one pass (None: the whole batch); halved whenever the device runs out of memory.
        transform: a random transformation through which gradients are taken (`transforms`), drawn anew for each of
            them. Traces and success are of the untransformed image, at the cost of one more forward pass a step.
        eot: gradients averaged in a step, over the transformation's randomness and the model's own (scores are averaged
            too; a sample then succeeds where most of the passes say so).
        universal: one perturbation for all samples, raised by the sum of their gradients: of linf and l2 threats δ, of
            a patch threat the patch's content. It depends on the whole batch; the best is chosen for the whole batch.
        precision: "float32", or "bfloat16" for gradients in half precision (faster where the device multiplies it
            natively; traces are then of that precision). What is reported at the end is scored in single precision.
            Passes that confirm a success are not counted.

    Raises:
        OptionError: a value outside its range, or values that contradict each other.
    """

    steps: int = 10
    step_size: float | None = None
    step_scale: float = 2.5
    random_start: bool = True
    start: str = "uniform"
    start_scale: float = 1.0
    restarts: int = 1
    momentum: float = 0.0
    keep: str = "best"
    stop_on_success: bool = False
    micro_batch: int | None = None
    transform: InputTransform | None = None
    eot: int = 1
    universal: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("eot", self.eot, 1)
        number("step_scale", self.step_scale, 0.0, above_low=True)
        number("start_scale", self.start_scale, 0.0, 1.0)
        one_of("start", self.start, STARTS)
        flag("universal", self.universal)
        one_of("precision", self.precision, PRECISIONS)
        if self.transform is not None and not isinstance(self.transform, InputTransform):
            raise OptionError(f"transform={self.transform!r} is not accepted.", "Accepted: an InputTransform, None.")
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
        if self.universal and self.stop_on_success:
            raise OptionError(
                "universal=True contradicts stop_on_success=True: one perturbation serves every sample.",
                "Accepted with it: stop_on_success=False.",
            )

    def describe(self) -> dict:
        """Plain values for reports (micro_batch is left out: it does not change the result)."""
        names = ("steps", "step_size", "random_start", "restarts", "momentum", "keep", "stop_on_success")
        plain = {"search": "gradient"} | {name: getattr(self, name) for name in names}
        usual = {"step_scale": 2.5, "start": "uniform", "start_scale": 1.0, "eot": 1, "universal": False}
        usual |= {"precision": "float32"}
        plain |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return plain if self.transform is None else plain | self.transform.describe()

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
        outcome = self.outcome
        if climb.search.universal:
            replace = _better_for_all(climb.best_success, self.success, climb.best_value, self.value)
            if climb.restart == 0 and climb.search.keep == "last":
                replace = torch.ones_like(replace)
            if bool(replace.all()):
                outcome.universal = climb.best_shared
        else:
            higher = (climb.best_value > self.value) | (self.value.isnan() & ~climb.best_value.isnan())
            same = climb.best_success == self.success
            replace = (climb.best_success & ~self.success) | (same & higher & (~self.success | self.from_clean))
        outcome.pixels = torch.where(_column(replace, climb.best_pixels), climb.best_pixels, outcome.pixels)
        self.value = torch.where(replace, climb.best_value, self.value)
        self.success = torch.where(replace, climb.best_success, self.success)
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
        self.ask = criterion is not None and (criterion.stepwise or search.stop_on_success or search.universal)
        self.shared: torch.Tensor | None = None
        self.best_shared: torch.Tensor | None = None
        self.generators: list[torch.Generator] = []

    def _start(self, seed: int) -> torch.Tensor:
        """The first iterate."""
        search, region, ids = self.search, self.region, self.problem.ids
        centre = region.centre
        if search.transform is not None:
            self.generators = sample_generators(seed, [f"{i}/transform" for i in ids], self.restart)
        if search.universal:
            self.shared = torch.zeros_like(centre[:1])
            if search.random_start:
                (generator,) = sample_generators(seed, ["/universal"], self.restart)
                uniform = torch.rand(centre.shape[1:], generator=generator, dtype=centre.dtype).to(centre.device)
                reach = search.start_scale * region.reach[:1]
                self.shared = self._first.shrink(reach * (2 * uniform - 1).unsqueeze(0))
            self.best_shared = region.content(self.shared)[0]
            return region.compose(self.shared)
        if not search.random_start:
            return centre
        generators = sample_generators(seed, ids, self.restart)
        if search.start == "sign":
            draws = [torch.randn(centre.shape[1:], generator=g, dtype=centre.dtype).sign() for g in generators]
            point = centre + region.epsilon * torch.stack(draws).to(centre.device)
        else:
            point = region.random(generators)
            if search.start_scale == 1:
                return point
        return region.project(centre + search.start_scale * (point - centre))

    @functools.cached_property
    def _first(self) -> Region:
        """The first sample's region: one ε for all."""
        region = self.problem.region
        return region.select(torch.zeros(1, dtype=torch.int64, device=region.centre.device))

    def run(self, seed: int) -> None:
        search, watch = self.search, self.watch
        self.x = self._start(seed)
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
        evaluator, transform = self.problem.evaluator, self.search.transform
        plain = transform is None
        evaluations: list[Evaluation] = []
        gradient = None
        for _ in range(self.search.eot if climb or plain else 0):
            self._count(self.kept.outcome.forwards, evaluator.forward_cost)
            if not climb:
                evaluations.append(evaluator.score(self.x, self.rows, success=self.ask))
                continue
            self._count(self.kept.outcome.backwards, evaluator.backward_cost)
            asked = {"success": self.ask and plain, "precision": self.search.precision}
            evaluation, slope = evaluator.climb(self.x, self.rows, through=self._through(), **asked)
            gradient = slope if gradient is None else gradient + slope
            evaluations.append(evaluation)
        if gradient is not None and self.search.eot > 1:
            gradient = gradient / self.search.eot
        if not plain:
            self._count(self.kept.outcome.forwards, evaluator.forward_cost)
            evaluations = [evaluator.score(self.x, self.rows, success=self.ask)]
        return _mean_evaluation(evaluations), gradient

    def _through(self) -> Callable[[torch.Tensor, slice], torch.Tensor] | None:
        """One draw of the transformation for every sample still climbing."""
        transform = self.search.transform
        if transform is None:
            return None
        rows = range(len(self.generators)) if self.rows is None else self.rows.tolist()
        drawn = transform.draw([self.generators[row] for row in rows], self.x)
        return lambda x, span: transform.apply(x, drawn[span])

    def _count(self, counter: torch.Tensor, cost: int) -> None:
        if self.rows is None:
            counter += cost
        else:
            counter[self.rows] += cost

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
        if self.search.universal:
            better = _better_for_all(success, old_success, evaluation.value, old_value)
            if self.best_shared is None or bool(better.all()):
                self.best_shared = self.region.content(self.shared)[0]
        else:
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
        row = self.objective_trace[step, at]
        finite = gradient.flatten(1).sum(dim=1).isfinite() & row.isfinite()
        bad = self.kept.outcome.bad_step
        bad[at] = torch.where(self.alive & ~finite & (bad[at] < 0), step, bad[at])
        self.alive = self.alive & finite
        # Asking costs nothing on a CPU, and spares two passes over the pixels; elsewhere it would wait for the device.
        everyone = self.x.device.type == "cpu" and bool(self.alive.all())
        if not everyone:
            alive = _column(self.alive, self.x)
            gradient = torch.where(alive, gradient, 0.0)
        if search.universal:
            gradient = gradient.sum(dim=0, keepdim=True)
        if search.momentum:
            flat = gradient.flatten(1)
            scale = flat.abs().mean(dim=1) if isinstance(region, LinfRegion) else flat.norm(dim=1)
            scale = scale.nan_to_num(nan=1.0, posinf=1.0).clamp(min=torch.finfo(scale.dtype).tiny)
            unit = gradient / _column(scale, gradient)
            self.velocity = unit if self.velocity is None else search.momentum * self.velocity + unit
            gradient = self.velocity
        length = search.step_scale * region.reach / search.steps if search.step_size is None else search.step_size
        if search.universal:
            length = length if search.step_size is not None else length[:1]
            self.shared = self._first.shrink(self.shared + length * self._first.direction(gradient))
            self.x = region.compose(self.shared)
            return
        moved = region.project(self.x + length * region.direction(gradient))
        self.x = moved if everyone else torch.where(alive, moved, self.x)

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
        self.best_shared = None if self.shared is None else self.region.content(self.shared)[0]
        self.best_value = torch.full_like(self.best_value, torch.inf)
        self.best_success = torch.ones_like(self.best_success)

    def _judge(self, finished: bool) -> None:
        """A criterion too dear for every step: asked of the best iterate, and of the last one where the best fails."""
        evaluator, counter = self.problem.evaluator, self.kept.outcome.forwards
        counter += evaluator.forward_cost
        best = evaluator.score(self.best_pixels)
        self.best_success = best.success
        if finished:
            counter += evaluator.forward_cost
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


def _better_for_all(
    success: torch.Tensor, old_success: torch.Tensor, value: torch.Tensor, old_value: torch.Tensor
) -> torch.Tensor:
    """For one perturbation of all: more samples succeed, or as many with a higher mean. All True or all False."""
    gained = success.sum() - old_success.sum()
    higher = value.nan_to_num(nan=-torch.inf).mean() > old_value.nan_to_num(nan=-torch.inf).mean()
    return ((gained > 0) | ((gained == 0) & higher)).expand(len(success))


def _mean_evaluation(evaluations: list[Evaluation]) -> Evaluation:
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


def _column(flags: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return flags.view(-1, *[1] * (like.dim() - 1))
