"""Low-rank updates of a model's matrices (LoRA: Hu et al. 2022, arXiv 2106.09685), merged into them at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W + B·A of rank r; B starts at 0, so that at first nothing changes."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.empty(rank, columns))
        self.b = nn.Parameter(torch.zeros(rows, rank))
        with torch.no_grad():
            self.a.normal_(std=columns**-0.5, generator=generator)
        self.to(weight.device)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def attach(model: nn.Module, rank: int, generator: torch.Generator) -> None:
    """Give every matrix of the blocks that ask for gradients a low-rank update, which alone learns; vectors learn too.

    Embeddings, class tokens and projections out of the towers are left alone, as in the paper.
    """
    for _, block in _blocks(model):
        for module in block.modules():
            for name in ("in_proj_weight", "weight"):
                weight = getattr(module, name, None)
                if isinstance(weight, nn.Parameter) and weight.ndim == 2 and weight.requires_grad:
                    weight.requires_grad_(False)
                    parametrize.register_parametrization(module, name, LowRank(weight, rank, generator))
    inside = {id(p) for _, block in _blocks(model) for p in block.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside and parameter.ndim >= 2:
            parameter.requires_grad_(False)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that the same model without adapters would have: updates added to the matrices."""
    state = {name: tensor for name, tensor in model.state_dict().items() if "parametrizations." not in name}
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                state[f"{prefix}.{name}"] = getattr(module, name).detach()
    return state


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in model.named_modules() if name.endswith(("resblocks", "cross_attn"))]
