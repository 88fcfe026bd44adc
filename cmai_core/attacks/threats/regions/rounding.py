"""Rounding to 8 bits within a ball whose size is a sum over the values."""

from __future__ import annotations

import torch

from cmai_core.attacks.result import LEVELS


def round_within(pixels: torch.Tensor, centre: torch.Tensor, epsilon: torch.Tensor, power: int) -> torch.Tensor:
    """Round to multiples of 1/255 with Σ|change|^power ≤ ε^power.

    Values are rounded to the nearest level. While that is too far, those are set back by one level towards the clean
    picture first where that is nearest to what was asked for, for what it takes off the sum.

    Args:
        pixels, centre: N×3×H×W, wished and clean. epsilon: N×1×1×1.
    """
    wished, clean = ((x.flatten(1) * LEVELS).cpu().double() for x in (pixels, centre))
    levels = wished.round()
    moved = levels - clean
    nearer = levels - moved.sign()
    size = moved.abs() ** power
    shortens = size - (nearer - clean).abs() ** power
    price = (nearer - wished) ** 2 - (levels - wished) ** 2
    order = torch.where(shortens > 0, price / shortens, torch.inf).argsort(dim=1, stable=True)
    taken = shortens.clamp(min=0).gather(1, order)
    over = size.sum(dim=1, keepdim=True) - (epsilon.flatten(1).cpu().double() * LEVELS) ** power
    needed = taken.cumsum(dim=1) - taken < over  # what the ones before it leave
    back = torch.zeros_like(needed).scatter(1, order, needed & (taken > 0))
    return (torch.where(back, nearer, levels) / LEVELS).to(pixels).view_as(pixels)
