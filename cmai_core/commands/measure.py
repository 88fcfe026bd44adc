"""`cmai measure`: figures of a model that need no attack: natural shift, linear probe, latency, maps, training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.parameters import Dataset, Device, Json, Quiet, pair_limit
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.terminal import SHARE_AND_WORDS, Table, check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    import pandas as pd

Model = Annotated[str, typer.Option(help="a bundled name or an open_clip specification")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="write it as CSV here")]
Limit = Annotated[str, typer.Option(metavar="N", help="only the first so many pairs; all: every pair")]

measure = typer.Typer(help="Measure a model without attacks: natural shift, linear probe, latency, maps, training.")


@measure.command("shift")
def shift(
    model: Model = "tabletop",
    dataset: Dataset = DEFAULT_DATASET,
    tasks: Annotated[list[str] | None, typer.Option(metavar="TASK...", help="default: all that apply")] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT...", help="plain, shifted and held-out splits of the dataset (default: all)"),
    ] = None,
    limit: Limit = "500",
    device: Device = None,
    json_file: Json = None,
    csv: Csv = None,
    quiet: Quiet = False,
) -> None:
    """Accuracy on the natural variants of a dataset, paired with its plain split."""
    count = pair_limit(limit)
    check_outputs({"--json": json_file, "--csv": csv})
    from cmai_core.evaluation.figures.shift import shift_accuracy
    from cmai_core.models import load_model

    with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        loaded = load_model(model, device=device)
        found = shift_accuracy(
            loaded, tasks, count, dataset=dataset, splits=splits or None, progress=show, cancel=cancel
        )
    _deliver(found, json_file, csv)


@measure.command("probe")
def probe(
    model: Model = "tabletop",
    dataset: Dataset = DEFAULT_DATASET,
    attribute: Annotated[
        str, typer.Option(help="shape, colour, material, size, 'contains a cube' …, or label")
    ] = "shape",
    shots: Annotated[
        list[int] | None, typer.Option(metavar="K...", help="pictures of each class (default: 1 4 16)")
    ] = None,
    seeds: Annotated[int, typer.Option(help="how many draws of pictures")] = 5,
    train: Annotated[str, typer.Option(help="split that the probe is fitted on")] = "train",
    test: Annotated[str, typer.Option(help="split that it is scored on")] = "test",
    limit: Limit = "1000",
    device: Device = None,
    json_file: Json = None,
    csv: Csv = None,
) -> None:
    """Accuracy of a linear probe on the frozen image embeddings, fitted to a few pictures of each class."""
    count = pair_limit(limit)
    check_outputs({"--json": json_file, "--csv": csv})
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.figures.probe import few_shot_probe
    from cmai_core.models import load_model

    known, unknown = (load_dataset(dataset, split=split, limit=count) for split in (train, test))
    loaded = load_model(model, device=device)
    _deliver(few_shot_probe(loaded, known, unknown, attribute, shots or (1, 4, 16), seeds=seeds), json_file, csv)


@measure.command("latency")
def latency(
    model: Model = "tabletop",
    dataset: Dataset = DEFAULT_DATASET,
    task: Annotated[str | None, typer.Option(help="asked about the pictures (default: embeddings only)")] = None,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-sizes", metavar="N...", help="pictures at a time (default: 1 8 32)")
    ] = None,
    repeats: Annotated[int, typer.Option(help="batches timed")] = 20,
    device: Device = None,
    json_file: Json = None,
    csv: Csv = None,
) -> None:
    """Wall time of answering about a picture, by batch size."""
    check_outputs({"--json": json_file, "--csv": csv})
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.figures.latency import latency as time_answers
    from cmai_core.models import load_model
    from cmai_core.tasks import get_task

    sizes = tuple(batch_sizes or (1, 8, 32))
    info = DATASETS.get(dataset)
    pairs = load_dataset(dataset, split="test" if info is None else info.usual, limit=max(1, *sizes))
    every = [pairs[k] for k in range(len(pairs))]
    asked: dict[str, Any] = {} if task is None else {"task": get_task(task), "pairs": every, "dataset": pairs}
    loaded = load_model(model, device=device)
    found = time_answers(loaded, [pair.image for pair in every], sizes, repeats=repeats, **asked)
    _deliver(found, json_file, csv)


@measure.command("explanation")
def explanation(
    model: Model = "tabletop",
    dataset: Dataset = "tabletop",
    method: Annotated[
        str, typer.Option(help="relevance, grad-cam, integrated-gradients, attention-flow or last-layer-attention")
    ] = "relevance",
    limit: Limit = "8",
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    device: Device = None,
    json_file: Json = None,
    csv: Csv = None,
) -> None:
    """How far maps of S_c can be trusted: faithfulness against chance, stability, and weights made random."""
    count = pair_limit(limit)
    check_outputs({"--json": json_file, "--csv": csv})
    from cmai_core.data import load_dataset
    from cmai_core.explanations.quality import explanation_quality
    from cmai_core.models import load_model

    pairs = load_dataset(dataset, split="test", limit=count)
    _deliver(explanation_quality(load_model(model, device=device), pairs, method, seed=seed), json_file, csv)


@measure.command("training")
def training(json_file: Json = None, csv: Csv = None) -> None:
    """Say what the trainings of the bundled models took, beside the model that each started from."""
    check_outputs({"--json": json_file, "--csv": csv})
    from cmai_core.evaluation.figures.latency import training_overhead

    _deliver(training_overhead(), json_file, csv)


def _deliver(found: pd.DataFrame, json_file: Path | None, csv: Path | None) -> None:
    from cmai_core.evaluation.figures import export

    rows = [list(found.columns), *found.itertuples(index=False, name=None)]
    write: list[tuple[Path | None, Callable[..., Any]]] = [(json_file, export.to_json), (csv, export.to_csv)]
    deliver(Table([[_text(v) for v in row] for row in rows]), [(path, partial(form, found)) for path, form in write])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value) or "–"
