"""A norm of another package: pixels may become lighter or darker, by at most ε, but keep their colour.

Norms are read while the attacks are imported, so this file imports none of them: the region is named by a text.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cmai_core.budget import Budget, Norm

GREY = Norm(
    name="grey",
    word="grey",
    note="Pixels become lighter or darker by at most ε.",
    unit="/255",
    ladder=(2.0, 8.0),
    usual=8.0,
    highest=255.0,
    scale=lambda n: 1 / 255,
    region="other.grey_region:GreyRegion",
)


class Model:
    """The embedding is a linear map of the pixels."""

    def image_features(self, pixels: Any) -> SimpleNamespace:
        """Encode pixels."""
        import torch

        weight = torch.randn(4, pixels[0].numel(), generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(embedding=pixels.flatten(1) @ weight.T, pooled=None)


def use() -> bool:
    """Attack by a recipe's search under the norm, with a budget in people's units."""
    import torch

    from cmai_core.attacks import Attack, ThreatModel
    from cmai_core.attacks.objectives.embedding import EmbeddingDeviation
    from cmai_core.attacks.recipes.registry import RECIPES
    from cmai_core.attacks.searches.apgd import APGD
    from cmai_core.data.pair import Batch

    budget = Budget.usual("grey")
    pixels = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    attack = Attack(threat=ThreatModel("grey", budget), objective=EmbeddingDeviation("embedding"), search=APGD(steps=5))
    result = attack(Model(), Batch(("a", "b"), pixels, (), ()), seed=0)
    change = result.pixels - pixels
    same = torch.allclose(change, change.mean(dim=1, keepdim=True).expand_as(change), atol=1e-6)
    listed = "grey" in RECIPES["pgd"].norms and "grey" in RECIPES["apgd"].norms and budget.words == "8/255"
    within = bool((result.size <= 8 / 255 + 1e-6).all() and (result.size > 2 / 255).all())
    return same and listed and within and bool((result.objective > result.clean_objective).all())
