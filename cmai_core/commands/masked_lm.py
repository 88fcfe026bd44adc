"""`cmai masked-lm`: trains the masked language model that proposes words to text attacks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cmai_core.progress import Progress


def masked_lm(
    steps: Annotated[int, typer.Option(help="of the training")] = 3000,
    scenes: Annotated[int, typer.Option(help="whose captions are learned from")] = 4000,
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="where it is written (default: the bundled one)")
    ] = None,
) -> None:
    """Train the bundled masked language model anew."""
    from cmai_core.attacks.text_searches.masked_lm import folder, save_masked_lm
    from cmai_core.models.integrity import record
    from cmai_core.training.masked_lm import train_masked_lm

    start = time.perf_counter()

    def show(update: Progress) -> None:
        print(f"\r{update.done}/{update.total} loss {update.data['loss']:.3f}", end="", flush=True)

    model, report = train_masked_lm(steps=steps, scenes=scenes, seed=seed, progress=show)
    path = save_masked_lm(model, output or folder(), {"steps": steps, "scenes": scenes, "seed": seed, **report})
    if output is None:
        record(path)
    size = (path / "model.safetensors").stat().st_size
    print(f"\n{report} in {time.perf_counter() - start:.0f} s; {size / 1e6:.2f} MB written to {path}")
