"""One budget, whichever way an attack is asked for: every recipe, every norm, every entrance, in pixel units."""

from __future__ import annotations

import json

import pytest

from cmai_core import cli
from cmai_core.attacks import Consistency, ThreatModel, pgd
from cmai_core.attacks.adaptive_attack import accept_false
from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.specs import LENGTHS
from cmai_core.budget import NORMS, Budget
from cmai_core.evaluation.checks.attacker import attacker_of
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.lab.choices import PRESETS, SEARCHES, home_of, parts_of, threats_of, usual_epsilon
from cmai_core.lab.experiment import Experiment
from cmai_core.tasks import get_task

VALUES = 3 * 128 * 128
OTHER = {norm: {"l0": 33.0, "patch": 0.07}.get(norm, 3.0) for norm in NORMS}
"""Amounts that no ladder has."""
CASES = [(slug, norm) for slug, recipe in RECIPES.items() for norm in recipe.norms]


class Surrogate:
    """A model, as far as a search on a surrogate looks at it before it runs."""

    hash = "0" * 64

    def image_features(self, pixels):
        raise AssertionError("nothing is attacked here")


def needed(slug: str) -> dict:
    """Options that a recipe cannot be built without."""
    return {"words": ["word"]} if slug == "typographic" else {"surrogate": "small"} if slug == "transfer" else {}


def pixels_of(attack) -> float:
    return float(attack.threat.sized(VALUES).epsilon)


def made(spec) -> float:
    judged = get_task("vqa") if spec.description.modality == "image" else None
    return pixels_of(spec.build(judged, None, value_count=VALUES, load=lambda name: Surrogate()))


@pytest.fixture
def command(monkeypatch):
    """command(arguments): the experiment that `cmai attack` would run."""
    from cmai_core.evaluation.runs import attack_run

    asked = []

    class Asked(Exception):
        pass

    def stop(experiment, **options):
        asked.append(experiment)
        raise Asked

    monkeypatch.setattr(attack_run, "run_experiment", stop)

    def run(*arguments: str) -> AttackExperiment:
        with pytest.raises(Asked):
            cli.main(["attack", "--quiet", *arguments])
        return asked.pop()

    return run


def entrances(slug: str, norm: str, amount: float | None, command) -> dict[str, float]:
    """Entrance → ε in pixel units of an attack with a recipe; amount None: the one where none is given."""
    recipe, own = RECIPES[slug], needed(slug)
    given = {} if amount is None else {"epsilon": amount}
    build = {"surrogate": Surrogate()} if "surrogate" in own else dict(own)
    budget = {} if amount is None else {"epsilon": Budget(norm, amount)}
    found = {"build": pixels_of(recipe.build(norm=norm, **build, **budget))}
    if amount is not None:
        found["build, norm of the budget"] = pixels_of(recipe.build(**build, **budget))
        found["build, pixel units"] = pixels_of(
            recipe.build(norm=norm, epsilon=Budget(norm, amount).pixels(VALUES), **build)
        )
    experiment = AttackExperiment(recipe=slug, norm=norm, options=own, **given)
    found["experiment"] = made(experiment.spec)
    found["its file"] = made(AttackExperiment.from_dict(json.loads(json.dumps(experiment.to_dict()))).spec)
    options = [part for name, value in own.items() for part in ("--option", f"{name}={json.dumps(value)}")]
    told = [] if amount is None else ["--epsilon", repr(amount)]
    found["command line"] = made(command("--recipe", slug, "--norm", norm, *options, *told).spec)
    if norm in LENGTHS:
        amounts = (RECIPES[slug].budget(norm).amount if amount is None else amount,)
        grid = Grid(recipes=[slug], epsilons=amounts, options={slug: {"norm": norm, **own}})
        if not recipe.minimum_norm:  # these search with their own budget, and one search serves every ε
            found["grid"] = made(grid.experiment(grid.entries[0], amounts[0]).spec)
        if recipe.modality == "image" and not own:
            size = None if amount is None else Budget(norm, amount).pixels(VALUES)
            checked = attacker_of(slug, None, get_task("vqa"), None, norm, size, VALUES, 0)
            found["self-check"] = pixels_of(checked.base)
    else:
        grid = Grid(recipes=[slug], options={slug: {"norm": norm, **own, **given}})
        found["grid"] = made(grid.experiment(grid.entries[0], None).spec)
    return found | of_the_lab(slug, norm, amount)


def of_the_lab(slug: str, norm: str, amount: float | None) -> dict[str, float]:
    recipe = RECIPES[slug]
    if slug not in PRESETS or (recipe.modality == "joint" and norm != "linf"):
        return {}
    threat = recipe.modality if recipe.modality == "joint" else norm
    if threat not in threats_of(SEARCHES[recipe.search]):
        return {}
    usual = recipe.budget(norm).amount if threat == home_of(recipe) else usual_epsilon(threat)
    asked = Experiment(
        caption="a", task="vqa", norm=threat, objective=parts_of(recipe)[1], recipe=recipe.search,
        epsilon=usual if amount is None else amount,
    )  # fmt: skip
    if slug == "typographic":  # its words come from the dataset
        spec = asked.spec()
        return {"lab": spec.budget.pixels(VALUES)}
    linked = Experiment.from_query(asked.to_query()) if recipe.modality == "image" else asked
    filed = Experiment.from_dict(json.loads(linked.to_json())) if recipe.modality == "image" else asked
    return {"lab": made(asked.spec()), "link": made(linked.spec()), "file of the lab": made(filed.spec())}


@pytest.mark.parametrize(("slug", "norm"), CASES)
def test_every_entrance_has_the_same_usual_budget(slug, norm, command):
    wanted = RECIPES[slug].budget(norm).pixels(VALUES)
    found = entrances(slug, norm, None, command)
    assert found == dict.fromkeys(found, wanted)


@pytest.mark.parametrize(("slug", "norm"), CASES)
def test_every_entrance_keeps_a_budget_off_the_ladder(slug, norm, command):
    wanted = Budget(norm, OTHER[norm]).pixels(VALUES)
    assert not Budget(norm, OTHER[norm]).on_ladder
    found = entrances(slug, norm, OTHER[norm], command)
    assert found == pytest.approx(dict.fromkeys(found, wanted), rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_made_without_a_recipe_have_the_norm_s_budget(norm):
    wanted = Budget.usual(norm).pixels(VALUES)
    assert float(ThreatModel(norm).sized(VALUES).epsilon) == wanted
    assert pixels_of(pgd(-Consistency(), norm=norm)) == wanted
    assert pixels_of(accept_false(tau=0.1, norm=norm)) == wanted
    assert made(AttackExperiment(norm=norm).spec) == wanted


def test_a_size_is_known_when_the_pictures_are():
    """A budget in people's units is as long as the pictures ask for."""
    import torch

    for side in (4, 8):
        pixels = torch.full((2, 3, side, side), 0.5, dtype=torch.float64)
        region = ThreatModel("l2", Budget("l2", 4)).around(pixels)
        assert region.epsilon.flatten().tolist() == [Budget("l2", 4).pixels(3 * side * side)] * 2
