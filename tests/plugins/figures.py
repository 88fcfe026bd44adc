"""A figure of another package: on how many items each recipe was tried."""

from __future__ import annotations


def tries(outcomes):
    """How often each model was attacked, with the share of cells that have any example."""
    from cmai_core.evaluation.figures.metrics import FIGURE, accuracy

    table = accuracy(outcomes)
    return table[table["metric"] == "acc_robust"].assign(metric="tries")[[*FIGURE, "recipe", "target"]]


def use() -> object:
    """Ask for it of an evaluation's predictions."""
    from tempfile import TemporaryDirectory

    from cmai_core.evaluation.figures.registry import figure_table
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.store.store import Store

    grid = Grid(models=["tabletop"], recipes=["fgsm"], epsilons=[8], limit=2, gallery=2, validation=0)
    with TemporaryDirectory() as folder, Store.write(folder) as store:
        report = run(grid, store)
        table = figure_table(predictions.frame(store, report.plan), ["tries"])
    return set(table["metric"]) == {"tries"} and table["total"].iloc[0] == 2
