"""`cmai evaluate-clean`: the tasks on pairs that nobody attacked."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cmai_core.commands.parameters import Dataset, Device, Json, Split, pair_limit
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.files import is_stdout, write_json
from cmai_core.terminal import check_outputs, deliver


def evaluate_clean(
    model: Annotated[str, typer.Option(help="a bundled name or an open_clip specification")] = "tabletop",
    dataset: Dataset = DEFAULT_DATASET,
    split: Split = "test",
    limit: Annotated[str, typer.Option(metavar="N", help="only the first so many pairs; all: every pair")] = "1000",
    tasks: Annotated[list[str] | None, typer.Option("--task", help="only this one; may be repeated")] = None,
    device: Device = None,
    json_file: Json = None,
) -> None:
    """Measure the tasks on unattacked pairs."""
    count = pair_limit(limit)
    check_outputs({"--json": json_file})
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated
    from cmai_core.tasks import evaluate_clean as measure

    pairs = load_dataset(dataset, split=split, limit=count)
    loaded = load_model(model, device=device)
    warn_truncated(loaded, pairs)
    figures = measure(loaded, pairs, tasks or None)
    text = "" if is_stdout(json_file) else json.dumps(figures, indent=1)
    deliver(text, [(json_file, lambda path: write_json(path, figures))])
