"""The command `cmai evaluate`: a grid from options or a file, its cost, its run, its table."""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from cmai_core.errors import CmaiWarning, OptionError
from cmai_core.files import write_json
from cmai_core.progress import Progress
from cmai_core.terminal import SHARE_AND_WORDS, check_outputs, deliver, interruptible, progress_bar, read_object

_LISTS = ("models", "tasks", "recipes", "epsilons", "seeds", "sources")
_PLAIN = ("dataset", "split", "captions", "gallery", "batch_size", "validation", "transfer", "cascade")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `cmai evaluate`; defaults are those of `Grid`."""
    from cmai_core.data.registry import dataset_words
    from cmai_core.tasks import DEFAULT_TASK, TASKS

    add = command.add_argument
    add("--spec", type=Path, metavar="FILE", help="read the grid from a JSON file; options add")
    add("--models", nargs="+", metavar="MODEL", help="attacked, and shown each other's examples (default: tabletop)")
    add("--sources", nargs="+", metavar="MODEL", help="attack only these of the models (default: all)")
    add("--tasks", nargs="+", metavar="TASK", help=f"{', '.join(TASKS)} (default: {DEFAULT_TASK})")
    add(
        "--recipes",
        nargs="*",
        metavar="RECIPE",
        help="of cmai recipes, also as pgd:steps=50,norm=l2, or name@module:function (default: pgd)",
    )
    add("--epsilons", nargs="+", type=float, metavar="E", help="in units of 1/255 (default: 4)")
    add("--dataset", help=dataset_words())
    add("--split", help="default: test")
    add("--limit", metavar="N", help="only the first so many items (default: 64); all: every item")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="of the random starts (default: 0)")
    add("--captions", type=int, help="texts taken of each item (default: 1)")
    add("--gallery", type=int, metavar="N", help="captions to retrieve from (default: as many as items, at least 200)")
    add(
        "--option",
        dest="options",
        action="append",
        metavar="RECIPE:KEY=VALUE",
        help="of a recipe, as in cmai attack; may be repeated",
    )
    add("--cascade", action="store_true", default=None, help="worst case only: cheap recipes first, then survivors")
    add("--no-transfer", dest="transfer", action="store_false", default=None, help="show examples to their source only")
    add("--validation", type=int, metavar="N", help="clean items that thresholds are set on (default: 200)")
    add("--batch-size", type=int, help="items attacked together (default: 32)")
    add("--device", help="cpu or cuda (default: cuda if there is one)")
    add(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="where results are kept and found again (default: your data folder)",
    )
    add("--plan", action="store_true", help="only say what it would cost")
    add("--json", type=Path, metavar="FILE", help="write the table here (-: to stdout)")
    add("--csv", type=Path, metavar="FILE", help="write the table here")
    add("--latex", type=Path, metavar="FILE", help="write the table here")
    add("--quiet", action="store_true", help="no progress bar")


def grid_of(args: argparse.Namespace) -> Any:
    """The grid that the command line asks for.

    Raises:
        OptionError, DataError: a value, or a file, that is not accepted.
    """
    from cmai_core.evaluation.runs.entries import key_value
    from cmai_core.evaluation.runs.grid import Grid

    values = read_object(args.spec, "grid", 'Give an object such as {"recipes": ["pgd"]}.') if args.spec else {}
    for name in (*_LISTS, *_PLAIN):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    if args.limit is not None:
        if args.limit != "all" and not args.limit.isdecimal():
            raise OptionError(f"--limit is {args.limit}.", "Accepted: whole numbers from 1, or all.")
        values["limit"] = None if args.limit == "all" else int(args.limit)
    if args.options:
        options = {name: dict(given) for name, given in dict(values.get("options") or {}).items()}
        for text in args.options:
            recipe, colon, rest = text.partition(":")
            if not colon:
                raise OptionError(f"--option {text!r} is not RECIPE:KEY=VALUE.", "Accepted: for example pgd:steps=50.")
            name, value = key_value(rest)
            options.setdefault(recipe, {})[name] = value
        values["options"] = options
    return Grid.from_dict(values)


def execute(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status (130: interrupted, with what was there until then)."""
    from cmai_core.evaluation.figures import export, tables
    from cmai_core.evaluation.figures.outcomes import Outcomes
    from cmai_core.evaluation.runs import predictions as readings
    from cmai_core.evaluation.runs.cost import cost
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.evaluation.store.store import DATABASE, Store, default_folder

    grid = grid_of(args)
    folder = args.store or default_folder()
    check_outputs({"--json": args.json, "--csv": args.csv, "--latex": args.latex})
    if args.plan:
        if args.csv or args.latex:
            warnings.warn("--csv and --latex are written by the run, not with --plan", CmaiWarning, stacklevel=2)
        stored = Store.read(folder) if (folder / DATABASE).is_file() else None
        try:
            _say_cost(cost(Setting(grid, device=args.device), stored), args)
        finally:
            if stored is not None:
                stored.close()
        return 0
    with Store.write(folder) as store:  # before models are loaded: a store that cannot be used is said at once
        setting = Setting(grid, device=args.device)
        with interruptible() as cancel, progress_bar(args.quiet, form=SHARE_AND_WORDS, words=_stage) as show:
            report = run(setting, store, progress=show, cancel=cancel)
        frame = readings.frame(store, report.plan)
    table = tables.summary_table(Outcomes.of(frame, frame.attrs["epsilons"]))
    written = ((args.json, export.to_json), (args.csv, export.to_csv), (args.latex, export.to_latex))
    files = [(path, partial(write, table)) for path, write in written]
    try:
        deliver("\n".join(_lines(table)), files)
    finally:
        _say_end(report, folder)
        _say_checks(report, frame)
    return 130 if report.cancelled else 0


def _say_cost(found: Any, args: argparse.Namespace) -> None:
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
    lines.append(f"{len(found.cells)} cells, {time}; {found.clean} clean readings to come.")
    deliver("\n".join(lines), [(args.json, lambda path: write_json(path, found.to_dict()))])


def _lines(table: Any) -> list[str]:
    """The table as aligned text, shares with their counts."""
    import pandas as pd

    from cmai_core.evaluation.figures.export import figure_text, is_share

    rows = [("target", "task", "source", "recipe", "budget", "metric", "value [95 %]", "of")]
    for row in table.itertuples(index=False):
        budget = "" if pd.isna(row.epsilon) else f"{row.norm} {row.epsilon:g}"
        value = figure_text(row.value, row.low, row.high, is_share(row.metric)) or "–"
        count = "" if pd.isna(row.total) or pd.isna(row.hits) else f"{row.hits:g}/{row.total:g}"
        rows.append((row.target, row.task or "–", row.source, row.recipe, budget, row.metric, value, count))
    widths = [max(len(str(row[k])) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(str(text).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _say_end(report: Any, folder: Path) -> None:
    say = [
        f"run {report.run} in {folder}: {report.crafted} examples made, {report.shown + report.clean} readings taken"
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
    """What the self-checks of the readings find amiss, on stderr beside the table; `cmai check` shows all of them."""
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
    """What is done now, and the time that is left by the runner's own count."""
    cells = f"cell {progress.data['cells']}, " if "cells" in progress.data else ""
    return f"{cells}{progress.stage}, {_time(progress.data.get('eta'))} left"
