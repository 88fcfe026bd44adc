"""`cmai data`: Tabletop's training data, its statistics, and contact sheets of any dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmai_core.commands.parameters import Dataset, Split
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.files import atomic, check_writable, is_stdout
from cmai_core.progress import Progress
from cmai_core.terminal import progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image

Scenes = Annotated[int | None, typer.Option(help="only the first so many (default: all)")]
Workers = Annotated[int | None, typer.Option(help="processes (default: the number of cores)")]

data = typer.Typer()


@data.callback(invoke_without_command=True)
def default(context: typer.Context, scenes: Scenes = None, workers: Workers = None) -> None:
    """Make Tabletop's training data (build) or its bundled test scenes (stored), or look at a dataset."""
    if context.invoked_subcommand is None:
        build(scenes, workers)
    context.default_map = {"build": {"scenes": scenes, "workers": workers}}  # given before the name of the part


@data.command("build")
def build(scenes: Scenes = None, workers: Workers = None) -> None:
    """Generate and cache the training split; goes on where it stopped."""
    for name, value in (("scenes", scenes), ("workers", workers)):
        if value is not None and value < 1:
            raise OptionError(f"--{name} is {value}.", "Accepted: whole numbers from 1.")
    from cmai_core.training.runs import build_training_data

    with progress_bar(quiet=False, unit="scenes") as show:
        count = build_training_data(scenes, workers=workers, report=lambda done, total: show(Progress(done, total)))
    print(f"{count} training scenes are in the cache.")


@data.command("stored")
def stored(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="default: the bundled file")] = None,
    count: Annotated[int, typer.Option(help="scenes, the first ones of the test split")] = 1000,
) -> None:
    """Render the bundled part of Tabletop's test split anew, after a change of the renderer."""
    from cmai_core.training.runs import store_test_pairs

    print(f"written: {store_test_pairs(out, count)}")


@data.command("sheet")
def sheet(
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="where it is written (-: to stdout)")],
    dataset: Dataset = DEFAULT_DATASET,
    split: Split = "test",
    count: Annotated[int, typer.Option(help="pictures")] = 24,
    columns: Annotated[int, typer.Option(help="of the sheet")] = 6,
) -> None:
    """Write a contact sheet of a split as PNG."""
    if count < 1 or columns < 1:
        raise OptionError("--count and --columns must be at least 1.")
    from PIL.Image import fromarray

    from cmai_core.data import load_dataset

    check_writable(out)
    pairs = load_dataset(dataset, split=split, limit=count)
    images = [fromarray(pairs[i].image) for i in range(len(pairs))]
    with atomic(out) as temporary:
        _contact_sheet(images, columns).save(temporary, "PNG")
    if not is_stdout(out):
        print(f"{len(images)} pictures of {dataset}/{split} in {out}")


def _contact_sheet(images: Sequence[Image], columns: int, side: int = 128, gap: int = 4) -> Image:
    from PIL.Image import new

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    page = new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for i, image in enumerate(images):
        image.thumbnail((side, side))
        x, y = i % columns * (side + gap), i // columns * (side + gap)
        page.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    return page


@data.command("statistics")
def statistics(dataset: Dataset = DEFAULT_DATASET) -> None:
    """Measure the figures of a dataset's card; prints them as Markdown (minutes)."""
    text = DATASETS.find(dataset).card_figures()
    if text is None:
        raise OptionError(f"No figures of the dataset {dataset} are measured.", "Choose another.")
    print(text)
