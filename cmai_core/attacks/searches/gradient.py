"""Projected gradient ascent: one search whose settings are FGSM, PGD, R+FGSM, MI-FGSM, DI-FGSM, EOT, universal, patch.

Sources: FGSM, Goodfellow et al. 2015, eq. 1; PGD, Madry et al. 2018, §2.1; R+FGSM, Tramèr et al. 2018, §4; momentum
(MI-FGSM), Dong et al. 2018, eq. 6 and 7; input diversity, Xie et al. 2019, §3.3; EOT, Athalye et al. 2018, §3;
universal perturbation by batch gradients, Shafahi et al. 2020, alg. 1; adversarial patch, Brown et al. 2017, §2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import BestTracker, SharedTracker, column
from cmai_core.attacks.engine.evaluator import Evaluation
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord, Through, clean_success
from cmai_core.attacks.engine.transforms import InputTransform
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

KEEP = ("best", "last")
STARTS = ("uniform", "sign")
PRECISIONS = ("float32", "bfloat16")


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
        """Return plain values for reports (micro_batch is left out: it does not change the result)."""
        names = ("steps", "step_size", "random_start", "restarts", "momentum", "keep", "stop_on_success")
        plain = {"search": "gradient"} | {name: getattr(self, name) for name in names}
        usual = {"step_scale": 2.5, "start": "uniform", "start_scale": 1.0, "eot": 1, "universal": False}
        usual |= {"precision": "float32"}
        plain |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return plain if self.transform is None else plain | self.transform.describe()

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem. The model is expected in evaluation mode."""
        tracker = SharedTracker if self.universal else BestTracker
        kind = _SharedRestart if self.universal else _Restart
        best = tracker(problem.region.centre.clone(), problem.clean.value, clean_success(problem))
        record = SearchRecord(problem, watch, self.steps, best)
        settled = torch.zeros_like(best.success)  # successes of a restart: none is given up for a later one
        universal = last_unscored = None
        for index in range(self.restarts):
            restart = kind(self, problem, record, index, seed)
            restart.run()
            found = restart.record.best
            taken = best.improves(found.value, found.success) & ~settled
            if self.keep == "last":
                taken, last_unscored = torch.ones_like(taken), restart.finished
            if self.universal and bool(taken.all()):
                universal = restart.best_content
            best.put(found.examples, found.value, found.success, taken)
            if not self.universal:
                settled = best.success & (taken | settled)
            record.take_traces(restart.record, torch.ones_like(taken) if index == 0 else taken)
            if record.cancelled:
                break
        outcome = record.outcome()
        outcome.universal, outcome.last_unscored = universal, bool(last_unscored)
        return outcome


