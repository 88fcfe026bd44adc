"""`cmai recipes`: the named attacks."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cmai_core.errors import OptionError
from cmai_core.terminal import Table, deliver


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="with constants, options and links, as JSON")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the table of docs/attacks.md")] = False,
) -> None:
    """List the named attacks: threat, knowledge, modality, paper."""
    from cmai_core.attacks.recipes.registry import RECIPES

    if as_json and markdown:
        raise OptionError("--json and --markdown are two forms of one list.", "Give one of them.")
    if as_json:
        print(json.dumps([recipe.describe() for recipe in RECIPES.values()], indent=2))
        return
    rows = [("name", "threat", "knowledge", "modality", "paper")]
    lines = ["| name | what | threat | knowledge | paper |", "|---|---|---|---|---|"]
    for r in RECIPES.values():
        threat = f"{r.threat} ({r.norm})" if r.norm else r.threat
        paper = f"[{r.citation}]({r.url})" if r.url else r.citation
        rows.append((r.slug, threat, r.knowledge, r.modality, r.citation))
        lines.append(f"| `{r.slug}` | {r.title} | {threat} | {r.knowledge} | {paper} |")
    deliver("\n".join(lines) if markdown else Table(rows))
