"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search by squares; needs scores only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cmai_core.attacks.engine.best import column
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord, may_hold
from cmai_core.attacks.threats.regions.l2 import L2Region
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.attacks.threats.regions.region import Region
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import SampleNoise, sample_generators

# Iterations of 10,000 after which the share of changed pixels is halved (§4.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@strict_options
@dataclass(frozen=True, kw_only=True)
class Square:
    """A candidate replaces the current image where it succeeds first, or where its objective is higher.

    Attributes:
        queries: budget of each sample, the start included; spent exactly, unless the sample succeeds before.
        share: p, the share of pixels changed at first (0.05 in the paper for linf, 0.1 for l2; 0.8 in AutoAttack).
        rescale: stretch the published schedule, made for 10,000 queries, to the budget.
        stop_on_success: leave a fooled sample; else its objective is raised to the end.
        micro_batch: as in `GradientSearch`.
    """

    norms = ("linf", "l2", "patch")
    queries: int = 5000
    share: float = 0.05
    rescale: bool = True
    stop_on_success: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        whole("queries", self.queries, 1)
        number("share", self.share, 0.0, 1.0, above_low=True)
        flag("rescale", self.rescale)
        flag("stop_on_success", self.stop_on_success)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        return {"search": "square"} | {n: getattr(self, n) for n in ("queries", "share", "rescale", "stop_on_success")}

    def portion(self, iteration: int) -> float:
        """Return p at an iteration (counted from 0)."""
        if self.rescale:
            iteration = int(iteration / self.queries * 10_000)
        return self.share / 2 ** sum(iteration > limit for limit in HALVINGS)

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        if isinstance(problem.region, LinfRegion):
            start, propose = _stripes, _propose_linf
        elif isinstance(problem.region, L2Region):
            start, propose = _tiles, _propose_l2
        else:
            raise OptionError("The square attack does not go with this threat.", "Accepted: linf, l2, patch.")
        steps = self.queries - 1
        record = SearchRecord(problem, watch, steps)
        rows = record.unfooled() if self.stop_on_success else record.rows()
        region = problem.region.select(rows)
        channels, size = region.centre.shape[1], min(region.centre.shape[-2:])
        generators = sample_generators(seed, [problem.ids[row] for row in rows.tolist()], 0)
        x = start(region, generators) if len(rows) else region.centre
        noise = SampleNoise(seed, problem.ids, 0, 5 + channels, region.centre)
        value = success = None
        for step in range(steps + 1):
            if len(rows) == 0 or record.stop():
                break
            if step == 0:
                candidate = x
            else:
                side = max(round(math.sqrt(self.portion(step - 1) * region.centre[0, 0].numel())), 1)
                candidate = propose(region, x, min(side, size), noise.take(rows))
            evaluation = record.score(candidate, rows)
            if value is None:
                better = torch.ones_like(evaluation.success)
                value, success = evaluation.value, evaluation.success
            else:
                same = evaluation.success == success
                better = (evaluation.success & ~success) | (same & (evaluation.value > value))
                if may_hold(better):
                    x = torch.where(column(better, x), candidate, x)
                value = torch.where(better, evaluation.value, value)
                success = success | evaluation.success
            record.objective_trace[step, rows] = value
            if record.consistency_trace is not None:
                before = record.consistency_trace[step - 1, rows] if step else evaluation.consistency
                record.consistency_trace[step, rows] = torch.where(better, evaluation.consistency, before)
            record.steps_done = step
            record.report(step)
            if self.stop_on_success and bool(success.any()):
                kept = (~success).nonzero().squeeze(1)
                rows, x, value, success = rows[kept], x[kept], value[kept], success[kept]
                region = region.select(kept)
        return record.outcome()


def _stripes(region: Region, generators: list[torch.Generator]) -> torch.Tensor:
    """Return vertical stripes of ±ε, each channel its own (§4.1)."""
    channels, _, width = region.centre.shape[1:]
    signs = torch.stack([torch.rand(channels, 1, width, generator=g) for g in generators]) < 0.5
    return torch.where(signs.to(region.centre.device), region.lower, region.upper)


def _propose_linf(region: Region, x: torch.Tensor, side: int, noise: torch.Tensor) -> torch.Tensor:
    """Return a candidate with a square of ±ε, each channel of one sign, at a uniform place."""
    channels, height, width = x.shape[1:]
    down, right = _window(noise[:, 0], noise[:, 1], side, height, width)
    place = (down * width + right).flatten(1).unsqueeze(1).expand(-1, channels, -1)  # n×C×side²
    lower, upper, old = (pixels.flatten(2).gather(2, place) for pixels in (region.lower, region.upper, x))
    up = (noise[:, 5:] < 0.5).unsqueeze(2)
    new = torch.where(up, upper, lower)
    # A query that changes nothing would be wasted: then all channels take the other sign.
    same = column((new == old).flatten(1).all(dim=1), new)
    new = torch.where(same, torch.where(up, lower, upper), new)
    return x.flatten(2).scatter(2, place, new).view(x.shape)


