"""Gradient estimates from scores alone: NES (Ilyas et al. 2018, arXiv 1804.08598) and SPSA (Uesato et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

DIRECTIONS = ("gaussian", "rademacher")
UPDATES = ("ascent", "adam")


@strict_options
@dataclass(frozen=True, kw_only=True)
class ScoreGradient:
    """Ascent along finite differences over antithetic random directions. Every picture asked about is an allowed one.

    Attributes:
        queries: most queries of a sample; a last step too small for a pair of directions is left out.
        samples: queries of one estimate (two for each direction). sigma: their distance, in pixel units.
        directions: "gaussian" (NES) or "rademacher", ±1 (SPSA).
        update: "ascent": a step along the norm's steepest ascent; "adam": Adam on the pixels (SPSA).
        step_size: in pixel units; None: ε/5.
        random_start, stop_on_success, micro_batch: as in `GradientSearch`.
    """

    queries: int = 5000
    samples: int = 50
    sigma: float = 0.001
    directions: str = "gaussian"
    update: str = "ascent"
    step_size: float | None = None
    random_start: bool = False
    stop_on_success: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("queries", self.queries, 1)
        whole("samples", self.samples, 2)
        number("sigma", self.sigma, 0.0, above_low=True)
        one_of("directions", self.directions, DIRECTIONS)
        one_of("update", self.update, UPDATES)
        if self.step_size is not None:
            number("step_size", self.step_size, 0.0, above_low=True)
        flag("random_start", self.random_start)
        flag("stop_on_success", self.stop_on_success)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("queries", "samples", "sigma", "directions", "update", "step_size", "random_start", "stop_on_success")
        return {"search": "score-gradient"} | {name: getattr(self, name) for name in names}

    def plan(self) -> list[int]:
        """Return the pairs of directions of each step; the first query is the start, each step ends with one more."""
        left, pairs = self.queries - 1, []
        while left >= 3:
            pairs.append(min(self.samples // 2, (left - 1) // 2))
            left -= 2 * pairs[-1] + 1
        return pairs

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        plan = self.plan()
        record = SearchRecord(problem, watch, len(plan))
        rows = record.unfooled() if self.stop_on_success else record.rows()
        region = problem.region.select(rows)
        generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], 0)
        x = region.centre
        if self.random_start and len(rows):
            x = region.random_start(generators)
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(len(plan) + 1):
            if len(rows) == 0 or record.stop():
                break
            if step:
                slope = self._estimate(record, region, x, rows, generators, plan[step - 1])
                length = region.reach / 5 if self.step_size is None else self.step_size
                if self.update == "adam":
                    first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
                    scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
                    x = region.project(x + length * (first / (1 - 0.9**step)) / scale)
                else:
                    x = region.project(x + length * region.steepest_step(slope, x))
                record.steps_done = step
            record.score(x, rows, step)
            record.report(step)
            if self.stop_on_success:
                keep = ~record.best.success[rows]
                if not bool(keep.all()):
                    kept = keep.nonzero().squeeze(1)
                    rows, x, region = rows[kept], x[kept], region.select(kept)
                    first, second = first[kept], second[kept]
                    generators = [generators[k] for k in kept.tolist()]
        return record.outcome()

    def _estimate(
        self,
        record: SearchRecord,
        region,
        x: torch.Tensor,
        rows: torch.Tensor,
        generators: list[torch.Generator],
        pairs: int,
    ) -> torch.Tensor:
        shape = (pairs, *x.shape[1:])
        if self.directions == "gaussian":
            drawn = [torch.randn(shape, generator=g, dtype=x.dtype) for g in generators]
        else:
            drawn = [torch.rand(shape, generator=g, dtype=x.dtype).sub(0.5).sign() for g in generators]
        direction = torch.stack(drawn).to(x.device)
        both = torch.cat([direction, -direction], dim=1)
        wide = [region.project(x + self.sigma * both[:, k]) for k in range(2 * pairs)]
        values = record.score_many(torch.stack(wide, dim=1), rows).value.nan_to_num()
        weights = (values[:, :pairs] - values[:, pairs:]) / (2 * pairs * self.sigma)
        return (direction * column(weights.flatten(), direction.flatten(0, 1)).view(*weights.shape, 1, 1, 1)).sum(dim=1)
