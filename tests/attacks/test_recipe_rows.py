"""Recipes as plain data: nothing heavy is imported, and every fact is that of the attack which is built."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from cmai_core.attacks.recipes.makers.maker import options_of
from cmai_core.attacks.recipes.registry import RECIPES, get_recipe
from cmai_core.attacks.specs import NEEDS, PIXELS, Recipe
from cmai_core.budget import NORMS, Budget
from cmai_core.errors import CmaiWarning, OptionError
from cmai_core.evaluation.runs.plan import UNKNOWN_COST, units
from cmai_core.registry import Registry


class Surrogate:
    """A model, as far as a search on a surrogate looks at it before it runs."""

    hash = "0" * 64

    def image_features(self, pixels):
        raise AssertionError("nothing is attacked here")


def built(recipe: Recipe, **options):
    """The recipe's attack on question answering, whose class scores go with all of them."""
    needed = {"surrogate": {"surrogate": Surrogate()}, "words": {"words": ("one",)}}
    options |= needed["surrogate"] if "surrogate" in recipe.needs else {}
    options |= needed["words"] if recipe.slug == "typographic" else {}
    options |= {"task": "vqa"} if recipe.modality == "image" and "task" in recipe.options else {}
    return recipe.build(**options)


def parts(attack):
    """Everything an attack is made of, one in the other."""
    found, seen = [attack], []
    while found:
        part = found.pop()
        if isinstance(part, (tuple, list)):
            found += part
        elif dataclasses.is_dataclass(part):
            seen.append(part)
            found += [getattr(part, field.name) for field in dataclasses.fields(part)]
    return seen


def accepted(recipe: Recipe, **options) -> bool:
    try:
        built(recipe, **options)
    except OptionError:
        return False
    return True


