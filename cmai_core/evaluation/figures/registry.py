"""The figures by name: tables of an evaluation's predictions, with hits, total and an interval in every row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cmai_core.errors import DataError
from cmai_core.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from cmai_core.evaluation.figures.outcomes import Outcomes

SUMMARY = "summary"
_HERE = "cmai_core.evaluation.figures"
FIGURES: Registry[Callable[[Outcomes], pd.DataFrame]] = Registry(
    "figure",
    "cmai.figures",
    {
        SUMMARY: f"{_HERE}.tables:summary_table",
        "scores": f"{_HERE}.scores:consistency",
        "detection": f"{_HERE}.scores:detection",
        "transfer": f"{_HERE}.transfer:transfer_matrix",
        "seeds": f"{_HERE}.metrics:over_seeds",
        "rounding": f"{_HERE}.metrics:float_gap",
        "modalities": f"{_HERE}.modalities:modality_figures",
        "model-differences": f"{_HERE}.compare:model_differences",
        "smallest-budget": f"{_HERE}.effort:minimal_epsilon",
        "queries": f"{_HERE}.effort:queries",
        "picture-sizes": f"{_HERE}.perturbation:picture_sizes",
        "word-edits": f"{_HERE}.perturbation:word_edits",
    },
)
"""Name → function of the counted predictions (`Outcomes`) that gives rows with the columns FIGURE of
`figures.counting`, and as many others as it likes."""


def figure_table(
    predictions: pd.DataFrame, names: Sequence[str], epsilons: Mapping[str, Sequence[float]] | None = None
) -> pd.DataFrame:
    """Put figures one under the other; where there are several, a first column `figure` names them.

    Args:
        predictions: the frame of `evaluation.runs.predictions`. names: of FIGURES.
        epsilons: norm → the ε at which minimum-norm searches are read; None: those that occur in the frame.

    Raises:
        OptionError: there is no figure of that name.
        DataError: a column is missing, there is no row, or a figure does not give rows of figures.
    """
    import pandas as pd

    from cmai_core.evaluation.figures.counting import FIGURE
    from cmai_core.evaluation.figures.outcomes import Outcomes

    chosen = {name: FIGURES.find(name) for name in names}
    outcomes = Outcomes.of(predictions, epsilons)
    tables = {}
    for name, figure in chosen.items():
        tables[name] = figure(outcomes)
        if missing := set(FIGURE) - set(tables[name].columns):
            raise DataError(f"The figure {name} lacks the columns {', '.join(sorted(missing))}.")
    if len(tables) == 1:
        return tables[name]
    filled = {name: table for name, table in tables.items() if len(table)} or tables
    together = pd.concat([table.astype(object).assign(figure=name) for name, table in filled.items()])
    return together[["figure", *(c for c in together.columns if c != "figure")]].reset_index(drop=True)


def describe(name: str) -> str:
    """Return what a figure is: the first sentence of its function's docstring."""
    words = (FIGURES.find(name).__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(words.split())
