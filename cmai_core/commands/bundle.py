"""`cmai bundle`: a finished training becomes a bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmai_core.errors import OptionError


def bundle(
    source: Annotated[Path | None, typer.Argument(help="model folder of a finished training")] = None,
    name: Annotated[str | None, typer.Argument(help="name of the bundled model")] = None,
    limit: Annotated[int, typer.Option(help="test scenes for the clean figures and the gallery")] = 1000,
    attacked: Annotated[int, typer.Option(help="how many of them are attacked")] = 200,
    heads: Annotated[
        Path | None, typer.Option(help="model folder of a training of heads alone on the same towers")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="on the test split (bases, not what is compared)")] = False,
    cards: Annotated[bool, typer.Option("--cards", help="print all cards as Markdown")] = False,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="write down the hashes of the bundled models' files")
    ] = False,
) -> None:
    """Bundle a trained model with its card."""
    if name is None and (source is not None or not (cards or hashes)):
        raise OptionError("There is nothing to bundle.", "Give a model folder and a name, --cards or --hashes.")
    from cmai_core.training import bundle as bundling

    if source is not None and name is not None:
        bundling.bundle(source, name, limit=limit, attacked=attacked, heads=heads, measured=measure)
    if hashes:
        bundling.record_all()
    if cards:
        print(bundling.cards_markdown(), end="")
