"""Projections for distributions over tokens (after Geisler et al. 2024, arXiv 2402.09154)."""

from __future__ import annotations

import torch

from cmai_core.errors import OptionError


def project_simplex(x: torch.Tensor, support: torch.Tensor | None = None) -> torch.Tensor:
    """Return the nearest distributions to the rows of x (…×V), by sorting (Duchi et al. 2008, figure 1).

    Args:
        support: bool, of x's shape; where False, the result is 0. Every row needs one True.

    Raises:
        OptionError: a row without support.
    """
    if support is not None:
        if not bool(support.any(dim=-1).all()):
            raise OptionError("A distribution has nothing it may be over.", "Let every position keep its own token.")
        x = x.masked_fill(~support, -torch.inf)
    ordered = x.sort(dim=-1, descending=True).values
    excess = ordered.masked_fill(ordered.isinf(), 0.0).cumsum(dim=-1) - 1
    place = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    kept = (ordered * place > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, kept - 1) / kept
    return (x - threshold).clamp(min=0.0)


def project_entropy(x: torch.Tensor, target: torch.Tensor | float, support: torch.Tensor | None = None) -> torch.Tensor:
    """Return distributions (…×V) with their Gini entropy lowered towards `target` where it is higher.

    The Gini (Tsallis, q = 2) entropy is 1 − Σ p²: 0 for a single token, 1 − 1/d for d equally likely ones.

    A row is pushed away from the centre of its non-zero entries to the sphere on which the entropy is `target`, then
    projected onto the simplex again. Where the pushed row lies in the simplex the entropy is the target exactly; where
    not, the entropy is lower than before and the step may be repeated. Uniform rows have no direction and stay.
    """
    there = x > 0
    number = there.sum(dim=-1, keepdim=True).clamp(min=1)
    centre = there.to(x) / number
    offset = x - centre
    length = offset.norm(dim=-1, keepdim=True)
    target = torch.as_tensor(target, dtype=x.dtype, device=x.device)
    target = target.unsqueeze(-1) if target.dim() else target
    radius = (1 - target - 1 / number).clamp(min=0.0).sqrt()
    push = (length < radius) & (length > torch.finfo(x.dtype).eps)
    pushed = centre + offset * (radius / length.clamp(min=torch.finfo(x.dtype).tiny))
    return torch.where(push, project_simplex(pushed, support), x)
