"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690, algorithm 1): gradient ascent that sets its own step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.evaluator import Evaluation
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.searches.gradient import PRECISIONS
from cmai_core.budget import convex_norms
from cmai_core.options import flag, number, one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

RULES = ("paper", "code")

# Of Auto-PGD under L1 (Croce & Hein 2021, §4.1 and §4.2): the share of values that the first steps change, and by what
# the number that the best example changes is divided for later ones; a checkpoint each so many of the steps; by what
# the step is divided where the best example has not become sparser by a twentieth, and to what share of ε at least.
FIRST_SHARE, NARROWING, EACH, SPARSER, SHORTER, SHORTEST = 0.2, 1.5, 0.04, 0.95, 1.5, 0.1


@strict_options
@dataclass(frozen=True, kw_only=True)
class APGD:
    """Ascent with momentum from a step of 2ε, halved at checkpoints where it no longer pays.

    Under L1 (Croce & Hein 2021, "Mind the box", arXiv 2103.01208, algorithm 1) a step from ε, without momentum, changes
    a share of the values that is set at checkpoints by how many the best example changes.

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

    norms = staticmethod(convex_norms)
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
        """Return the steps w_1 < w_2 < … after which the step size is reconsidered (§3.3)."""
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

    def to_halve(self, rises: torch.Tensor, window: int) -> torch.Tensor:
        """Flag the samples whose objective rose in too few of the last `window` steps (condition 1 of §3.3)."""
        return rises <= self.rho * window if self.rule == "code" else rises < self.rho * window

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        record = SearchRecord(problem, watch, self.steps)
        kind = SparseAscent if problem.region.sparse else Ascent
        for index in range(self.restarts):
            rows = record.unfooled() if self.stop_on_success else record.rows(record.bad_step < 0)
            if len(rows) == 0 or record.stop():
                break
            kind(self, problem, record, rows, index, seed).run()
        return record.outcome()


@dataclass
class _State:
    """Where each of n samples stands.

    Attributes:
        rows: which samples of the problem. x, old: the iterate and the one before it, with the gradient at x.
        length: of a step, n×1×1×1. best_x, best_gradient, best: the best iterate and its objective.
        previous: the objective before. checked: the best at the last checkpoint. rises: steps since that rose.
        reduced: whether the last checkpoint cut the step.
        share, changed: under L1: the share of values that a step changes, and how many the best example changed at the
            last checkpoint.
    """

    rows: torch.Tensor
    x: torch.Tensor
    old: torch.Tensor
    gradient: torch.Tensor
    length: torch.Tensor
    best_x: torch.Tensor
    best_gradient: torch.Tensor
    best: torch.Tensor
    previous: torch.Tensor
    checked: torch.Tensor
    rises: torch.Tensor
    reduced: torch.Tensor
    share: torch.Tensor
    changed: torch.Tensor

    def select(self, kept: torch.Tensor) -> None:
        """Let only these samples (indices) go on."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[kept])