def test_descriptions_need_no_torch():
    code = (
        "import sys, cmai_core.attacks.specs, cmai_core.attacks.attack_spec, cmai_core.attacks.recipes.registry as r, "
        "cmai_core.attacks.objectives.registry as o; "
        "[(x.name, x.norm, x.budget(), x.passes(), x.usual) for x in r.RECIPES.values()]; list(o.OBJECTIVES); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("slug", RECIPES)
def test_constants_are_those_of_the_attack(slug):
    """What is told of a recipe as a value is what one of its parts has."""
    recipe = RECIPES[slug]
    holders = parts(built(recipe))
    for name in recipe.cited:
        told = recipe.constants[name]
        found = [getattr(part, name) for part in holders if hasattr(part, name)]
        weights = [abs(weight) for part in holders for weight, _ in getattr(part, "terms", ())]
        if slug == "eot" and name == "transform":
            assert [part.describe()["transform"] for part in holders if hasattr(part, "sigma")] == [told]
        elif slug == "mbat-pgd":
            assert weights == [recipe.constants["alpha"], recipe.constants["beta"]]
        elif slug == "apgd-t" and name == "loss":
            assert told in str(built(recipe).describe())
        else:
            assert told in found, name
    if recipe.number:
        assert getattr(built(recipe), "schedule", None) or recipe.number in [
            getattr(part, recipe.counts, None) for part in holders
        ]


@pytest.mark.parametrize("slug", RECIPES)
def test_settings_and_counts_are_options(slug):
    recipe = RECIPES[slug]
    assert set(recipe.settings) <= set(recipe.options) and set(recipe.needs) <= set(NEEDS)
    assert not recipe.counts or recipe.counts in recipe.options
    assert (recipe.number > 0) == (recipe.counts != "") and recipe.usual <= (recipe.number or 1) * 2
    if recipe.counts:
        assert accepted(recipe, **{recipe.counts: recipe.least})
    if recipe.least > 1:
        assert not accepted(recipe, **{recipe.counts: recipe.least - 1})
    with pytest.raises(OptionError):
        recipe.build(colour="red")


@pytest.mark.parametrize("slug", [slug for slug, recipe in RECIPES.items() if recipe.modality == "image"])
def test_facts_about_pictures_are_those_of_the_attack(slug):
    recipe = RECIPES[slug]
    assert recipe.norms == tuple(norm for norm in PIXELS if accepted(recipe, norm=norm))
    assert recipe.restarts == accepted(recipe, restarts=2) or slug == "universal"
    assert recipe.from_clean == (getattr(built(recipe).search, "random_start", None) is False) or slug == "transfer"
    assert recipe.own_objective or recipe.variant_of or "objective" in recipe.options
    assert ("detector" in recipe.needs) == ("detectors" in recipe.options)
    assert ("surrogate" in recipe.needs) == ("surrogate" in recipe.options)
    assert ("many pictures" in recipe.needs) == bool(getattr(built(recipe).search, "universal", False))
    if "task" in recipe.options:
        needs_classes = False
        try:
            recipe.build(**{"task": "captioning", **({"surrogate": Surrogate()} if slug == "transfer" else {}),
                            **({"words": ("one",)} if slug == "typographic" else {})})  # fmt: skip
        except OptionError:
            needs_classes = True
        assert ("classes" in recipe.needs) == needs_classes
    if recipe.variant_of:
        assert type(built(recipe).search) is type(built(RECIPES[recipe.variant_of]).search)


@pytest.mark.parametrize("slug", RECIPES)
def test_cost_is_that_of_the_attack(slug):
    """The estimate before an attack is built is the one after: of its own number, of another, of restarts."""
    recipe = RECIPES[slug]
    if recipe.modality == "text" and not recipe.counts:
        assert recipe.passes() in (20.0, UNKNOWN_COST)
        return
    assert recipe.passes() == units(built(recipe).describe())
    if recipe.counts:
        twice = recipe.number * 2
        assert recipe.passes(twice) == units(built(recipe, **{recipe.counts: twice}).describe())


def test_another_package_adds_a_recipe(monkeypatch):
    """An entry point's Recipe is found, built and refused like the project's own."""
    from cmai_core import registry as module
    from cmai_core.attacks.recipes import registry

    mine = dataclasses.replace(
        RECIPES["pgd"], slug="mine", title="Mine", make=f"{__name__}:make_mine", settings={}, cited=("steps",)
    )
    wrong = dataclasses.replace(mine, slug="wrong", norms=("l7",))

    class Entry:
        dist, value = None, "pack"

        def __init__(self, name, part):
            self.name, self.load = name, lambda: part

    monkeypatch.setattr(module, "entry_points", lambda group: [Entry("mine", mine), Entry("wrong", wrong)])
    found = Registry("recipe", "cmai.attacks", dict(RECIPES), registry._refuse)
    with pytest.warns(CmaiWarning, match="wrong"):
        assert "mine" in found
    assert "wrong" not in found and list(found)[-1] == "mine"
    attack = found.find("mine").build(steps=3, epsilon=Budget("linf", 2))
    assert (attack.name, attack.search.steps, attack.threat.epsilon) == ("mine", 3, 2 / 255)
    assert found["mine"].constants == {"steps": 20} | dict(mine.remarks)
    with pytest.raises(OptionError, match="'colour'"):
        found["mine"].build(colour="red")


def make_mine(threat, *, steps: int = 5, task=None, dataset=None):
    from cmai_core.attacks import Attack, Consistency, GradientSearch

    return Attack(threat=threat, objective=-Consistency(), search=GradientSearch(steps=steps))


def test_options_of_a_plain_function():
    assert options_of(make_mine) == ("steps", "task", "dataset")


def test_budgets_of_build():
    """A Budget, a number in pixel units, or nothing; and no budget for another norm."""
    pgd = get_recipe("pgd")
    assert pgd.build(epsilon=Budget("l2", 2)).threat.norm == "l2"
    assert pgd.build(epsilon=0.1).threat.epsilon == 0.1
    for norm in PIXELS:
        assert pgd.build(norm=norm).threat.sized(300).epsilon == Budget(norm, NORMS[norm].usual).pixels(300)
    with pytest.raises(OptionError, match="linf"):
        pgd.build(norm="l2", epsilon=Budget("linf", 2))
    with pytest.raises(OptionError, match="norm"):
        get_recipe("cw").build(epsilon=Budget("linf", 2))
