"""The protocol on paper is the one in code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmai_core.comparison.protocol import PROTOCOL, RIVALS, markdown
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.training.recipes import RECIPES

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_document_is_what_the_command_prints():
    assert DOCUMENT.read_text(encoding="utf-8") == markdown()
    assert PROTOCOL.hash in markdown()


def test_the_hash_covers_the_terms():
    assert replace(PROTOCOL, pairs=1).hash != PROTOCOL.hash
    assert replace(PROTOCOL, recipes=PROTOCOL.recipes[1:]).hash != PROTOCOL.hash
    assert replace(PROTOCOL, parts=PROTOCOL.parts[:-1]).hash != PROTOCOL.hash
    assert replace(PROTOCOL).hash == PROTOCOL.hash


def test_a_later_setting_counts_where_it_is_used(monkeypatch):
    inner = replace(RECIPES["mbat"].inner, text_losses={"caption": 1.0})
    before = PROTOCOL.hash
    assert "text_losses" not in PROTOCOL.to_dict()["settings"]["mbat"]["inner"]
    monkeypatch.setitem(RECIPES._parts, "mbat", replace(RECIPES["mbat"], inner=inner))
    assert PROTOCOL.hash != before


def test_every_defence_is_compared_or_is_a_base():
    first = {name for name, recipe in RECIPES.items() if recipe.start in ("tabletop", "tabletop-b")}
    assert set(PROTOCOL.recipes) | set(RIVALS) == first
    assert all(RECIPES[name].pairs == PROTOCOL.pairs for name in (*PROTOCOL.recipes, *RIVALS))


@pytest.mark.parametrize("part", PROTOCOL.parts, ids=lambda part: part.name)
def test_the_attacks_can_be_run(part):
    models = part.sources or ("tabletop",)
    grid = Grid(models=models, tasks=part.tasks, recipes=part.recipes, epsilons=part.epsilons)
    assert len(grid.entries) == len(part.recipes)
    assert PROTOCOL.part(part.name) is part