class Ascent:
    """One ascent from one random start."""

    first_length = 2.0  # as a share of ε

    def __init__(self, search: APGD, problem: Problem, record: SearchRecord, rows: torch.Tensor, index: int, seed: int):
        self.search, self.record, self.index = search, record, index
        self.rows, self.region = rows, problem.region.select(rows)
        self.generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], index)

    def run(self) -> None:
        """Ascend; the step size is reconsidered at checkpoints."""
        search, record = self.search, self.record
        evaluation = self.begin()
        self.narrow(~evaluation.success if search.stop_on_success else None)
        checkpoints, before = set(self.checkpoints()), 0
        for step in range(1, search.steps + 1):
            if len(self.state.rows) == 0 or record.stop():
                break
            self.move(1.0 if step == 1 else search.momentum)
            evaluation = self.score(step)
            record.steps_done += 1
            if step in checkpoints:
                self.reconsider(step - before)
                before = step
            self.report(step)
            if search.stop_on_success or step == 1:
                self.narrow(~evaluation.success if search.stop_on_success else None)

    def checkpoints(self) -> list[int]:
        """Return the steps after which the step size is reconsidered."""
        return self.search.checkpoints()

    def begin(self) -> Evaluation:
        """Score the random start, as far out as the region reaches, and set the state."""
        search, record, rows, region = self.search, self.record, self.rows, self.region
        x = region.boundary_start(self.generators)
        evaluation, gradient = record.value_and_grad(x, rows, 0, passes=search.eot, precision=search.precision)
        self.report(0)
        record.finite(gradient, rows, 0)
        value, code = evaluation.value, search.rule == "code"
        self.state = _State(
            rows=rows,
            x=x,
            old=x,
            gradient=gradient,
            length=self.first_length * region.reach.expand(len(rows), *[1] * (x.dim() - 1)).clone(),
            best_x=x,
            best_gradient=gradient,
            best=value,
            previous=torch.zeros_like(value) if code else value,  # the authors' code compares the first value with 0
            checked=value,
            rises=torch.zeros_like(value),
            reduced=torch.full_like(value, code, dtype=torch.bool),
            share=torch.full_like(value, FIRST_SHARE),
            changed=torch.full_like(value, x[0].numel()),
        )
        return evaluation

    def move(self, momentum: float) -> None:
        """Take a step along the gradient, mixed with the last move; `momentum`: the weight of the gradient's."""
        state, region = self.state, self.region
        x = state.x
        aim = region.project(x + state.length * region.steepest_step(state.gradient))
        state.x = region.project(x + momentum * (aim - x) + (1 - momentum) * (x - state.old))
        state.old = x

    def score(self, step: int) -> Evaluation:
        """Score the iterates, and take their gradients where these are still needed."""
        state, search, record = self.state, self.search, self.record
        if step < search.steps:
            passes = {"passes": search.eot, "precision": search.precision}
            evaluation, gradient = record.value_and_grad(state.x, state.rows, step, **passes)
            good = record.finite(gradient, state.rows, step)
            state.gradient = torch.where(column(good, gradient), gradient, 0.0)
        else:
            evaluation = record.score(state.x, state.rows, step)
        value = evaluation.value
        state.rises = state.rises + (value > state.previous)
        state.previous = value
        better = value > state.best
        at = column(better, state.x)
        state.best_x = torch.where(at, state.x, state.best_x)
        state.best_gradient = torch.where(at, state.gradient, state.best_gradient)
        state.best = torch.where(better, value, state.best)
        return evaluation

    def reconsider(self, window: int) -> None:
        """Halve the step and go back to the best where too few of the last `window` steps rose, or nothing changed."""
        state = self.state
        cut = self.search.to_halve(state.rises, window) | (~state.reduced & (state.checked >= state.best))
        state.length = torch.where(column(cut, state.x), state.length / 2, state.length)
        self.go_back(cut)
        state.reduced, state.checked = cut, state.best
        state.rises = torch.zeros_like(state.rises)

    def go_back(self, chosen: torch.Tensor) -> None:
        """Put the chosen samples (bool n) back to their best iterate."""
        state = self.state
        at = column(chosen, state.x)
        state.x = torch.where(at, state.best_x, state.x)
        state.gradient = torch.where(at, state.best_gradient, state.gradient)

    def narrow(self, keep: torch.Tensor | None) -> None:
        """Go on only with samples whose gradient has been finite, and (bool n) that are to be kept."""
        good = self.record.bad_step[self.state.rows] < 0
        good = good if keep is None else good & keep
        if bool(good.all()):
            return
        kept = good.nonzero().squeeze(1)
        self.state.select(kept)
        self.region = self.region.select(kept)

    def report(self, step: int) -> None:
        """Send progress."""
        self.record.report(step, restart=self.index, restarts=self.search.restarts)


class SparseAscent(Ascent):
    """The same where steepest steps change few values: how many is adapted, and there is no momentum."""

    first_length = 1.0

    def checkpoints(self) -> list[int]:
        """Return every twenty-fifth part of the steps, at least every step."""
        window = max(int(EACH * self.search.steps), 1)
        return list(range(window, self.search.steps + 1, window))

    def move(self, momentum: float) -> None:
        state, region = self.state, self.region
        step = region.steepest_step(state.gradient, state.x, share=state.share)
        state.old, state.x = state.x, region.project(state.x + state.length * step)

    def reconsider(self, window: int) -> None:
        """Set the share by the best example; where that has become sparser, go back to it with a long step."""
        state, region = self.state, self.region
        changed = (state.best_x != region.centre).flatten(1).sum(dim=1).to(state.best)
        sparser = changed < SPARSER * state.changed
        state.share = changed / state.x[0].numel() / NARROWING
        longest, at = self.first_length * region.reach, column(sparser, state.x)
        state.length = torch.where(at, longest, torch.maximum(state.length / SHORTER, SHORTEST * longest))
        self.go_back(sparser)
        state.changed = changed
