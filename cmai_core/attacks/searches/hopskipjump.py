"""HopSkipJump (Chen et al. 2020, arXiv 1904.02144, algorithm 2): needs decisions only, not scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.searches.deepfool import length_norm
from cmai_core.options import number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators


@strict_options
@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """A minimum-norm search that asks only whether a picture succeeds; `AttackResult.minimum` is what it found.

    From a random picture that succeeds: to the boundary by bisection, along an estimate of its normal, and back to the
    boundary, again and again. The objective's value is never looked at (it is recorded for the traces).

    Attributes:
        queries: most queries of a sample; an iteration it cannot pay for in full is not begun.
        first: queries of the first estimate of the normal (100), growing with the square root of the iteration.
        most: of any estimate (10,000). gamma: sets the precision of the bisection (1.0).
        tries: random pictures tried as a start (100). micro_batch: as in `GradientSearch`.
    """

    norms = ("linf", "l2")
    queries: int = 5000
    first: int = 100
    most: int = 10_000
    gamma: float = 1.0
    tries: int = 100
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "first", "most", "tries"):
            whole(name, getattr(self, name), 1)
        number("gamma", self.gamma, 0.0, above_low=True)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("queries", "first", "most", "gamma", "tries")
        return {"search": "hopskipjump"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        norm = length_norm(problem.region, "HopSkipJump")
        size = problem.region.centre[0].numel()
        theta = self.gamma / (size * (math.sqrt(size) if norm == "l2" else size))
        halvings = max(1, math.ceil(math.log2(1 / theta)))
        record = SearchRecord.of_nearest(problem, watch, self._iterations(halvings))
        walk = _Walk(self, problem, record, norm, theta, halvings, seed)
        walk.begin()
        for iteration in range(record.steps):
            if not walk.hop(iteration):
                break
            record.steps_done = iteration + 1
            record.report(iteration + 1)
        return record.outcome()

    def _iterations(self, halvings: int) -> int:
        """Return how many iterations the budget can pay for at most."""
        left, count = self.queries - 1 - halvings, 0
        while (left := left - self.cost(count, halvings)) >= 0:
            count += 1
        return max(1, count)

    def samples(self, iteration: int) -> int:
        """Return the queries of an iteration's estimate."""
        return min(int(self.first * math.sqrt(iteration + 1)), self.most)

    def cost(self, iteration: int, halvings: int) -> int:
        """Return the least an iteration may cost: the estimate, one step, the bisection."""
        return self.samples(iteration) + 1 + halvings


