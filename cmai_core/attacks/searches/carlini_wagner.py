"""Carlini & Wagner's L2 attack (2017, arXiv 1608.04644, §V): the smallest change found by penalised descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.reporting import Watch

# Pixels 0 and 1 would be infinitely far in tanh space.
INSIDE = 0.999999
# A sample is done with a c when its least loss has not come down to this share within the patience: a share of the
# steps, but long enough for Adam, which swings to and fro about the boundary, to come back.
PROGRESS, PATIENCE, SWING = 0.998, 0.2, 25


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
        abort_early: a sample goes on to the next c when a fifth of the steps (at least 25) brought its least loss
            down by less than 0.2 %. (The authors' code compares two moments, of the batch's total: near the boundary
            the loss goes up and down.)
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

    @property
    def patience(self) -> int:
        """Steps without progress after which a sample is done with a c."""
        return max(math.ceil(self.steps * PATIENCE), SWING)

    def describe(self) -> dict:
        names = ("steps", "step_size", "searches", "initial", "confidence", "abort_early")
        return {"search": "carlini-wagner"} | {name: getattr(self, name) for name in names}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem. Nothing is random."""
        record = SearchRecord.of_nearest(problem, watch, self.searches)
        rows = record.unfooled()
        now = _Course.begin(problem.region.centre[rows], rows, self.initial, self.patience)
        # Adam (Kingma & Ba 2015, end of §2): the length of each step, and what takes the place of ε there.
        count = torch.arange(1, self.steps + 1, dtype=torch.float64)
        correction = (1 - 0.999**count).sqrt()
        lengths = (self.step_size * correction / (1 - 0.9**count)).to(now.weight)
        floors = (1e-8 * correction).to(now.weight)
        slowest = 0
        while len(now.rows):
            if record.stop():
                break
            # In place where nobody else holds the tensor: under a small model, arithmetic on pixels is much of a step.
            squashed = (now.base + now.delta).tanh_()
            x = (squashed + 1).mul_(0.5)
            evaluation, gradient = record.value_and_grad(x, now.rows, now.search + 1, offer=False)
            good = record.finite(gradient, now.rows, now.search)
            success = evaluation.success & (evaluation.value >= self.confidence)
            record.best.offer(x, evaluation.value, success, now.rows)
            now.found |= success
            lacking = (self.confidence - evaluation.value).clamp(min=0)
            away = x - now.anchor
            ends = ~good | (now.step == self.steps - 1)
            if self.abort_early:
                ends |= now.stalled(away.flatten(1).norm(dim=1).square() + now.weight * lacking)
            # The gradient of the loss in delta: that of ‖x − anchor‖² − c·objective in x, times dx/ddelta.
            pull = torch.where(lacking > 0, now.weight, 0.0)
            bend = torch.rsub(squashed.square_(), 1)
            slope = (gradient * column(pull * -0.5, x)).add_(away).mul_(bend)
            now.first.mul_(0.9).add_(slope, alpha=0.1)
            now.second.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = now.second.sqrt().add_(column(floors[now.step], x)).div_(column(lengths[now.step], x))
            now.delta.addcdiv_(now.first, scale, value=-1)
            now.step += 1
            record.steps_done += 1
            slowest += 1
            if bool(ends.any()):
                now.turn(ends.nonzero().squeeze(1), self.searches)
                kept = good & (now.search < self.searches)
                if not bool(kept.all()):
                    now.select(kept.nonzero().squeeze(1))
                total = self.searches * self.steps
                slowest = min([total, *(now.search * self.steps + now.step).tolist()])
            self._report(record, slowest)
        return record.outcome()

    def _report(self, record: SearchRecord, done: int) -> None:
        """Send progress. `done`: steps over all searches that the sample furthest behind has taken or been spared."""
        total = self.searches * self.steps
        search = max(done - 1, 0) // self.steps

        def data() -> dict:
            trace, other = record.objective_trace[1 : search + 2], record.consistency_trace
            other = None if other is None else other[1 : search + 2].clone()
            return {
                "step": done,
                "restart": search,
                "objective": trace.clone(),
                "consistency": other,
                "pixels": record.best.examples,
            }

        record.watch.report(done, total, f"weight {search + 1} of {self.searches}", data, force=done in (1, total))
        record.watch.pace(record.best.examples.device)


@dataclass
class _Course:
    """Where each of n samples stands. They do not wait for each other: one that is done with a c begins the next.

    Attributes:
        rows: which samples of the problem. weight, low, high: c and its bisection.
        search, step: int64, from 0. found: whether this c has found an adversarial image.
        least: the least loss under this c. past: n×patience, what it was in each of the last steps, in a ring.
        base: the clean image in tanh space, anchor: back from there, delta: the change; first, second: Adam's moments.
    """

    rows: torch.Tensor
    weight: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    search: torch.Tensor
    step: torch.Tensor
    found: torch.Tensor
    least: torch.Tensor
    past: torch.Tensor
    base: torch.Tensor
    anchor: torch.Tensor
    delta: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor

    @staticmethod
    def begin(centre: torch.Tensor, rows: torch.Tensor, initial: float, patience: int) -> _Course:
        base = torch.atanh((centre * 2 - 1) * INSIDE)
        infinite = centre.new_full((len(rows),), torch.inf)
        return _Course(
            rows=rows,
            weight=torch.full_like(infinite, initial),
            low=torch.zeros_like(infinite),
            high=infinite.clone(),
            search=torch.zeros_like(rows),
            step=torch.zeros_like(rows),
            found=torch.zeros_like(rows, dtype=torch.bool),
            least=infinite.clone(),
            past=infinite.unsqueeze(1).repeat(1, patience),
            base=base,
            anchor=(base.tanh() + 1) / 2,
            delta=torch.zeros_like(base),
            first=torch.zeros_like(base),
            second=torch.zeros_like(base),
        )

    def stalled(self, loss: torch.Tensor) -> torch.Tensor:
        """Enter the losses of this step; return which samples have hardly come further down within the patience."""
        self.least = torch.minimum(self.least, loss.to(self.least))
        place = (self.step % self.past.shape[1]).unsqueeze(1)
        before = self.past.gather(1, place).squeeze(1)
        self.past.scatter_(1, place, self.least.unsqueeze(1))
        return ~(self.least <= PROGRESS * before)

    def turn(self, which: torch.Tensor, searches: int) -> None:
        """Give these samples (indices), which are done with their c, the next."""
        found, weight, low, high = (t[which] for t in (self.found, self.weight, self.low, self.high))
        high, low = torch.where(found, weight, high), torch.where(found, low, weight)
        weight = torch.where(high.isinf(), weight * 10, (low + high) / 2)
        self.search[which] += 1
        if searches >= 10:  # as the authors: once more at the upper end
            weight = torch.where(self.search[which] == searches - 1, high.clamp(max=1e10), weight)
        self.weight[which], self.low[which], self.high[which] = weight, low, high
        self.least[which], self.past[which] = torch.inf, torch.inf
        for zeroed in (self.step, self.found, self.delta, self.first, self.second):
            zeroed[which] = 0

    def select(self, kept: torch.Tensor) -> None:
        """Let only these samples (indices) go on."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[kept])
