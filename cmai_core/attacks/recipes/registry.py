"""All named attacks by slug; it imports no torch.

    get_recipe("autoattack").build(task=task, dataset=dataset, epsilon=Budget("linf", 4))

A package adds one by an entry point of the group "cmai.attacks" whose value is a `Recipe`, and whose name is the
recipe's slug.
"""

from __future__ import annotations

from typing import Any

from cmai_core.attacks.recipes import black_box, detectors, gradients, joint, nearest, verified, words
from cmai_core.attacks.specs import COUNTS, FAMILIES, KNOWLEDGE, MODALITIES, NEEDS, Recipe
from cmai_core.budget import NORMS
from cmai_core.registry import Registry

_FIXED = {"modality": MODALITIES, "knowledge": KNOWLEDGE, "family": FAMILIES, "counts": COUNTS}


def _refuse(name: str, recipe: Any) -> str:
    """Say why a package's recipe cannot be used; "" where it can."""
    if not isinstance(recipe, Recipe):
        return "it is no Recipe (cmai_core.attacks.specs)."
    if recipe.slug != name:
        return f"its slug is {recipe.slug!r}."
    for field, accepted in _FIXED.items():
        if getattr(recipe, field) not in accepted:
            return f"{field}={getattr(recipe, field)!r}; accepted: {', '.join(filter(None, accepted))}."
    if unknown := [need for need in recipe.needs if need not in NEEDS]:
        return f"needs={unknown[0]!r}; accepted: {', '.join(NEEDS)}."
    if (recipe.modality == "text") == bool(recipe.norms):
        return "an attack on pixels has norms, and one on texts has none."
    if unknown := [norm for norm in (*recipe.norms, recipe.home) if norm and norm not in NORMS]:
        return f"there is no norm {unknown[0]!r}."
    return ""


_ROWS = (*gradients.ROWS, *nearest.ROWS, *black_box.ROWS, *detectors.ROWS, *verified.ROWS, *words.ROWS, *joint.ROWS)

RECIPES: Registry[Recipe] = Registry("recipe", "cmai.attacks", {row.slug: row for row in _ROWS}, _refuse)
"""Every recipe by slug: on images, on texts, on both, and on a model with a detector around it."""


def get_recipe(slug: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        OptionError: there is none; the message lists those there are.
    """
    return RECIPES.find(slug)
