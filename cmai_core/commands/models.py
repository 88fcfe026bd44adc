"""`cmai models`: the models that are bundled, and what else can be loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cmai_core.terminal import Table, deliver

if TYPE_CHECKING:
    from cmai_core.models.cards import ModelCard


def models(as_json: Annotated[bool, typer.Option("--json", help="the cards as JSON")] = False) -> None:
    """List the models that can be loaded."""
    from cmai_core.models import bundled_models
    from cmai_core.models.families.family import FAMILIES

    cards = bundled_models()
    if as_json:
        plain = [{"name": c.name, "defended": c.defended, "problem": c.problem, **c.card} for c in cards]
        print(json.dumps(plain, indent=2))
        return
    rows = [(card.name, _kind(card), card.problem or card.description) for card in cards]
    listed = Table(rows, head=False) if rows else "No model is bundled (make models trains them)."
    others = [(family.example, family.note) for name, family in FAMILIES.items() if name != "bundled"]
    deliver([listed, "\nBesides these:", Table(others, head=False)])


def _kind(card: ModelCard) -> str:
    return "damaged" if card.problem else "defended" if card.defended else "undefended"
