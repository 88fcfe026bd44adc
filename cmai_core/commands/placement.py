"""`cmai placement`: what a model's image tokens say of where objects stand."""

from __future__ import annotations

from typing import Annotated

import typer


def placement(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="bundled names or local-dir:FOLDER")],
    scenes: Annotated[int, typer.Option(help="validation scenes")] = 500,
) -> None:
    """Measure how well a linear map reads objects' places off a model's image tokens (R²)."""
    from cmai_core.models import load_model
    from cmai_core.training.placement import placement as measure
    from cmai_core.training.placement import validation_arrays

    arrays = validation_arrays(scenes)
    for spec in models:
        found = measure(load_model(spec), arrays, scenes)
        print(spec + ": " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
