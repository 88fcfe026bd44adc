"""All named attacks: `get_recipe("autoattack").build(task=task, dataset=dataset, epsilon=4 / 255)`."""

from __future__ import annotations

from cmai_core.attacks.recipes.adaptive import ADAPTIVE_RECIPES
from cmai_core.attacks.recipes.image import IMAGE_RECIPES
from cmai_core.attacks.recipes.recipe import Recipe
from cmai_core.attacks.recipes.text import TEXT_RECIPES
from cmai_core.errors import OptionError

RECIPES: dict[str, Recipe] = {**IMAGE_RECIPES, **TEXT_RECIPES, **ADAPTIVE_RECIPES}
"""Every recipe by slug: on images, on texts, on both, and on a model with a detector around it."""


def get_recipe(slug: str) -> Recipe:
    """The recipe of a name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    if slug not in RECIPES:
        raise OptionError(f"There is no recipe {slug!r}.", f"Accepted: {', '.join(RECIPES)}.")
    return RECIPES[slug]
