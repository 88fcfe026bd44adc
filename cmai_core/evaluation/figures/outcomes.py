"""The predictions frame made ready for counting: which cell and which unit a row belongs to, and who won.

A *unit* is what is right or wrong: an item with one of its texts. A *subject* is (target, dataset, split, task): the
units a target is asked about, from its clean rows where the frame has them. An attacked cell need not hold every unit
(a cascade asks a recipe only for the survivors of those before it); what it lacks is known to be lost where the target
is wrong on the clean unit already, and unknown otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cmai_core.errors import DataError

CLEAN = "clean"
VALIDATION = "validation"
SUBJECT = ("target", "dataset", "split", "task")
CELL = ("source", *SUBJECT, "modality", "knowledge", "recipe", "norm", "epsilon", "seed")
NEEDED = (*CELL, "item", "text_index", "correct_clean", "correct")
SCORED = ("consistency", "answer_consistency", "verification", "answer_verification")
NUMBERS = (
    *(f"{name}_clean" for name in SCORED),
    *SCORED,
    *("linf", "l2", "ssim", "psnr", "words_changed", "forwards", "backwards", "minimum_norm", "seconds"),
)
BOOLEANS = ("correct_float", "label_changed")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A predictions frame, counted.

    Attributes:
        rows: attacked rows: NUMBERS, `correct_float` and `label_changed` as int8 (1, 0, −1 unknown), and
            cell, subject, unit, item (codes into the tables below);
            clean (right on the clean unit), answer (right on the attacked one): 1, 0, −1;
            robust: 1 where right on both, 0 where wrong on either, −1 unknown;
            fooled: 1 where right on the clean unit and wrong on the attacked one, 0 where right on both, −1 otherwise.
        cells: one row a cell: CELL and `subject`.
        units: one row a unit: subject, item (code), name, text_index, clean, the clean scores, and from_clean (whether
            a clean row told of it).
        subjects: one row a subject: SUBJECT.
        nearest, nearest_cells: the rows of minimum-norm searches that were given no ε, and their cells, as `rows` and
            `cells`, where they stand once for each ε.
    """

    rows: pd.DataFrame
    cells: pd.DataFrame
    units: pd.DataFrame
    subjects: pd.DataFrame
    nearest: pd.DataFrame
    nearest_cells: pd.DataFrame

    @staticmethod
    def of(predictions: pd.DataFrame | Outcomes, epsilons: Mapping[str, Sequence[float]] | None = None) -> Outcomes:
        """Count a frame once, so that several tables can be made of it.

        Args:
            predictions: the frame of `evaluation.runs.predictions`. Columns beside NEEDED may be missing: what they
                would tell is unknown.
            epsilons: norm → the ε at which minimum-norm searches are read; None: those that occur in the frame.

        Raises:
            DataError: a missing column, no row, or one unit twice in a cell.
        """
        if isinstance(predictions, Outcomes):
            return predictions
        missing = [name for name in NEEDED if name not in predictions.columns]
        if missing:
            raise DataError(f"The predictions lack the columns {', '.join(missing)}.", "Read them from a store.")
        if not len(predictions):
            raise DataError("There are no predictions.", "Run an evaluation first, or loosen the filter.")
        return _counted(predictions, epsilons)

    def select(self, cells: np.ndarray) -> Outcomes:
        """Keep only some of the attacked cells (bool, one a cell), numbered anew; all units stay known."""
        rows, kept = _renumbered(self.rows[np.asarray(cells, dtype=bool)[self.rows["cell"].to_numpy()]], self.cells)
        return replace(self, rows=rows, cells=kept)


