"""A norm: pixels may become lighter or darker, by at most ε, but keep their colour."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from cmai_core.attacks import Attack, ThreatModel
from cmai_core.attacks.objectives.embedding import EmbeddingDeviation
from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.budget import Budget, Norm
from cmai_core.data.pair import Batch


class GreyRegion(LinfRegion):
    """|δ| ≤ ε, the same in all channels, within the box."""

    def project(self, pixels: torch.Tensor) -> torch.Tensor:
        delta = (pixels - self.centre).mean(dim=1, keepdim=True)
        lowest = (self.lower - self.centre).amax(dim=1, keepdim=True)
        highest = (self.upper - self.centre).amin(dim=1, keepdim=True)
        return self.centre + torch.clamp(delta, lowest, highest)


GREY = Norm(
    name="grey",
    word="grey",
    note="Pixels become lighter or darker by at most ε.",
    unit="/255",
    ladder=(2.0, 8.0),
    usual=8.0,
    highest=255.0,
    scale=lambda n: 1 / 255,
    region="other.norms:GreyRegion",
)


class Model:
    """The embedding is a linear map of the pixels."""

    def image_features(self, pixels: torch.Tensor) -> SimpleNamespace:
        weight = torch.randn(4, pixels[0].numel(), generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(embedding=pixels.flatten(1) @ weight.T, pooled=None)


def use() -> bool:
    """Attack by a recipe's search under the norm, with a budget in people's units."""
    budget = Budget.usual("grey")
    pixels = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    attack = Attack(threat=ThreatModel("grey", budget), objective=EmbeddingDeviation("embedding"), search=APGD(steps=5))
    result = attack(Model(), Batch(("a", "b"), pixels, (), ()), seed=0)
    change = result.pixels - pixels
    same = torch.allclose(change, change.mean(dim=1, keepdim=True).expand_as(change), atol=1e-6)
    listed = "grey" in RECIPES["pgd"].norms and "grey" in RECIPES["apgd"].norms and budget.words == "8/255"
    within = bool((result.size <= 8 / 255 + 1e-6).all() and (result.size > 7 / 255).all())
    return same and listed and within and bool((result.objective > result.clean_objective).all())