class _Restart:
    """One ascent from one start.

    Attributes:
        rows: the samples that are still moved; `point`, `region`, `velocity` and `moving` hold these only.
        point: where they are: images N×3×H×W. moving: whose gradients have been finite.
        record: best and traces of this restart. finished: whether it took its last step.
    """

    def __init__(self, search: GradientSearch, problem: Problem, whole: SearchRecord, index: int, seed: int):
        self.search, self.problem, self.whole, self.index, self.seed = search, problem, whole, index, seed
        self.region, self.rows = problem.region, whole.rows()
        self.record = whole.restart(self._nothing())
        self.moving = torch.ones(whole.count, dtype=torch.bool, device=self.rows.device)
        self.velocity: torch.Tensor | None = None
        self.finished = False
        criterion = problem.evaluator.criterion
        self.ask = criterion is not None and (criterion.stepwise or search.stop_on_success or search.universal)
        if search.transform is not None:
            self.generators = sample_generators(seed, [f"{i}/transform" for i in problem.ids], index)
        self.point = self.start()

    def run(self) -> None:
        """Ascend: gradient, momentum, step, projection."""
        search = self.search
        if search.stop_on_success:
            self.drop(self.whole.best.success)
        for step in range(search.steps + 1):
            x = self.images()
            if self.ended(step):
                break
            evaluation, gradient = self.value_and_grad(x, step)
            self.report(x, step)
            if search.stop_on_success:
                gradient = self.drop(evaluation.success, gradient)
            if gradient is not None and len(self.rows):
                gradient = self.normalize(self.finite(gradient, step))
                self.point = self.project(self.point + self.step_size() * self.direction(gradient))
                self.whole.steps_done = self.index * search.steps + step + 1
        self.conclude(x)

    # The hooks of the loop

    def start(self) -> torch.Tensor:
        """Return the first iterate."""
        search, region = self.search, self.region
        centre = region.centre
        if not search.random_start:
            return centre.clone()
        generators = sample_generators(self.seed, self.problem.ids, self.index)
        if search.start == "sign":
            draws = [torch.randn(centre.shape[1:], generator=g, dtype=centre.dtype).sign() for g in generators]
            point = centre + region.epsilon * torch.stack(draws).to(centre.device)
        else:
            point = region.random_start(generators)
            if search.start_scale == 1:
                return point
        return region.project(centre + search.start_scale * (point - centre))

    def images(self) -> torch.Tensor:
        """Return the iterates as images."""
        return self.point

    def value_and_grad(self, x: torch.Tensor, step: int) -> tuple[Evaluation, torch.Tensor | None]:
        """Score the iterates, keep the best, and take their gradients (None after the last step)."""
        search, record, rows = self.search, self.record, self.rows
        asked = {"success": self.ask, "offer": search.keep == "best"}
        last, plain = step == search.steps, search.transform is None
        if last:
            return record.score(x, rows, step, passes=search.eot if plain else 1, **asked), None
        averaged = {"passes": search.eot, "precision": search.precision}
        if plain:
            return record.value_and_grad(x, rows, step, **asked, **averaged)
        unseen = {"success": False, "offer": False}
        gradient = record.value_and_grad(x, rows, draw=self.transformation, **unseen, **averaged)[1]
        return record.score(x, rows, step, **asked), gradient

    def finite(self, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """Return the gradient, 0 for samples that had one, or a value, that was not finite: these stand still."""
        finite = gradient.flatten(1).sum(dim=1).isfinite() & self.record.objective_trace[step, self.rows].isfinite()
        self.moving = self.moving & self.record.good(finite, self.rows, step)
        return gradient if self.all_move else torch.where(column(self.moving, gradient), gradient, 0.0)

    def normalize(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the direction of ascent: the gradient, or its running sum (MI-FGSM)."""
        if not self.search.momentum:
            return gradient
        scale = self.region.gradient_size(gradient).nan_to_num(nan=1.0, posinf=1.0)
        unit = gradient / column(scale.clamp(min=torch.finfo(scale.dtype).tiny), gradient)
        self.velocity = unit if self.velocity is None else self.search.momentum * self.velocity + unit
        return self.velocity

    def step_size(self) -> float | torch.Tensor:
        """Return the length of a step: a number, or N×1×1×1."""
        search = self.search
        return search.step_scale * self.region.reach / search.steps if search.step_size is None else search.step_size

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the steepest step of unit length."""
        return self.region.steepest_step(gradient, self.point)

    def project(self, point: torch.Tensor) -> torch.Tensor:
        """Bring iterates back into the region; samples that stand still stay where they are."""
        moved = self.region.project(point)
        return moved if self.all_move else torch.where(column(self.moving, moved), moved, self.point)

    # Around it

    @property
    def all_move(self) -> bool:
        """Whether no sample stands still, as far as that can be known without waiting for a device."""
        return self.moving.device.type == "cpu" and bool(self.moving.all())

    def ended(self, step: int) -> bool:
        """Tell whether there is nothing more to do; remembers whether it is because all steps have been taken."""
        if len(self.rows) == 0 or self.whole.stop():
            return True
        self.finished = step == self.search.steps
        return self.finished and self.search.keep == "last"

    def drop(self, success: torch.Tensor, gradient: torch.Tensor | None = None) -> torch.Tensor | None:
        """Leave out the samples that have succeeded; return the gradient of the others."""
        keep = (~success).nonzero().squeeze(1)
        if len(keep) == len(success):
            return gradient
        self.rows, self.point, self.moving = self.rows[keep], self.point[keep], self.moving[keep]
        self.region = self.region.select(keep)
        self.velocity = None if self.velocity is None else self.velocity[keep]
        return None if gradient is None else gradient[keep]

    def transformation(self) -> Through:
        """Draw the transformation of every sample that is still moved."""
        transform = self.search.transform
        drawn = transform.draw([self.generators[row] for row in self.rows.tolist()], self.point)
        return lambda x, span: transform.apply(x, drawn[span])

    def conclude(self, x: torch.Tensor) -> None:
        """Settle the best: the last iterate where that was asked for, whatever it scored."""
        best, everyone = self.record.best, torch.ones_like(self.record.best.success)
        if self.search.keep == "last":
            best.put(x, best.value, best.success, everyone)
        elif self.problem.evaluator.criterion is not None and not self.ask:
            self.judge(x)

    def judge(self, x: torch.Tensor) -> None:
        """Ask a criterion that is too costly for every step: of the best, and of the last where the best fails."""
        record, best, everyone = self.record, self.record.best, self.whole.rows()
        best.success = record.score(best.examples, everyone, offer=False).success
        if self.finished:
            last = record.score(x, everyone, offer=False)
            best.put(x, last.value, last.success, last.success & ~best.success)

    def report(self, x: torch.Tensor, step: int) -> None:
        """Send progress with the iterates as they are."""
        restarts = self.search.restarts
        stage = f"restart {self.index + 1} of {restarts}" if restarts > 1 else "attacking"
        shown = x if len(self.rows) == self.whole.count else self.record.best.examples.index_copy(0, self.rows, x)
        self.record.report(step, restart=self.index, restarts=restarts, stage=stage, pixels=shown)

    def _nothing(self) -> BestTracker:
        """Return a best that every iterate beats."""
        clean = self.problem.clean.value
        lowest = torch.full_like(clean, -torch.inf)
        return BestTracker(self.region.centre, lowest, torch.zeros_like(clean, dtype=torch.bool))


class _SharedRestart(_Restart):
    """One ascent of one perturbation for all samples, raised by the sum of their gradients.

    `point` is that perturbation, 1×3×H×W. `best_content`: the best so far, 3×H×W, as it is handed out.
    """

    def start(self) -> torch.Tensor:
        search, region = self.search, self.region
        centre = region.centre
        self.first = region.select(torch.zeros(1, dtype=torch.int64, device=centre.device))  # one ε for all
        point = torch.zeros_like(centre[:1])
        if search.random_start:
            (generator,) = sample_generators(self.seed, ["/universal"], self.index)
            uniform = torch.rand(centre.shape[1:], generator=generator, dtype=centre.dtype).to(centre.device)
            reach = search.start_scale * self.first.reach
            point = self.first.shrink(reach * (2 * uniform - 1).unsqueeze(0))
        self.best_content = region.content(point)[0]
        return point

    def images(self) -> torch.Tensor:
        return self.region.compose(self.point)

    def value_and_grad(self, x: torch.Tensor, step: int) -> tuple[Evaluation, torch.Tensor | None]:
        found = super().value_and_grad(x, step)
        if self.record.best.taken:
            self.best_content = self.region.content(self.point)[0]
        return found

    def finite(self, gradient: torch.Tensor, step: int) -> torch.Tensor:
        return super().finite(gradient, step).sum(dim=0, keepdim=True)

    def step_size(self) -> float | torch.Tensor:
        length = super().step_size()
        return length if self.search.step_size is not None else length[:1]

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.first.steepest_step(gradient)

    def project(self, point: torch.Tensor) -> torch.Tensor:
        return self.first.shrink(point)

    def conclude(self, x: torch.Tensor) -> None:
        super().conclude(x)
        if self.search.keep == "last":
            self.best_content = self.region.content(self.point)[0]

    def _nothing(self) -> BestTracker:
        plain = super()._nothing()
        return SharedTracker(plain.examples, plain.value, plain.success)
