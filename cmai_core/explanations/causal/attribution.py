"""Attribution patching (Nanda 2023): every effect of one pair estimated from one gradient.

R̂ of a state is (its clean value − its attacked value) · ∇m at the attacked run, as a share of the gap: two forward
passes and one backward pass for all states. It is exact where m is linear in the states, and bad where attention or a
layer norm saturates, so it is never shown without its error against exact patching.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cmai_core.explanations.causal.records import Attribution
from cmai_core.explanations.result import rank_correlation, read_only

if TYPE_CHECKING:
    from cmai_core.explanations.causal.passes import Patching


def attribution(patching: Patching, span: float, exact: np.ndarray) -> Attribution:
    """Estimate R of each layer and token, and compare it with exact denoising.

    Args:
        span: how far the attack moved m. exact: (depth+1)×L.
    """
    estimate = estimated(patching) / span
    return Attribution(
        read_only(estimate),
        float(rank_correlation(estimate[None], exact[None])[0]),
        read_only(rank_correlation(estimate[:, None], exact[:, None])),
        float(np.abs(estimate - exact).mean()),
        float(np.abs(exact).mean()),
    )


def estimated(patching: Patching) -> np.ndarray:
    """Return (clean − attacked)·∇m of each state of the residual stream, float64 (depth+1)×L, in the units of m."""
    stream, depth = patching.attacked.stream, patching.attacked.stream.depth
    states: list[torch.Tensor] = []

    def leaf(layer: int, part: str, value: torch.Tensor) -> torch.Tensor:
        if part == "residual":
            value = value if value.requires_grad else value.detach().requires_grad_()
            states.append(value)
        return value

    with torch.enable_grad():
        measured = patching.measure(stream.finish(stream.run(tap=leaf)))
        gradients = torch.autograd.grad(measured.sum(), states)
    rows = [
        ((patching.clean.states[layer, "residual"] - states[layer].detach()) * gradients[layer]).sum(dim=-1)[0]
        for layer in range(depth + 1)
    ]
    return torch.stack(rows).double().cpu().numpy()
