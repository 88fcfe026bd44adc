"""`cmai attack`: one attack on the pairs of a dataset, and its report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.budget import NORMS
from cmai_core.commands.parameters import Device, Json, Quiet, pair_limit
from cmai_core.data.registry import DEFAULT_DATASET, dataset_words
from cmai_core.errors import OptionError
from cmai_core.files import check_folder, write_json
from cmai_core.tasks import DEFAULT_TASK, TASKS
from cmai_core.terminal import SHARE_AND_TIME, check_outputs, deliver, interruptible, progress_bar, read_object

if TYPE_CHECKING:
    from cmai_core.evaluation.runs.experiment import AttackExperiment


def attack(
    spec: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="read the experiment from a report (or its `experiment`); options add"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="crafted on: a bundled name or an open_clip specification (default: tabletop)"),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target-model", help="shown the same pictures (transfer); may be repeated"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"{dataset_words()} (default: {DEFAULT_DATASET})"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="default: test")] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="only the first so many pairs (default: 64); all: every pair")
    ] = None,
    captions: Annotated[int | None, typer.Option(help="texts taken of each pair (default: 1)")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="a named attack of cmai recipes (default: PGD as the options below say)"),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="of the recipe, in its own units (VALUE as JSON, a fraction such as 1/255, or a word); "
            "may be repeated",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"judged, and attacked: {', '.join(TASKS)} (default: {DEFAULT_TASK})"),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"what is raised: {', '.join(OBJECTIVES)}; on texts consistency or task (default: task, or the "
            "recipe's own)"
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="weight of the task's loss in both (default: 1)")] = None,
    beta: Annotated[float | None, typer.Option(help="weight of S_c in both (default: 1)")] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(NORMS)}, where the recipe goes with it; l2: root mean square change per pixel value "
            "(default: linf, or the recipe's own)"
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="budget in units of 1/255; l0: pixels, patch: share of the area (default: the recipe's usual, or 4)"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="gradient steps (default: 20, or the recipe's own, as with all that follows)")
    ] = None,
    step_size: Annotated[float | None, typer.Option(help="in units of 1/255 (default: 2.5*epsilon/steps)")] = None,
    restarts: Annotated[int | None, typer.Option(help="random starts, the best of which is kept (default: 1)")] = None,
    momentum: Annotated[float | None, typer.Option(help="0 to 1 (default: 0)")] = None,
    no_random_start: Annotated[bool, typer.Option("--no-random-start", help="start at the clean image")] = False,
    stop_on_success: Annotated[
        bool, typer.Option("--stop-on-success", help="leave a pair alone once its prediction is wrong")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="of the random starts (default: 0)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="pairs attacked together (default: 32)")] = None,
    device: Device = None,
    json_file: Json = None,
    save_images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write the adversarial images as PNG")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Attack the pairs of a dataset, by PGD or a recipe, and report per-sample results."""
    experiment = experiment_of(locals())
    if save_images and experiment.modality == "text":
        raise OptionError(f"The recipe {experiment.recipe} changes no picture.", "Leave out --save-images.")
    check_outputs({"--json": json_file})
    if save_images:
        check_folder(save_images)
    from cmai_core.evaluation.runs.attack_run import run_experiment

    with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_TIME) as show:
        report = run_experiment(experiment, progress=show, cancel=cancel, device=device)

    def save(folder: Path) -> None:
        paths = report.result.save(folder)
        for sample, path in zip(report.data["samples"], paths, strict=True):
            sample["image"] = path.name

    deliver(str(report), [(save_images, save), (json_file, lambda path: write_json(path, report.data))])
    if report.data["cancelled"]:
        print("Interrupted: what was found until then is reported.", file=sys.stderr)
        return 130
    return 0


def experiment_of(given: Mapping[str, Any]) -> AttackExperiment:
    """Make the experiment of a file, where one is given, and of the command's options, which win.

    Args:
        given: option → value, as `attack` takes them.

    Raises:
        DataError, OptionError: a file, or a value, that is not accepted.
    """
    from cmai_core.evaluation.runs.entries import key_value
    from cmai_core.evaluation.runs.experiment import AttackExperiment

    spec, options = given["spec"], given["options"] or ()
    values = read_object(spec, "experiment", "Give a file that cmai attack --json wrote.") if spec else {}
    chosen = {field.name: given[field.name] for field in fields(AttackExperiment) if field.name in given}
    chosen["random_start"] = False if given["no_random_start"] else None
    chosen["stop_on_success"] = given["stop_on_success"] or None
    values |= {name: value for name, value in chosen.items() if value is not None and name != "options"}
    if given["limit"] is not None:
        values["limit"] = pair_limit(given["limit"])
    if options:
        values["options"] = dict(values.get("options") or {}) | dict(key_value(text) for text in options)
    return AttackExperiment.from_dict(values)