class _Walk:
    """The samples on their way. `rows` are those that have a start and can pay for another iteration."""

    def __init__(self, search: HopSkipJump, problem: Problem, record: SearchRecord, norm, theta, halvings, seed):
        self.search, self.problem, self.record = search, problem, record
        self.norm, self.theta, self.halvings = norm, theta, halvings
        self.rows = record.unfooled()
        self.generators = sample_generators(seed, problem.ids, 0)
        self.x = problem.region.centre[self.rows]

    def begin(self) -> None:
        """Find a random picture that succeeds, and bring it to the boundary."""
        search, record = self.search, self.record
        missing = self.rows
        start = self.problem.region.centre.clone()
        found = torch.zeros(record.count, dtype=torch.bool, device=start.device)
        # One query is left for the bisection's first step at least.
        for _ in range(min(search.tries, max(1, search.queries - self.halvings))):
            if len(missing) == 0 or record.stop():
                break
            shape, dtype = start.shape[1:], start.dtype
            noise = [torch.rand(shape, generator=self.generators[row], dtype=dtype) for row in missing.tolist()]
            noise = torch.stack(noise).to(start.device)
            success = record.score(noise, missing, offer=True).success
            start[missing[success]] = noise[success]
            found[missing[success]] = True
            missing = missing[~success]
        self._keep(found[self.rows])
        self.x = start[self.rows]
        self._afford(self.halvings)
        if len(self.rows) and not record.stop():
            self.x = self._bisect(self.x, self.rows)

    def hop(self, iteration: int) -> bool:
        """Do one iteration; return False when no sample can pay for it."""
        search, record = self.search, self.record
        self._afford(search.cost(iteration, self.halvings))
        if len(self.rows) == 0 or record.stop():
            return False
        x0 = self.problem.region.centre[self.rows]
        distance = self._distance(self.x, x0)
        size = x0[0].numel()
        factor = size if self.norm == "linf" else math.sqrt(size)
        delta = torch.full_like(distance, 0.1) if iteration == 0 else factor * self.theta * distance
        normal = self._normal(delta.clamp(min=1e-9), search.samples(iteration))
        update = normal.sign() if self.norm == "linf" else normal
        length = distance / math.sqrt(iteration + 1)
        moved, landed = self.x.clone(), torch.zeros(len(self.rows), dtype=torch.bool, device=self.x.device)
        waiting = torch.arange(len(self.rows), device=self.x.device)
        while len(waiting) and not record.stop():
            step = (self.x[waiting] + column(length[waiting], self.x) * update[waiting]).clamp(0, 1)
            success = record.score(step, self.rows[waiting]).success
            moved[waiting[success]] = step[success]
            landed[waiting[success]] = True
            waiting = waiting[~success]
            length[waiting] /= 2
            rows = self.rows[waiting]
            able = (search.queries - record.forwards[rows] > self.halvings) & (length[waiting] > 1e-9)
            waiting = waiting[able]
        if bool(landed.any()) and not record.stop():
            back = self._bisect(moved[landed], self.rows[landed])
            self.x = self.x.index_copy(0, landed.nonzero().squeeze(1), back)
        record.objective_trace[iteration + 1, self.rows] = record.best.value[self.rows]
        return True

    def _afford(self, price: int) -> None:
        """Go on only with those whose budget has room for `price` queries."""
        self._keep(self.search.queries - self.record.forwards[self.rows] >= price)

    def _keep(self, flags: torch.Tensor) -> None:
        self.rows, self.x = self.rows[flags], self.x[flags]

    def _distance(self, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        flat = (x - x0).flatten(1)
        return flat.abs().amax(dim=1) if self.norm == "linf" else flat.norm(dim=1)

    def _bisect(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the nearest point that succeeds: on the line to the clean image (l2) or in smaller balls (linf)."""
        x0 = self.problem.region.centre[rows]
        high = self._distance(x, x0) if self.norm == "linf" else torch.ones(len(rows)).to(x)
        low = torch.zeros_like(high)
        for _ in range(self.halvings):
            if self.record.stop():
                break
            middle = (low + high) / 2
            success = self.record.score(self._toward(x0, x, middle), rows).success
            high, low = torch.where(success, middle, high), torch.where(success, low, middle)
        return self._toward(x0, x, high)

    def _toward(self, x0: torch.Tensor, x: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        amount = column(amount, x)
        if self.norm == "linf":
            return torch.clamp(x, x0 - amount, x0 + amount)
        return x0 + amount * (x - x0)

    def _normal(self, delta: torch.Tensor, samples: int) -> torch.Tensor:
        """Estimate the boundary's normal from which of many nearby pictures succeed (eq. 9 and 16), of unit length."""
        x = self.x
        draw = torch.randn if self.norm == "l2" else lambda *a, **k: 2 * torch.rand(*a, **k) - 1
        picked = [self.generators[row] for row in self.rows.tolist()]
        noise = torch.stack([draw(samples, *x.shape[1:], generator=g, dtype=x.dtype) for g in picked]).to(x.device)
        noise = noise / noise.flatten(2).norm(dim=2).view(*noise.shape[:2], 1, 1, 1)
        width = delta.view(-1, 1, 1, 1, 1)
        near = (x.unsqueeze(1) + width * noise).clamp(0, 1)
        noise = (near - x.unsqueeze(1)) / width
        success = self.record.score_many(near, self.rows).success
        sign = torch.where(success, 1.0, -1.0).to(x)
        mean = sign.mean(dim=1, keepdim=True)
        weight = torch.where(mean.abs() == 1, sign, sign - mean)
        normal = (weight.view(*weight.shape, 1, 1, 1) * noise).mean(dim=1)
        return normal / column(normal.flatten(1).norm(dim=1).clamp(min=1e-12), normal)
