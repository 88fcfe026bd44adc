"""A grid refuses what contradicts itself before anything is loaded; its plan names every cell or why it is left out."""

import pytest

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.entries import key_value, parse_entry
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.plan import Plan, plan
from cmai_core.evaluation.runs.setting import Setting

REFUSED = {
    "unknown recipe": ({"recipes": ["magic"]}, "pgd, mbat-pgd, fgsm"),
    "unknown option": ({"recipes": ["square:speed=3"]}, "queries, share"),
    "value": ({"recipes": ["pgd:steps=0"]}, "whole numbers from 1"),
    "contradiction": ({"recipes": ["pgd:restarts=2,random_start=false"]}, "restarts=1"),
    "norm": ({"recipes": ["cw:norm=linf"]}, "l2"),
    "a text has no ε": ({"recipes": ["eda:epsilon=3"]}, "words, characters"),
    "surrogate": ({"recipes": ["transfer"]}, "surrogate=a model"),
    "batch": ({"recipes": ["char:objective=task"]}, "objective=consistency"),
    "unused options": ({"options": {"apgd": {"steps": 3}}}, "Accepted: pgd"),
    "task": ({"tasks": ["magic"]}, "zero-shot, retrieval"),
    "epsilon": ({"epsilons": [0]}, "above 0"),
    "seed": ({"seeds": [-1]}, "from 0"),
    "twice": ({"recipes": ["pgd", "pgd"]}, "pgd"),
    "text for list": ({"models": "tabletop"}, "models"),
    "source": ({"sources": ["tabletop-b"]}, "tabletop"),
    "gallery": ({"gallery": 0}, "from 1"),
    "name": ({"modles": ["tabletop"]}, "models, tasks, recipes"),
    "limit": ({"limit": 0}, "from 1"),
    "flag": ({"cascade": 1}, "True, False"),
    "outside option": ({"recipes": ["mine@a:b"], "options": {"mine": {"steps": 3}}}, "norm, epsilon"),
    "outside form": ({"recipes": ["mine@a"]}, "name@module:function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_is_accepted(name):
    values, words = REFUSED[name]
    with pytest.raises(OptionError) as caught:
        Grid.from_dict(values)
    assert words in str(caught.value) and caught.value.hint


def test_every_recipe_is_accepted_and_survives_json():
    grid = Grid(recipes=[slug for slug in RECIPES if slug != "transfer"] + ["transfer:surrogate=tabletop"])
    assert Grid.from_dict(grid.to_dict()) == grid


def test_entries():
    assert key_value("step-size=1/255") == ("step_size", 1 / 255)
    entry = parse_entry("pgd:steps=5,norm=l2", {"pgd": {"steps": 3, "restarts": 2}})
    assert dict(entry.options) == {"steps": 5, "norm": "l2", "restarts": 2}
    assert parse_entry('bert-attack:protected=["a","b"],top=3', {}).options == {"protected": ["a", "b"], "top": 3}
    assert parse_entry("mine@pack.mod:attack", {}).where == "pack.mod:attack"


@pytest.fixture(scope="module")
def planned(models, pairs):
    grid = Grid(
        models=list(models),
        tasks=["zero-shot", "nlvr", "captioning"],
        recipes=[
            "pgd:steps=2",
            "apgd-dlr:steps=2",
            "deepfool",
            "patch:steps=2",
            "char",
            "seq",
            "adaptive",
            "universal",
        ],
        epsilons=[2, 8],
        seeds=[0, 1],
        limit=4,
    )
    return plan(Setting(grid, models=models, dataset=pairs))


def _cells(planned, recipe, **wanted):
    return [
        cell
        for cell in planned.cells
        if cell.slug == recipe and cell.source == "small-0" and all(getattr(cell, k) == v for k, v in wanted.items())
    ]


def test_plan_counts(planned):
    asked = {"task": "zero-shot"}
    assert len(_cells(planned, "pgd", **asked)) == 4  # two ε, two seeds
    assert len(_cells(planned, "deepfool", **asked)) == 2  # one search for every ε
    assert {cell.epsilon for cell in _cells(planned, "deepfool", **asked)} == {None}
    assert [cell.epsilon for cell in _cells(planned, "patch", **asked)] == [0.05, 0.05]  # a budget of its own
    assert len(_cells(planned, "char")) == 2 and {cell.task for cell in _cells(planned, "char")} == {""}
    assert len({cell.craft for cell in _cells(planned, "seq") if cell.craft}) == 4  # shared by the tasks
    assert all(cell.universal for cell in _cells(planned, "universal", **asked))


def test_plan_says_what_is_left_out(planned):
    assert "has no statements" in _cells(planned, "pgd", task="nlvr")[0].skipped
    assert "no class scores" in _cells(planned, "apgd-dlr", task="captioning")[0].skipped
    assert "a detector" in _cells(planned, "adaptive", task="zero-shot")[0].skipped
    assert not any(cell.skipped for cell in _cells(planned, "pgd", task="captioning"))
    assert ("small-0", "nlvr") not in planned.readers


def test_plan_survives_json(planned):
    import json

    assert Plan.from_dict(json.loads(json.dumps(planned.to_dict(), allow_nan=False))) == planned


def test_only_the_sources_are_attacked_and_all_are_shown(models, pairs):
    grid = Grid(models=list(models), sources=["small-1"], tasks=["zero-shot"], recipes=["pgd:steps=2"], limit=4)
    found = plan(Setting(grid, models=models, dataset=pairs))
    assert [cell.source for cell in found.cells] == ["small-1"]
    assert set(found.targets(found.cells[0])) == set(models)


def test_the_gallery_is_part_of_the_question(models, pairs):
    values = {"models": ["small-0"], "tasks": ["retrieval"], "recipes": ["pgd:steps=2"], "limit": 4}
    settings = [Setting(Grid(**values, gallery=g), models=models, dataset=pairs) for g in (None, 6, 5)]
    assert [setting.items.tasks["retrieval"].gallery for setting in settings] == [200, 6, 5]
    crafts = {plan(setting).cells[0].craft for setting in settings}
    readers = {plan(setting).readers["small-0", "retrieval"] for setting in settings}
    assert len(crafts) == len(readers) == 3
