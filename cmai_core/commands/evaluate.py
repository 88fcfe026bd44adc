"""`cmai evaluate`: a grid from options or a file, its cost, its run, its table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.parameters import Device, Json, Quiet, pair_limit
from cmai_core.data.registry import DEFAULT_DATASET, dataset_words
from cmai_core.errors import CmaiWarning, OptionError
from cmai_core.evaluation.figures.registry import FIGURES, SUMMARY, figure_table
from cmai_core.files import write_json
from cmai_core.progress import Progress
from cmai_core.tasks import DEFAULT_TASK, TASKS
from cmai_core.terminal import (
    SHARE_AND_WORDS,
    Table,
    check_outputs,
    deliver,
    interruptible,
    progress_bar,
    read_object,
)

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.evaluation.runs.grid import Grid

_TEXTS = ("models", "tasks", "recipes", "sources")
_PLAIN = ("epsilons", "seeds", "dataset", "split", "captions", "gallery", "batch_size", "validation")


def evaluate(
    spec: Annotated[
        Path | None, typer.Option(metavar="FILE", help="read the grid from a JSON file; options add")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL...", help="attacked, and shown each other's examples (default: tabletop)"),
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option(metavar="MODEL...", help="attack only these of the models (default: all)")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK...", help=f"{', '.join(TASKS)} (default: {DEFAULT_TASK})"),
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[RECIPE...]",
            help="of cmai recipes, also as pgd:steps=50,norm=l2, or name@module:function (default: pgd)",
        ),
    ] = None,
    epsilons: Annotated[list[float] | None, typer.Option(metavar="E...", help="in units of 1/255 (default: 4)")] = None,
    dataset: Annotated[str | None, typer.Option(help=f"{dataset_words()} (default: {DEFAULT_DATASET})")] = None,
    split: Annotated[str | None, typer.Option(help="default: test")] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="only the first so many items (default: 64); all: every item")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option(metavar="SEED...", help="of the random starts (default: 0)")
    ] = None,
    captions: Annotated[int | None, typer.Option(help="texts taken of each item (default: 1)")] = None,
    gallery: Annotated[
        int | None,
        typer.Option(metavar="N", help="captions to retrieve from (default: as many as items, at least 200)"),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="RECIPE:KEY=VALUE", help="of a recipe, as in cmai attack; may be repeated"),
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="worst case only: cheap recipes first, then survivors")
    ] = False,
    no_transfer: Annotated[bool, typer.Option("--no-transfer", help="show examples to their source only")] = False,
    validation: Annotated[
        int | None, typer.Option(metavar="N", help="clean items that thresholds are set on (default: 200)")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="items attacked together (default: 32)")] = None,
    device: Device = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where results are kept and found again (default: your data folder)"),
    ] = None,
    figures: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE...", help=f"tables to print and write: {', '.join(FIGURES)} (default: summary)"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="only say what it would cost")] = False,
    json_file: Json = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write the table here")] = None,
    latex: Annotated[Path | None, typer.Option(metavar="FILE", help="write the table here")] = None,
    quiet: Quiet = False,
) -> int:
    """Measure models under a grid of attacks; goes on where it stopped."""
    from cmai_core.evaluation.store.store import default_folder

    grid = grid_of(locals())
    names = figures or [SUMMARY]
    for name in names:
        FIGURES.find(name)
    folder = store or default_folder()
    check_outputs({"--json": json_file, "--csv": csv, "--latex": latex})
    if plan:
        if csv or latex:
            warnings.warn("--csv and --latex are written by the run, not with --plan", CmaiWarning, stacklevel=2)
        say_plan(grid, folder, device, json_file)
        return 0
    return run_grid(grid, folder, device, quiet, {"json": json_file, "csv": csv, "latex": latex}, names)


def grid_of(given: Mapping[str, Any]) -> Grid:
    """Make the grid of a file, where one is given, and of the command's options, which win.

    Args:
        given: option → value, as `evaluate` takes them.

    Raises:
        OptionError, DataError: a value, or a file, that is not accepted.
    """
    from cmai_core.evaluation.runs.grid import Grid

    spec = given["spec"]
    values = read_object(spec, "grid", 'Give an object such as {"recipes": ["pgd"]}.') if spec else {}
    values |= {name: list(filter(None, given[name])) for name in _TEXTS if given[name] is not None}
    values |= {name: given[name] for name in _PLAIN if given[name] is not None}
    if given["cascade"]:
        values["cascade"] = True
    if given["no_transfer"]:
        values["transfer"] = False
    if given["limit"] is not None:
        values["limit"] = pair_limit(given["limit"])
    if given["options"]:
        values["options"] = _with_options(dict(values.get("options") or {}), given["options"])
    return Grid.from_dict(values)


def _with_options(known: dict[str, Any], texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Add "RECIPE:KEY=VALUE" texts to the options of recipes."""
    from cmai_core.evaluation.runs.entries import key_value

    options = {name: dict(given) for name, given in known.items()}
    for text in texts:
        recipe, colon, rest = text.partition(":")
        if not colon:
            raise OptionError(f"--option {text!r} is not RECIPE:KEY=VALUE.", "Accepted: for example pgd:steps=50.")
        name, value = key_value(rest)
        options.setdefault(recipe, {})[name] = value
    return options


