"""`cmai answering`: verified answering fitted on clean pairs, and what it gains on others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cmai_core.commands.cmcv import folder_of
from cmai_core.commands.parameters import Dataset, Device, Json, Quiet
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.files import write_json
from cmai_core.terminal import Table, check_outputs, deliver, progress_bar

if TYPE_CHECKING:
    from cmai_core.defenses.answering_calibration import AnsweringCalibration

FORMAT = "cmai-answering/1"


def answering(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model with consistency heads")],
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="TASK...", help="(default: all whose answers are statements)"),
    ] = None,
    limit: Annotated[int, typer.Option(help="pairs; one half is fitted on, the other reported on")] = 800,
    dataset: Dataset = DEFAULT_DATASET,
    split: Annotated[str | None, typer.Option(help="of the dataset (default: its own, or validation)")] = None,
    store: Annotated[bool, typer.Option("--store", help="write the rules into the model's card")] = False,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit how answers are verified (T, γ, κ and k of each task), and say what that gains on other clean pairs."""
    if limit < 4:
        raise OptionError(f"--limit is {limit}.", "Accepted: whole numbers from 4.")
    info = DATASETS.get(dataset)
    split = split or (info and info.calibration) or "validation"
    folder = folder_of(model) if store else None
    check_outputs({"--json": json_file})
    from cmai_core.data import load_dataset
    from cmai_core.defenses.answering_calibration import store_answering
    from cmai_core.evaluation.verification.answering import calibrate_answering
    from cmai_core.models import load_model

    pairs = load_dataset(dataset, split=split, limit=limit)
    with progress_bar(quiet, unit="pairs") as show:
        found = calibrate_answering(load_model(model, device=device), pairs, tasks, progress=show)
    setting = {"dataset": dataset, "split": split, "limit": limit, "tasks": list(found.tasks)}
    document = {"format": FORMAT, "model": model, "setting": setting, "calibration": found.to_dict()}
    stored = (folder, lambda path: store_answering(found, path))
    deliver([Table(list(_rows(found)))], [stored, (json_file, lambda path: write_json(path, document))])
    return 0


def _rows(found: AnsweringCalibration) -> Iterator[tuple[str, ...]]:
    from cmai_core.evaluation.figures.export import figure_text

    yield "task", "rule", "fitted on", "right % [95 %]", "verified % [95 %]", "gain [95 %]", "of"
    for name, task in found.tasks.items():
        rule, words = task.rule, "none: it answers no more rightly"
        if rule is not None:
            words = f"k={rule.shortlist} T={rule.temperature:.3g} γ={rule.gamma:g} κ={rule.kappa:g}"
        figures = [figure_text(x.value, x.low, x.high, True) for x in (task.before, task.after, task.gain)]
        yield name, words, str(task.fitted), *figures, str(task.after.n)
