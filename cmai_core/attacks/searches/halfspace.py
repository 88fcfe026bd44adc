"""The nearest point of a box on the other side of a hyperplane, in L∞ or L2 (Croce & Hein 2020, FAB, §3.1 and §3.2)."""

from __future__ import annotations

import torch


def step_across(
    point: torch.Tensor, normal: torch.Tensor, rise: torch.Tensor, norm: str, lower: float = 0.0, upper: float = 1.0
) -> torch.Tensor:
    """Return the shortest δ with normal·δ = rise and point + δ within the box, or its nearest corner if there is none.

    Minimises ‖δ‖ exactly: every coordinate moves in its useful direction by min(t·s, room), with s = 1 (linf) or
    |normal| (l2), and t solves a piecewise linear equation whose breakpoints are sorted.

    Args:
        point, normal: N×… ; rise: N, the wanted change of normal·x, of either sign.
        norm: "linf" or "l2".
    """
    shape = point.shape
    x, w = point.flatten(1), normal.flatten(1)
    toward = w.sign() * rise.sign().unsqueeze(1)
    room = torch.where(toward > 0, upper - x, x - lower).clamp(min=0.0)
    weight = w.abs()
    room = torch.where(weight > 0, room, torch.zeros_like(room))
    speed = torch.ones_like(weight) if norm == "linf" else weight
    breaks = room / speed.clamp(min=torch.finfo(x.dtype).tiny)
    order = breaks.argsort(dim=1)
    t = breaks.gather(1, order)
    slope = (weight * speed).gather(1, order)
    full = (weight * room).gather(1, order)
    # Between two breakpoints the gain is what the exhausted coordinates gave plus t times the others' slope.
    left = slope.flip(1).cumsum(1).flip(1)
    gain = full.cumsum(1) - full + t * left
    wanted = rise.abs().unsqueeze(1)
    k = (gain < wanted).sum(dim=1, keepdim=True)
    reachable = k < t.shape[1]
    k = k.clamp(max=t.shape[1] - 1)
    before = (full.cumsum(1) - full).gather(1, k)
    solved = (wanted - before) / left.gather(1, k).clamp(min=torch.finfo(x.dtype).tiny)
    solved = torch.where(reachable, solved, t[:, -1:])
    return (toward * torch.minimum(solved * speed, room)).view(shape)