def say_plan(grid: Grid, folder: Path, device: str | None, json_file: Path | None) -> None:
    """Print what the grid would cost, and write it to a file where one is given."""
    from cmai_core.evaluation.runs.cost import cost
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.evaluation.store.store import DATABASE, Store

    stored = Store.read(folder) if (folder / DATABASE).is_file() else None
    try:
        _say_cost(cost(Setting(grid, device=device), stored), json_file)
    finally:
        if stored is not None:
            stored.close()


def run_grid(
    grid: Grid,
    folder: Path,
    device: str | None,
    quiet: bool,
    files: Mapping[str, Path | None],
    figures: Sequence[str] = (SUMMARY,),
) -> int:
    """Run a grid and deliver its table; return the exit status (130: interrupted, with what was there until then).

    Args:
        files: "json", "csv" and "latex" → where the table is written, None: not.
        figures: what the table holds, of `figures.registry.FIGURES`.
    """
    from cmai_core.evaluation.figures import export
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.evaluation.store.store import Store

    with Store.write(folder) as store:  # before models are loaded: a store that cannot be used is said at once
        setting = Setting(grid, device=device)
        with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS, words=_stage) as show:
            report = run(setting, store, progress=show, cancel=cancel)
        frame = predictions.frame(store, report.plan)
    table = figure_table(frame, figures, frame.attrs["epsilons"])
    write: dict[str, Callable[..., Any]] = {"json": export.to_json, "csv": export.to_csv, "latex": export.to_latex}
    try:
        deliver(_table(table), [(path, partial(write[form], table)) for form, path in files.items()])
    finally:
        _say_end(report, folder)
        _say_checks(report, frame)
    return 130 if report.cancelled else 0


def _say_cost(found: Any, json_file: Path | None) -> None:
    lines = []
    for entry in found.cells:
        cell = entry.cell
        budget = "" if cell.epsilon is None else f"{cell.norm} {cell.epsilon:g}"
        done, time = f"{entry.stored} of {entry.items} stored", _time(entry.seconds)
        lines.append(f"{cell.source}  {cell.task or '–'}  {cell.recipe}  {budget}  seed {cell.seed}  {done}  {time}")
    for cell in found.plan.cells:
        if cell.skipped:
            lines.append(f"skipped: {cell.source}  {cell.task or '–'}  {cell.recipe}: {cell.skipped}")
    basis = "from this store's own timings" if found.measured else "before anything was measured"
    most = "at most " if found.plan.grid.cascade else "about "
    time = f"{most}{_time(found.seconds)}, {basis}"
    lines.append(f"{len(found.cells)} cells, {time}; {found.clean} clean predictions to come.")
    deliver("\n".join(lines), [(json_file, lambda path: write_json(path, found.to_dict()))])


def _table(table: pd.DataFrame) -> Table:
    """Return the table for people, shares with their counts."""
    import pandas as pd

    from cmai_core.evaluation.figures.export import figure_text, is_share

    rows = [("target", "task", "source", "recipe", "budget", "metric", "value [95 %]", "of")]
    texts = ["target", "task", "source", "recipe", "norm"]
    given = table.reindex(columns=[*texts, "epsilon", "metric", "value", "low", "high", "hits", "total"])
    given[texts] = given[texts].astype(object).where(given[texts].notna(), "")
    for row in given.itertuples(index=False):
        budget = "" if pd.isna(row.epsilon) else f"{row.norm} {row.epsilon:g}"
        value = figure_text(row.value, row.low, row.high, is_share(row.metric)) or "–"
        count = "" if pd.isna(row.total) or pd.isna(row.hits) else f"{row.hits:g}/{row.total:g}"
        rows.append((row.target, row.task or "–", row.source, row.recipe, budget, row.metric, value, count))
    return Table([[str(text) for text in row] for row in rows])


def _say_end(report: Any, folder: Path) -> None:
    say = [
        f"run {report.run} in {folder}: {report.attacked} examples made, {report.shown + report.clean} predictions made"
    ]
    say[0] += f", {_time(report.seconds)}"
    for cell in report.plan.cells:
        reason = cell.skipped or report.failed.get(cell.address)
        if reason:
            kind = "skipped" if cell.skipped else "failed"
            say.append(f"{kind}: {cell.recipe}, {cell.task or 'no task'}, on {cell.source}: {reason}")
    if report.cancelled:
        say.append("Interrupted: the table has what was there until then; the same command goes on.")
    print("\n".join(say), file=sys.stderr)


def _say_checks(report: Any, frame: Any) -> None:
    """Say on stderr what the self-checks of the predictions find amiss; `cmai check` shows all of them."""
    from cmai_core.evaluation.checks import check_predictions
    from cmai_core.evaluation.checks import report as written

    if not len(frame):
        return
    cells = [cell for cell in report.plan.cells if cell.skipped]
    found = check_predictions(frame, [(cell.source, cell.task, cell.recipe) for cell in cells])
    amiss = [check for check in found if check.status in ("warn", "fail")]
    made = [check for check in found if check.status != "skipped"]
    print(f"self-checks: {len(made) - len(amiss)} of {len(made)} pass", file=sys.stderr)
    if amiss:
        print(written(amiss), file=sys.stderr)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _stage(progress: Progress) -> str:
    """Return what is done now, and the time that is left by the runner's own count."""
    cells = f"cell {progress.data['cells']}, " if "cells" in progress.data else ""
    return f"{cells}{progress.stage}, {_time(progress.data.get('eta'))} left"
