"""Clean and robust accuracy, attack success rate, several seeds, float against 8 bit.

Every function takes the predictions frame (or `Outcomes` made of it) and returns one row a figure: the cell's columns,
`metric`, `value`, `low`, `high` (95 % bootstrap interval), `hits`, `total`, `note`. What is not known is NaN.

- `acc_clean` = right on the clean unit / known. `acc_robust` = right on the clean *and* the attacked unit / known.
- `asr` = wrong on the attacked unit / right on the clean one. `asr_truthful` counts a success only where the attacked
  text is known to be true still.

A figure over part of the units only, as a later stage of a cascade has it, would compare unlike things: its value is
NaN, with hits, total and a note that says how many were faced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cmai_core.evaluation.figures.counting import (
    FIGURE,
    Predictions,
    clusters,
    coverage,
    figure_rows,
    only_whole,
    paired_shares,
    shares,
)
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, Outcomes, codes_of
from cmai_core.evaluation.figures.worst_case import WORST, worst_case

MEAN = "mean of seeds"


def clean_accuracy(predictions: Predictions) -> pd.DataFrame:
    """Return `acc_clean` of each (target, dataset, split, task); recipe "clean", modality "clean"."""
    outcomes = Outcomes.of(predictions)
    units = outcomes.units
    has_clean = np.bincount(units["subject"], weights=units["from_clean"], minlength=len(outcomes.subjects)) > 0
    units = units[units["from_clean"].to_numpy() | ~has_clean[units["subject"].to_numpy()]]
    found = shares(
        units["subject"].to_numpy(),
        len(outcomes.subjects),
        units["clean"].to_numpy() == 1,
        units["clean"].to_numpy() != UNKNOWN,
        units["item"].to_numpy() if units["text_index"].any() else None,
    )
    subjects = outcomes.subjects
    keys = subjects.assign(source=subjects["target"], modality="clean", knowledge="", recipe="clean", norm="")
    keys = keys.assign(epsilon=np.nan, seed=pd.NA)[list(CELL)]
    unknown = np.bincount(units["subject"], weights=units["clean"] == UNKNOWN, minlength=len(subjects)).astype(int)
    notes = [f"{count} units without a known truth are left out." if count else "" for count in unknown]
    return figure_rows(keys, "acc_clean", found, notes)


def accuracy(predictions: Predictions) -> pd.DataFrame:
    """Return `acc_robust` and `asr` of each cell, for texts also `asr_truthful`."""
    outcomes = Outcomes.of(predictions)
    rows, cells = outcomes.rows, outcomes.cells
    cell, count = rows["cell"].to_numpy(), len(outcomes.cells)
    items = clusters(rows, outcomes.units)
    lost, missing, faced = coverage(outcomes, cell, cells["subject"].to_numpy())
    robust, fooled = rows["robust"].to_numpy(), rows["fooled"].to_numpy()
    unanswered = np.bincount(cell, weights=robust == UNKNOWN, minlength=count).astype(int)
    notes = _notes(missing, faced, unanswered)

    found = shares(cell, count, robust == 1, robust != UNKNOWN, items, lost)
    out = [figure_rows(cells[list(CELL)], "acc_robust", only_whole(found, missing), notes)]
    found = shares(cell, count, fooled == 1, fooled != UNKNOWN, items)
    out.append(figure_rows(cells[list(CELL)], "asr", only_whole(found, missing), notes))
    texts = cells["modality"].isin(["text", "joint"]).to_numpy()
    if texts.any():
        changed = rows["label_changed"].to_numpy()
        found = shares(cell, count, (fooled == 1) & (changed == 0), fooled != UNKNOWN, items)
        table = figure_rows(cells[list(CELL)], "asr_truthful", only_whole(found, missing), notes)
        out.append(table[texts])
    return pd.concat(out, ignore_index=True)


def over_seeds(predictions: Predictions) -> pd.DataFrame:
    """Summarise cells that differ in their seed alone: the mean over seeds, and the worst case over them, unit by unit.

    The mean's interval resamples items, each with all of its seeds; hits and total are summed over seeds. The worst
    case has seed NA and recipe as it was; the mean is marked by `over` = "mean of seeds" beside "worst case". Cells
    with one seed are left out.
    """
    outcomes = Outcomes.of(predictions)
    held = [name for name in CELL if name != "seed"]
    group_of_cell, _ = codes_of([pd.factorize(outcomes.cells[name], sort=True)[0] for name in held])
    several = np.bincount(group_of_cell)[group_of_cell] > 1
    if not several.any():
        return pd.DataFrame(columns=[*CELL, *FIGURE, "over", "seeds"])
    kept = outcomes.select(several)
    cells, rows = kept.cells, kept.rows
    group_of_cell, first = codes_of([pd.factorize(cells[name], sort=True)[0] for name in held])
    seeds = np.bincount(group_of_cell)
    group = group_of_cell[rows["cell"].to_numpy()]
    keys = cells.loc[first, list(CELL)].reset_index(drop=True).assign(seed=pd.NA)
    lost, missing, _ = coverage(kept, rows["cell"].to_numpy(), cells["subject"].to_numpy())
    lost, missing = (np.bincount(group_of_cell, weights=x, minlength=len(first)).astype(int) for x in (lost, missing))
    items = rows["item"].to_numpy()
    robust, fooled = rows["robust"].to_numpy(), rows["fooled"].to_numpy()
    notes = [f"{short} units were not faced under every seed." if short else "" for short in missing]
    out = []
    for name, hits, known, extra in (
        ("acc_robust", robust == 1, robust != UNKNOWN, lost),
        ("asr", fooled == 1, fooled != UNKNOWN, None),
    ):
        found = only_whole(shares(group, len(first), hits, known, items, extra), missing)
        out.append(figure_rows(keys, name, found, notes).assign(over=MEAN, seeds=seeds))
    # `worst_case` names what is chosen freely; here the recipe is not
    worst = worst_case(kept, over=("seed",))
    worst = worst.rename(columns={"contenders": "seeds"}).drop(columns="recipes")
    return pd.concat([*out, worst.assign(over=WORST)], ignore_index=True)


def float_gap(predictions: Predictions) -> pd.DataFrame:
    """Measure what rounding to 8 bits undoes: `asr_float`, and `gap_8bit` = its ASR − the rounded example's.

    Over units that are right when clean and whose answers to both are known (the float example is kept for the source
    alone). The gap's hits count the successes that rounding undoes less those it makes; its interval is paired.
    """
    outcomes = Outcomes.of(predictions)
    rows = outcomes.rows
    known = (rows["clean"] == 1) & (rows["answer"] != UNKNOWN) & (rows["correct_float"] != UNKNOWN)
    rows = rows[known.to_numpy()]
    used = np.unique(rows["cell"])
    cell = np.searchsorted(used, rows["cell"].to_numpy())
    keys = outcomes.cells.loc[used, list(CELL)].reset_index(drop=True)
    items = clusters(rows, outcomes.units)
    as_float = rows["correct_float"].to_numpy() == 0
    found = shares(cell, len(used), as_float, np.ones(len(rows), bool), items)
    out = [figure_rows(keys, "asr_float", found, [""] * len(used))]
    gap = as_float.astype(float) - (rows["answer"].to_numpy() == 0)
    found = paired_shares(cell, len(used), gap, rows["item"].to_numpy())
    out.append(figure_rows(keys, "gap_8bit", found, [""] * len(used)))
    return pd.concat(out, ignore_index=True)


def _notes(missing: np.ndarray, faced: Sequence[tuple[int, int]], unanswered: np.ndarray) -> list[str]:
    out = []
    for short, (here, everything), silent in zip(missing, faced, unanswered, strict=True):
        parts = [f"Faced {here} of {everything} items only; see the worst case."] if short else []
        parts += [f"{silent} units without a known answer are left out."] if silent else []
        out.append(" ".join(parts))
    return out