def codes_of(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct combinations of several code columns (whole numbers from 0, −1 for missing).

    Returns:
        (code of each row, row where each code occurs first); codes follow the columns' order.
    """
    mixed = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        span = int(column.max(initial=-1)) + 2
        if int(mixed.max(initial=0)) >= np.iinfo(np.int64).max // span:
            mixed = np.unique(mixed, return_inverse=True)[1]
        mixed = mixed * span + (np.asarray(column, dtype=np.int64) + 1)
    _, first, code = np.unique(mixed, return_index=True, return_inverse=True)
    return code, first


def truth(values: pd.Series) -> np.ndarray:
    """Return a column of booleans with gaps as int8: 1, 0, −1 for unknown."""
    return values.astype("boolean").astype("Int8").fillna(UNKNOWN).to_numpy(dtype=np.int8)


def _factor(values: pd.Series) -> tuple[np.ndarray, pd.Index]:
    codes, found = pd.factorize(values, sort=True)  # a missing value has the code −1
    return codes, pd.Index(found)


def _counted(frame: pd.DataFrame, epsilons: Mapping[str, Sequence[float]] | None) -> Outcomes:
    frame = frame.reset_index(drop=True)
    factors = {name: _factor(frame[name]) for name in (*CELL, "item")}
    code = {name: codes for name, (codes, _) in factors.items()}
    subject, first = codes_of([code[name] for name in SUBJECT])
    subjects = frame.loc[first, list(SUBJECT)].reset_index(drop=True)

    texts = pd.to_numeric(frame["text_index"]).fillna(0).to_numpy(dtype=np.int64)
    item, _ = codes_of([subject, code["item"]])
    unit, first = codes_of([item, texts])
    is_clean = (frame["recipe"] == CLEAN).to_numpy(dtype=bool)
    right = truth(frame["correct_clean"])
    units = pd.DataFrame(
        {
            "subject": subject[first],
            "item": item[first],
            "name": frame["item"].to_numpy()[first],
            "text_index": texts[first],
            "clean": _first_known(unit, right, is_clean, len(first)),
            **{f"{name}_clean": _first_number(frame, f"{name}_clean", unit, is_clean, len(first)) for name in SCORED},
            "from_clean": np.bincount(unit[is_clean], minlength=len(first)) > 0,
        }
    )

    rows = pd.DataFrame({"subject": subject, "unit": unit, "item": item})
    rows["clean"] = np.where(right == UNKNOWN, units["clean"].to_numpy()[unit], right)
    rows["answer"] = truth(frame["correct"])
    for name in NUMBERS:
        rows[name] = pd.to_numeric(frame[name]).to_numpy(dtype=float, na_value=np.nan) if name in frame else np.nan
    for name in BOOLEANS:
        rows[name] = truth(frame[name]) if name in frame else np.int8(UNKNOWN)
    cell, first = codes_of([code[name] for name in CELL])
    cells = frame.loc[first, list(CELL)].reset_index(drop=True)
    cells["subject"] = subject[first]
    _refuse_doubles(cell[~is_clean], unit[~is_clean], cells)

    rows["cell"] = cell
    free = ~is_clean & rows["minimum_norm"].notna().to_numpy() & frame["epsilon"].isna().to_numpy()
    nearest, nearest_cells = _renumbered(rows[free], cells)
    plain, plain_cells = _renumbered(rows[~is_clean & ~free], cells)
    levels = _levels(plain_cells) if epsilons is None else epsilons
    at_levels, level_cells = _at_epsilons(nearest, nearest_cells, levels)
    at_levels["cell"] += len(plain_cells)
    both = pd.concat([plain, at_levels], ignore_index=True) if len(at_levels) else plain
    every = pd.concat([plain_cells, level_cells], ignore_index=True) if len(level_cells) else plain_cells
    return Outcomes(_judged(both), every, units, subjects, _judged(nearest), nearest_cells)


def _first_known(unit: np.ndarray, right: np.ndarray, is_clean: np.ndarray, count: int) -> np.ndarray:
    """Return what is known of each unit's clean answer, from a clean row where there is one."""
    out = np.full(count, UNKNOWN, dtype=np.int8)
    for rows in (~is_clean, is_clean):  # the later overwrites the earlier
        known = rows & (right != UNKNOWN)
        out[unit[known][::-1]] = right[known][::-1]
    return out


def _first_number(frame: pd.DataFrame, name: str, unit: np.ndarray, is_clean: np.ndarray, count: int) -> np.ndarray:
    out = np.full(count, np.nan)
    if name in frame:
        values = pd.to_numeric(frame[name]).to_numpy(dtype=float, na_value=np.nan)
        for rows in (~is_clean, is_clean):
            known = rows & ~np.isnan(values)
            out[unit[known][::-1]] = values[known][::-1]
    return out


def _refuse_doubles(cell: np.ndarray, unit: np.ndarray, cells: pd.DataFrame) -> None:
    order = np.lexsort((unit, cell))
    twice = (np.diff(cell[order]) == 0) & (np.diff(unit[order]) == 0)
    if twice.any():
        named = cells.iloc[cell[order][:-1][twice][0]]
        raise DataError(
            f"The predictions hold {int(twice.sum())} units twice, first for {named['recipe']} on {named['source']} "
            f"shown to {named['target']} ({named['task']}).",
            "Give the predictions of one run: another limit, option or version of a model makes another cell.",
        )


def _renumbered(rows: pd.DataFrame, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows with cells numbered from 0 again, and the cells that occur in them."""
    used, code = np.unique(rows["cell"].to_numpy(), return_inverse=True)
    return rows.assign(cell=code).reset_index(drop=True), cells.iloc[used].reset_index(drop=True)


def _levels(cells: pd.DataFrame) -> dict[str, list[float]]:
    found = cells.dropna(subset=["epsilon"])
    return {str(norm): sorted(group["epsilon"].unique()) for norm, group in found.groupby("norm")}


def _at_epsilons(
    nearest: pd.DataFrame, cells: pd.DataFrame, levels: Mapping[str, Sequence[float]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read minimum-norm rows at each ε: the nearest example counts where it lies within ε, else the clean unit."""
    parts, out, offset = [], [], 0
    norms = cells["norm"].astype(str).to_numpy()[nearest["cell"].to_numpy()] if len(nearest) else np.array([])
    for norm, values in levels.items():
        of_norm = nearest[norms == norm]
        if not len(of_norm):
            continue
        of_norm, its_cells = _renumbered(of_norm, cells)
        for epsilon in values:
            within = of_norm["minimum_norm"].to_numpy() <= epsilon * (1 + 1e-9)
            read = of_norm.assign(cell=of_norm["cell"] + offset)
            for after in ("answer", "correct_float"):
                read[after] = np.where(within, of_norm[after], of_norm["clean"]).astype(np.int8)
            for after in SCORED:
                read[after] = np.where(within, of_norm[after], of_norm[f"{after}_clean"])
            for size in ("linf", "l2", "ssim", "psnr"):
                read[size] = np.where(within, of_norm[size], np.nan)
            parts.append(read)
            out.append(its_cells.assign(epsilon=float(epsilon)))
            offset += len(its_cells)
    if not parts:
        return nearest.iloc[:0], cells.iloc[:0]
    return pd.concat(parts, ignore_index=True), pd.concat(out, ignore_index=True)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    clean, answer = rows["clean"].to_numpy(), rows["answer"].to_numpy()
    robust = np.full(len(rows), UNKNOWN, dtype=np.int8)
    robust[(clean == 1) & (answer == 1)] = 1
    robust[(clean == 0) | (answer == 0)] = 0
    fooled = np.full(len(rows), UNKNOWN, dtype=np.int8)
    fooled[(clean == 1) & (answer == 1)] = 0
    fooled[(clean == 1) & (answer == 0)] = 1
    return rows.assign(robust=robust, fooled=fooled)