def _place(uniform: torch.Tensor, most: int) -> torch.Tensor:
    """Return whole numbers from 0 to `most`."""
    return (uniform * (most + 1)).floor().clamp(max=most).to(torch.int64)


def _bump(tall: int, wide: int, like: torch.Tensor) -> torch.Tensor:
    """Return a centred mound (eq. 2): at distance m from the middle the sum of 1/k² from k = m+1, of unit length."""
    middle = (tall // 2, wide // 2)
    down = (torch.arange(tall, device=like.device) - middle[0]).abs().unsqueeze(1)
    right = (torch.arange(wide, device=like.device) - middle[1]).abs().unsqueeze(0)
    highest = max(middle) + 1
    terms = 1.0 / torch.arange(1, highest + 1, device=like.device, dtype=like.dtype) ** 2
    tails = terms.flip(0).cumsum(0).flip(0)
    mound = tails[torch.maximum(down, right).clamp(max=highest - 1)]
    return mound / mound.norm().clamp(min=1e-12)


def _wave(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return two mounds of opposite sign, one above the other (§4.2), side×side, of unit length."""
    parts = [_bump(side // 2, side, like)] if side > 1 else []
    wave = torch.cat([*parts, -_bump(side - side // 2, side, like)])
    return wave / wave.norm().clamp(min=1e-12)


def _tiles(region: Region, generators: list[torch.Generator]) -> torch.Tensor:
    """Return a grid of about 5×5 waves, each tile and channel of its own sign, scaled to the ball's surface."""
    centre = region.centre
    channels, height, width = centre.shape[1:]
    side = max(min(height, width) // 5, 1)
    down, right = height // side, width // side
    uniform = torch.stack(
        [torch.rand(down * right * (channels + 1), generator=g, dtype=centre.dtype) for g in generators]
    )
    uniform = uniform.to(centre.device).view(len(centre), channels + 1, down, right)
    sign = torch.where(uniform[:, :channels] < 0.5, 1.0, -1.0).to(centre)
    wave = _wave(side, centre)
    turned = (uniform[:, -1:] < 0.5).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    pattern = torch.where(turned, wave.T.repeat(down, right), wave.repeat(down, right))
    tiles = pattern * sign.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    delta = torch.zeros_like(centre)
    top, left = (height - down * side) // 2, (width - right * side) // 2
    delta[:, :, top : top + down * side, left : left + right * side] = tiles
    return _on_surface(region, delta)


def _on_surface(region: Region, delta: torch.Tensor) -> torch.Tensor:
    length = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
    return (region.centre + delta * region.epsilon / column(length, delta)).clamp(0, 1)


def _propose_l2(region: Region, x: torch.Tensor, side: int, noise: torch.Tensor) -> torch.Tensor:
    """Move the budget of one window to another, onto a wave there (algorithm 3)."""
    count, channels, height, width = x.shape
    side = max(side, min(3, height, width))
    side -= side % 2 == 0
    delta = x - region.centre
    first = _window(noise[:, 0], noise[:, 1], side, height, width)
    second = _window(noise[:, 2], noise[:, 3], side, height, width)
    union = torch.zeros(count, 1, height, width, dtype=torch.bool, device=x.device)
    at = torch.arange(count, device=x.device).view(-1, 1, 1)
    for down, right in (first, second):
        union[at, 0, down, right] = True
    in_windows = (delta * union).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    spare = (region.epsilon**2 - delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1) ** 2).clamp(min=0)
    old = delta[at, :, first[0], first[1]].movedim(-1, 1)  # n×C×side×side
    old = old / (old.flatten(2).norm(dim=2).view(count, channels, 1, 1) + 1e-12)
    wave = _wave(side, x)
    wave = torch.where((noise[:, 4] < 0.5).view(-1, 1, 1), wave.T, wave).unsqueeze(1)
    sign = torch.where(noise[:, 5:] < 0.5, 1.0, -1.0).to(x).view(count, channels, 1, 1)
    new = wave * sign + old
    new = new / (new.flatten(2).norm(dim=2).view(count, channels, 1, 1) + 1e-12)
    new = new * (spare / channels + in_windows**2).sqrt()
    delta = delta.clone()
    delta[at, :, second[0], second[1]] = 0.0
    delta[at, :, first[0], first[1]] = new.movedim(1, -1)
    return _on_surface(region, delta)


def _window(
    down: torch.Tensor, right: torch.Tensor, side: int, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and column indices (n×side×1 and n×1×side) of a window at a uniform place."""
    span = torch.arange(side, device=down.device)
    return (
        (_place(down, height - side).unsqueeze(1) + span).unsqueeze(2),
        (_place(right, width - side).unsqueeze(1) + span).unsqueeze(1),
    )
