"""The parts of the protocol as grids of the evaluation, one model at a time, and what they came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import Part, Protocol
from cmai_core.comparison.verdicts import Verdict, verdicts
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.progress import CancelToken, ProgressCallback


def grid_of(protocol: Protocol, part: Part, model: str) -> Grid:
    """Return the grid of a part for one model: attacked itself, or shown what was made on the part's sources."""
    sources = [name for name in part.sources if name != model]
    return Grid(
        models=[*sources, model],
        sources=sources,
        tasks=part.tasks,
        recipes=part.recipes,
        epsilons=part.epsilons,
        split=protocol.split,
        limit=part.limit,
        gallery=protocol.gallery,
        transfer=bool(sources),
        cascade=part.cascade,
        seeds=[protocol.seed],
        validation=0,  # detectors set their thresholds themselves
    )


def measured(
    protocol: Protocol,
    part: Part,
    model: str,
    store: Path,
    *,
    models: dict[str, Any] | None = None,
    dataset: Any = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> tuple[list[Verdict], Any]:
    """Run a part on one model, as far as the store does not hold it.

    Args:
        store: folder of an evaluation store. models: loaded ones by name. dataset: the split, loaded.

    Returns:
        (verdicts on the model, the predictions' frame).

    Raises:
        CmaiError: a cell that failed, or that cannot be measured. Cancelled: stopped before its end.
    """
    from cmai_core.errors import Cancelled, CmaiError
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.store.store import Store

    with Store.write(store) as opened:
        grid = grid_of(protocol, part, model)
        report = run(grid, opened, models=models, dataset=dataset, progress=progress, cancel=cancel)
        if report.cancelled:
            raise Cancelled("cancelled")
        if report.failed:
            raise CmaiError(f"{model}, {part.name}: {next(iter(report.failed.values()))}", "Mend that and run again.")
        # A worst case over fewer attacks than the protocol names would flatter.
        for cell in report.plan.cells:
            if cell.skipped:
                raise CmaiError(f"{model}, {part.name}: {cell.recipe} on {cell.task}: {cell.skipped}")
        frame = predictions.frame(opened, report.plan)
    planned = [(cell.task, cell.norm, cell.epsilon, cell.source) for cell in report.plan.cells]
    return verdicts(frame, model, [item for item, _ in report.plan.items], planned), frame
