"""An attack on pictures from another package: the same noise for every picture, within ε."""

from __future__ import annotations

import torch

from cmai_core.attacks.specs import BLACK_BOX, Recipe

SPARKLE = Recipe(
    slug="sparkle",
    title="Sparkling noise",
    word="sparkle",
    family=BLACK_BOX,
    modality="image",
    knowledge="decisions",
    threat="any pixel value, at random",
    make="other.attacks:make",
    compare="random noise of the same size",
    norms=("linf",),
    cited=("seed",),
    cost=1.0,
)


def make(threat, *, seed: int = 0, task="retrieval", dataset=None, objective=None, success=None):
    """Make the attack of the recipe."""
    from cmai_core.attacks import Attack, TaskObjective, Untargeted
    from cmai_core.attacks.searches.external import External
    from cmai_core.tasks import get_task

    def sparkle(model, batch):
        generator = torch.Generator().manual_seed(seed)
        return batch.pixels + torch.randn(batch.pixels.shape, generator=generator).sign() * threat.epsilon

    asked = get_task(task) if isinstance(task, str) else task
    return Attack(
        threat=threat,
        objective=objective or TaskObjective(asked, dataset=dataset),
        success=success or Untargeted(asked, dataset=dataset),
        search=External(name="sparkle", function=sparkle),
    )


def use() -> object:
    """Run it alone, in a grid beside another, and find it in the lists of commands and lab."""
    import cmai_core as cmai
    from cmai_core.attacks.recipes.registry import RECIPES
    from cmai_core.lab.benchmark.choices import GridChoice

    report = cmai.attack("tabletop", "tabletop", recipe="sparkle", epsilon=8, limit=4)
    table = cmai.evaluate("tabletop", recipes=["fgsm", "sparkle"], epsilons=[8], limit=4)
    wanted = GridChoice(models=("tabletop",), recipes=("sparkle",), count=4).checked()
    return (
        all(sample["linf_8bit"] <= 8 / 255 + 1e-6 for sample in report.data["samples"])
        and report.data["attack"]["name"] == "sparkle"
        and {"sparkle", "fgsm", "worst case"} <= set(table["recipe"])
        and RECIPES["sparkle"].constants == {"seed": 0}
        and wanted.recipes == ("sparkle",)
    )
