"""JSMA, the saliency-map attack (Papernot et al. 2016, arXiv 1511.07528, alg. 2 and 3): few values, changed far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.objectives.classes import _ClassObjective
from cmai_core.attacks.threats.regions.l0 import L0Region
from cmai_core.options import number, one_of, strict_options, whole
from cmai_core.reporting import Watch

DIRECTIONS = ("up", "down", "both")


@dataclass(frozen=True, eq=False)
class Saliency(_ClassObjective):
    """The targeted margin, with what JSMA differentiates: the target's score, and the sum of the others.

    Attributes: as in `Margin`; towards the likeliest false class (rank 1) where neither target nor rank is given.
    """

    word = "saliency"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is None and self.rank is None:
            object.__setattr__(self, "rank", 1)

    def value(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        aimed = target.unsqueeze(1)
        return scores.gather(1, aimed).squeeze(1) - scores.scatter(1, aimed, -torch.inf).amax(dim=1)

    def margins_from(
        self, scores: torch.Tensor, true: torch.Tensor, false: torch.Tensor, target: torch.Tensor | None
    ) -> torch.Tensor:
        own = scores.gather(1, target.unsqueeze(1))
        return torch.cat([own, scores.sum(dim=1, keepdim=True) - own], dim=1)


@strict_options
@dataclass(frozen=True, kw_only=True)
class JSMA:
    """Again and again the pair of pixel values that most raises the target's score while lowering the others'.

    The paper's pair map −(α_p + α_q)(β_p + β_q), with α_p + α_q > 0 and β_p + β_q < 0, is searched among the `top`
    values only: all n² pairs of a picture of 224 pixels would be 2·10¹⁰. Needs an l0 threat, whose ε bounds the pixel
    positions touched, and the objective `Saliency`.

    Attributes:
        theta: how far a chosen value moves (1: to the end of its range).
        direction: "up" (as published), "down", or "both", whichever is better for each value.
        top: values that enter the pair map. steps: most pairs.
        micro_batch: as in `GradientSearch`.
    """

    norms = ("l0",)
    objectives = (Saliency,)
    theta: float = 1.0
    direction: str = "up"
    top: int = 128
    steps: int = 200
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        number("theta", self.theta, 0.0, 1.0, above_low=True)
        one_of("direction", self.direction, DIRECTIONS)
        whole("top", self.top, 2)
        whole("steps", self.steps, 1)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        return {"search": "jsma"} | {name: getattr(self, name) for name in ("theta", "direction", "top", "steps")}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem. Nothing is random."""
        record = SearchRecord(problem, watch, self.steps)
        rows = record.unfooled()
        x = problem.region.centre[rows]
        for step in range(self.steps + 1):
            if len(rows) == 0 or record.stop():
                break
            if step == self.steps:
                record.score(x, rows, step)
                record.report(step)
                break
            evaluation, _, gradients = record.class_gradients(x, rows, None, step)
            record.report(step)
            good = record.finite(gradients, rows, step) & ~evaluation.success
            moved, found = self._move(problem.region.select(rows), x, gradients)
            keep = (good & found).nonzero().squeeze(1)
            rows, x = rows[keep], moved[keep]
            record.steps_done = step + 1
        return record.outcome()

    def _move(self, region: L0Region, x: torch.Tensor, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images with their best pair changed, and whether there was one."""
        count, positions = len(x), x[0, 0].numel()
        flat = x.flatten(1)
        alpha, beta = gradients[:, 0].flatten(1), gradients[:, 1].flatten(1)
        ways = {"up": (1.0,), "down": (-1.0,), "both": (1.0, -1.0)}[self.direction]
        gain = torch.cat([sign * alpha for sign in ways], dim=1)
        loss = torch.cat([-sign * beta for sign in ways], dim=1)
        room = torch.cat([1 - flat if sign > 0 else flat for sign in ways], dim=1) > 0
        touched = (x != region.centre).any(dim=1).flatten(1)
        left = (region.epsilon.flatten(1).floor() - touched.sum(dim=1, keepdim=True)).to(torch.int64)
        values = flat.shape[1]
        where = (torch.arange(len(ways) * values, device=x.device) % values) % positions
        fresh = ~touched[:, where]
        allowed = room & (~fresh | (left > 0))
        # Both sums are symmetric, so the values best in the sum of the two (each on its own scale) hold the best pairs.
        scale = lambda t: t / t.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)  # noqa: E731
        rank = (scale(gain) + scale(loss)).masked_fill(~allowed, -torch.inf)
        chosen = rank.topk(min(self.top, rank.shape[1]), dim=1).indices
        a, b = gain.gather(1, chosen), loss.gather(1, chosen)
        place, value = where[chosen], chosen % values
        new, ok = fresh.gather(1, chosen), allowed.gather(1, chosen)
        a, b = a.unsqueeze(1) + a.unsqueeze(2), b.unsqueeze(1) + b.unsqueeze(2)
        apart = place.unsqueeze(1) != place.unsqueeze(2)
        needed = new.unsqueeze(1).long() + (new.unsqueeze(2) & apart).long()
        needed = torch.where(new.unsqueeze(2) & ~new.unsqueeze(1) & apart, 1, needed)
        valid = ok.unsqueeze(1) & ok.unsqueeze(2) & (needed <= left.unsqueeze(2)) & (a > 0) & (b > 0)
        valid &= value.unsqueeze(1) != value.unsqueeze(2)
        score = (a * b).masked_fill(~valid, -torch.inf).flatten(1)
        best = score.argmax(dim=1)
        found = score.gather(1, best.unsqueeze(1)).squeeze(1) > -torch.inf
        many = chosen.shape[1]
        pair = chosen.gather(1, torch.stack([best // many, best % many], dim=1))
        signs = torch.tensor(ways, dtype=x.dtype, device=x.device)[pair // values]
        delta = torch.zeros_like(flat).scatter_(1, pair % values, self.theta * signs)
        delta = torch.where(found.unsqueeze(1), delta, 0.0)
        return (flat + delta).clamp(0, 1).view(count, *x.shape[1:]), found
