"""A training recipe of another package."""

from cmai_core.training.recipes import get_recipe

RECIPE = get_recipe("tecoa", name="gentle", model_name="tabletop-gentle", learning_rate=1e-5)


def use() -> object:
    """Find it as `cmai train` does."""
    from cmai_core.training.recipes import RECIPES

    return get_recipe("gentle", pairs=64).learning_rate == 1e-5 and list(RECIPES)[-1] == "gentle"
