"""`cmai trace`: where an attack enters a model, by activation patching over many pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.parameters import Dataset, Device, Json, Quiet
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.files import write_json
from cmai_core.tasks import TASKS
from cmai_core.terminal import SHARE_AND_WORDS, Table, check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    from cmai_core.explanations.causal import MeanTrace
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.progress import CancelToken, ProgressCallback

MOST = 500


def trace(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="bundled names or open_clip specifications")],
    pairs: Annotated[int, typer.Option(help=f"pairs attacked, 1 to {MOST}")] = 50,
    dataset: Dataset = DEFAULT_DATASET,
    task: Annotated[str, typer.Option(help="whose answer is traced: retrieval, zero-shot or vqa")] = "retrieval",
    recipe: Annotated[str, typer.Option(metavar="NAME", help="the attack on the picture, of cmai recipes")] = "pgd",
    epsilon: Annotated[float, typer.Option(help="budget in units of 1/255")] = 4.0,
    seed: Annotated[int, typer.Option(help="of the attack and of the random sets")] = 0,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> None:
    """Trace where an attack enters each model: patch states of the clean run into the attacked one, and back."""
    if not 1 <= pairs <= MOST:
        raise OptionError(f"--pairs is {pairs}.", f"It lies between 1 and {MOST}.")
    check_outputs({"--json": json_file})
    from cmai_core.models import load_model

    info = DATASETS.get(dataset)
    setting = {
        "pairs": pairs,
        "dataset": dataset,
        "split": "test" if info is None else info.usual,
        "task": task,
        "recipe": recipe,
        "epsilon": epsilon,
        "seed": seed,
    }
    with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        found = [_traced(load_model(spec, device=device), setting, show, cancel) for spec in models]
    report = {"setting": setting, "models": [made.to_dict() for made in found]}
    deliver(
        [part for made in found for part in (_summary(made), _table(made))],
        [(json_file, lambda path: write_json(path, report))],
    )


def _traced(
    model: VisionLanguageModel, setting: dict[str, Any], show: ProgressCallback, cancel: CancelToken
) -> MeanTrace:
    """Attack the pairs, each with the model as a white box, and trace what came of it."""
    import torch

    from cmai_core.attacks.attack_spec import AttackSpec
    from cmai_core.budget import Budget
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.runs.attacked import attack_batch
    from cmai_core.evaluation.runs.predictor import make_batch
    from cmai_core.explanations.causal import trace_pairs
    from cmai_core.tasks import get_task
    from cmai_core.tasks.base import ChoiceTask

    asked = get_task(setting["task"])
    if not isinstance(asked, ChoiceTask) or TASKS[setting["task"]].pictures != 1:
        raise OptionError(f"{setting['task']} is not traced.", "Choose retrieval, zero-shot or vqa.")
    items = load_dataset(setting["dataset"], split=setting["split"], limit=setting["pairs"])
    if reason := asked.applies_to(items, model):
        raise OptionError(f"The task {setting['task']} does not apply.", reason)
    chosen = [items[k] for k in range(len(items))]
    spec = AttackSpec(recipe=setting["recipe"], budget=Budget("linf", setting["epsilon"]), seed=setting["seed"])
    attack = spec.build(asked, items, value_count=3 * model.image_size**2)
    shown = []
    for start in range(0, len(chosen), 32):
        batch = make_batch(model, chosen[start : start + 32], 1)
        _, examples = attack_batch(attack, model, batch, seed=setting["seed"], progress=show, cancel=cancel)
        shown.append(model.preprocess(list(examples.images)))
    generator = torch.Generator().manual_seed(setting["seed"])
    return trace_pairs(model, asked, chosen, torch.cat(shown), items, generator=generator, progress=show, cancel=cancel)


def _summary(made: MeanTrace) -> str:
    """Return what was traced, and what was found, in two sentences."""
    counts = (
        f"{made.model}: {made.traced} of {made.pairs} pairs traced; {made.held} not fooled, {made.small} by too little."
    )
    if made.entry is None or made.agreement is None or made.error is None:
        return counts
    return (
        f"{counts}\nClean patches bring back less than half from layer {made.entry.value:.1f} on "
        f"[{made.entry.low:.1f}, {made.entry.high:.1f}]. Attribution patching: rank correlation "
        f"{made.agreement.value:.2f}, mean error {made.error.value:.3f}."
    )


def _table(made: MeanTrace) -> Table:
    header = ["direction", "state", "layer", "effect", "95% interval", "random patches", "pairs"]
    rows = [
        [
            row["direction"],
            row["state"],
            str(row["layer"]),
            f"{row['effect']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            "" if row["random"] is None else f"{row['random']:.3f}",
            str(row["pairs"]),
        ]
        for row in made.rows()
    ]
    return Table([header, *rows])
