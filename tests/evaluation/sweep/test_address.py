"""Addresses change when, and only when, something that matters changes."""

import copy
import dataclasses

import pytest

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.plan import plan
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.address import digest, item_version, plain

BASE = {"recipes": ["pgd:steps=2"], "tasks": ["zero-shot"], "limit": 4, "models": ["small-0"]}


@pytest.fixture(scope="module")
def address(models, pairs):
    def find(changes=None, models=models, dataset=pairs):
        grid = Grid.from_dict(BASE | (changes or {}))
        (cell,) = plan(Setting(grid, models=models, dataset=dataset)).cells
        return cell.craft

    return find


@pytest.fixture(scope="module")
def base(address):
    return address()


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 8},
        {"batch_size": 2},
        {"validation": 0},
        {"transfer": False},
        {"cascade": True},
        {"recipes": ["pgd"], "options": {"pgd": {"steps": 2}}},
        {"recipes": ["pgd:steps=2,restarts=1"]},
    ],
    ids=str,
)
def test_does_not_change_with_what_does_not_matter(address, base, changes):
    assert address(changes) == base


@pytest.mark.parametrize(
    "changes",
    [
        {"recipes": ["pgd:steps=3"]},
        {"recipes": ["pgd:steps=2,norm=l2"]},
        {"recipes": ["pgd:steps=2,momentum=0.5"]},
        {"recipes": ["mi-fgsm:steps=2"]},
        {"epsilons": [5]},
        {"seeds": [1]},
        {"tasks": ["vqa"]},
        {"captions": 2},
        {"models": ["small-1"]},
    ],
    ids=str,
)
def test_changes_with_what_matters(address, base, changes):
    assert address(changes) != base


def test_changes_with_weights_split_and_classes(address, base, fresh, pairs):
    import torch

    altered = fresh(1)["small-0"]
    assert address(models={"small-0": altered}) == base
    with torch.no_grad():
        altered.clip.logit_scale.add_(1e-3)
    assert address(models={"small-0": altered}) != base
    other = copy.copy(pairs)
    other.split = "validation"
    assert address(dataset=other) != base
    other = copy.copy(pairs)
    other.classes = pairs.classes[:3]
    assert address(dataset=other) != base


def test_an_item_changes_with_its_content(pairs):
    class Changed(type(pairs)):
        def __getitem__(self, index):
            pair = super().__getitem__(index)
            image = pair.image.copy()
            image[0, 0, 0] ^= 1
            return dataclasses.replace(pair, image=image)

    assert item_version(pairs, 0) == item_version(copy.copy(pairs), 0)
    assert item_version(pairs, 0) != item_version(pairs, 4)
    assert item_version(pairs, 0) != item_version(Changed(), 0)


def test_tabletops_items_change_with_the_renderer(monkeypatch):
    from cmai_core.data import load_dataset
    from cmai_core.data.tabletop import render

    dataset = load_dataset("tabletop", "test", limit=None)
    before = item_version(dataset, 0)
    monkeypatch.setattr(render, "RENDERER_VERSION", render.RENDERER_VERSION + 1)
    assert item_version(dataset, 0) != before


def test_every_recipe_is_described_by_its_content_alone():
    """Two builds of one recipe are the same, and no two recipes are."""
    options = {"typographic": {"words": ("cat",)}}
    found = {}
    for slug, recipe in RECIPES.items():
        if slug == "transfer":
            continue
        first, second = (digest(plain(recipe.build(**options.get(slug, {})))) for _ in range(2))
        assert first == second, slug
        found[slug] = first
    assert len(set(found.values())) == len(found)
