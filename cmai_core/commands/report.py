"""`cmai report`: one HTML file of experiments of the lab, or of runs of an evaluation store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmai_core.commands.parameters import Device, Quiet
from cmai_core.errors import OptionError
from cmai_core.files import explained, write_text
from cmai_core.terminal import check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    from cmai_core.lab.again import Compared
    from cmai_core.lab.experiment_file import ExperimentFile
    from cmai_core.lab.result import LabResult


def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...|STORE]",
            help="experiment files that the lab exported, or the folder of an evaluation store (default: that of "
            "cmai evaluate)",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="the report (-: to stdout)")] = Path("report.html"),
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN...", help="of the store (default: the latest)")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(metavar="ID...", help="a slice of the store's runs: only these pairs, such as tabletop/test/3"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="run the experiments anew, and say which numbers are equal")
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> int:
    """Write one HTML file with pictures, charts, settings and hashes; it opens without a network."""
    check_outputs({"--out": out})
    folders = [source for source in sources or () if source.is_dir()]
    if sources and not folders:
        if runs or pairs:
            raise OptionError("--run and --pairs are of a store.", "Leave them out, or name a store's folder.")
        return _of_files(sources, out, again, device, quiet)
    if len(sources or ()) > 1 or again:
        what = "--again is of experiment files." if again else "A store's folder stands with other sources."
        raise OptionError(what, "Name experiment files, or one store's folder.")
    page = _of_store(folders[0] if folders else None, runs or (), pairs or ())
    deliver(f"Written: {out}", [(out, lambda path: write_text(path, page))])
    return 0


def _of_store(folder: Path | None, runs: Sequence[str], pairs: Sequence[str]) -> str:
    from cmai_core.evaluation.store.store import default_folder
    from cmai_core.lab.benchmark.runs import known_runs
    from cmai_core.reports.evaluation import evaluation_report

    place = folder or default_folder()
    names = list(runs) or [info.run for info in known_runs(place)[:1]]
    if not names:
        raise OptionError(f"There is no run in {place}.", "Run cmai evaluate first, or name another store.")
    return evaluation_report(place, names, items=pairs, store="" if folder is None else str(folder))


def _of_files(sources: Sequence[Path], out: Path, again: bool, device: str | None, quiet: bool) -> int:
    from cmai_core.lab.again import compare_with_file, run_again
    from cmai_core.lab.images import encode
    from cmai_core.reports.experiment import experiment_report, experiments_report

    files = [_read(source) for source in sources]
    results: list[LabResult] = []
    compared: list[Compared] = []
    with interruptible() as cancel, progress_bar(quiet or not again) as show:
        for source, found in zip(sources, files, strict=True):
            if again:
                results.append(run_again(found, device=device, progress=show, cancel=cancel))
                compared = [*compare_with_file(found, results[-1])]
            elif found.result is not None:
                results.append(found.result)
            else:
                raise OptionError(f"{source} holds no pictures.", "Give --again: it is run anew.")
    if cancel.cancelled:
        return 130
    if len(files) > 1:
        page = experiments_report(results)
    else:
        upload = None if files[0].picture is None else encode(files[0].picture)
        page = experiment_report(results[0], upload=upload, compared=compared)
    deliver(f"Written: {out}", [(out, lambda path: write_text(path, page))])
    return 0


def _read(source: Path) -> ExperimentFile:
    from cmai_core.lab.experiment_file import MAX_FILE, read_experiment

    with explained(source, "read"), source.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    return read_experiment(data)
