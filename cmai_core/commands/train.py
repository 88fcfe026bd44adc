"""`cmai train`: one training of a recipe, which goes on where it stopped."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.parameters import Device, Threads
from cmai_core.commands.tree import ARGUMENTS
from cmai_core.errors import OptionError
from cmai_core.progress import Progress
from cmai_core.terminal import interruptible, resumable

if TYPE_CHECKING:
    from cmai_core.training.settings import Recipe
    from cmai_core.training.trainer import RunOptions, TrainingResult


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="what is trained: a name of docs/defenses.md")],
    out: Annotated[
        str | None,
        typer.Option(help="folder of checkpoint, log and model; goes on where it stopped (default: runs/RECIPE)"),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="model to fine-tune, e.g. local-dir:runs/base/model (default: the recipe's)"),
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="image-caption pairs to see (default: the recipe's)")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="time budget instead, fixed to pairs after the first steps")
    ] = None,
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    device: Device = None,
    threads: Threads = None,
    batch: Annotated[int | None, typer.Option(help="scenes a step")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (default: the recipe's)")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="another setting of the recipe, for ablations: inner.beta=0, weights.hard=0.5 (may be repeated)",
        ),
    ] = None,
    scenes: Annotated[int | None, typer.Option(help="use only the first so many training scenes")] = None,
    validate_every: Annotated[int, typer.Option(help="steps between validations, 0: at the end only")] = 1000,
    checkpoint_minutes: Annotated[float, typer.Option(help="between checkpoints")] = 5.0,
    restart: Annotated[bool, typer.Option("--restart", help="start anew even if the folder holds a training")] = False,
) -> None:
    """Train a recipe on Tabletop."""
    if pairs is not None and minutes is not None:
        raise OptionError("--pairs and --minutes are two lengths.", "Give one of them.")
    from cmai_core.training.recipes import get_recipe
    from cmai_core.training.trainer import RunOptions

    given = {"batch": batch, "learning_rate": lr, "precision": precision}
    given = {name: value for name, value in given.items() if value is not None}
    row = get_recipe(recipe, **given, **dict(_change(text) for text in changes or ()))
    options = RunOptions(
        pairs=pairs,
        minutes=minutes,
        validate_every=validate_every,
        checkpoint_minutes=checkpoint_minutes,
        restart=restart,
        command=" ".join(("cmai train", *context.meta[ARGUMENTS])),
    )
    where = {"out_dir": out or f"runs/{recipe}", "base": base, "seed": seed, "device": device}
    with resumable("the same command goes on from the checkpoint."):
        result = _trained(row, options, threads=threads, scenes=scenes, **where)
    found = {"model": str(result.model_dir), "pairs": result.pairs, "seconds": round(result.seconds)}
    print(json.dumps({**found, **result.results}))


def _change(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as JSON or as it stands."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise OptionError(f"--set {text!r} is not NAME=VALUE.", "Accepted: for example inner.beta=0.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _trained(recipe: Recipe, options: RunOptions, **where: Any) -> TrainingResult:
    """Run the training with a progress bar, data and validations said above it."""
    from tqdm import tqdm

    from cmai_core.training.runs import run

    bar = tqdm(unit=" pairs", unit_scale=True, smoothing=0.1, mininterval=1.0)
    # Ctrl+C stops between two steps; several processes would wait for the one that stopped first.
    stop = nullcontext() if "WORLD_SIZE" in os.environ else interruptible()
    with bar, stop as cancel:

        def show(state: Progress) -> None:
            bar.total = state.total or None
            bar.set_postfix_str(state.stage, refresh=False)
            bar.update(state.done - bar.n)

        def data(done: int, total: int) -> None:
            bar.write(f"data: {done} of {total} scenes")
            if cancel is not None:
                cancel.check()

        def tell(entry: dict) -> None:
            figures = entry.get("validation")
            if figures:
                bar.write(json.dumps({"step": entry["step"], **figures}))

        return run(recipe, **where, options=options, progress=show, cancel=cancel, on_log=tell, on_data=data)
