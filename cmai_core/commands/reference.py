"""`cmai reference`: where the threshold of an adaptive training is read off."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def reference(
    model: Annotated[
        str, typer.Argument(help="a model with consistency heads, such as local-dir:runs/cmcv-mbat/model")
    ],
    recipe: Annotated[str, typer.Option(help="whose reference attack")] = "cmai",
) -> None:
    """Measure what ARM's reference attack leaves of S_c, from which its threshold is read off."""
    from cmai_core.training.reference import reference_figures

    print(json.dumps(reference_figures(model, recipe)))
