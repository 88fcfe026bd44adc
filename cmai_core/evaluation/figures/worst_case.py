"""The worst case: the attacker takes for each unit whatever works."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.counting import Predictions, clusters, coverage, figure_rows, only_whole, shares
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, Outcomes, codes_of

WORST = "worst case"
ANY = "any"


def worst_case_units(predictions: Predictions, over: Sequence[str] = ("recipe",)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tell unit by unit whether any of a group's cells fooled the target.

    Args:
        over: the columns that the attacker chooses freely: some of "recipe", "seed", "source", "modality"; (): each
            cell alone. All else (target, task, data; norm, ε: the threat) is held equal; `knowledge` too unless recipes
            or sources differ.

    Returns:
        (groups, units). groups: one row a threat: CELL with "worst case" or "any" for what was chosen freely,
        `subject`, `recipes` ("apgd 200, square 31": how many units each faced), `contenders` (cells in the group),
        `lost` (units that no cell holds and that are wrong when clean), `missing` (items that no cell holds and that
        are not). units: one row a unit faced: group, unit, item, clean, `robust` (1; 0 as soon as one cell has it
        wrong; −1 unknown), `complete` (every cell of the group faced it).

    Raises:
        OptionError: another column in `over`.
    """
    outcomes = Outcomes.of(predictions)
    accepted = ("recipe", "seed", "source", "modality")
    if not set(over) <= set(accepted):
        raise OptionError(f"over={tuple(over)!r} is not accepted.", f"Accepted: some of {', '.join(accepted)}.")
    group_of_cell, groups = _grouped(outcomes, over)
    group = group_of_cell[outcomes.rows["cell"].to_numpy()]
    units = _judged(outcomes.rows, group, groups["contenders"].to_numpy())
    lost, missing, _ = coverage(outcomes, group, groups["subject"].to_numpy())
    return groups.assign(lost=lost, missing=missing), units


def _grouped(outcomes: Outcomes, over: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the group of each cell, and a row for each group."""
    rows, cells = outcomes.rows, outcomes.cells
    free = (*over, "knowledge") if {"recipe", "source"} & set(over) else tuple(over)
    held = [name for name in CELL if name not in free]
    group_of_cell, first = codes_of([pd.factorize(cells[name], sort=True)[0] for name in held])
    groups = cells.loc[first, [*CELL, "subject"]].reset_index(drop=True)
    for name in free:
        groups[name] = WORST if name == "recipe" else (pd.NA if name == "seed" else ANY)
    sizes = np.bincount(rows["cell"], minlength=len(cells))
    labels = _labels(cells, over)
    groups["contenders"] = np.bincount(group_of_cell, minlength=len(groups))
    groups["recipes"] = [
        ", ".join(f"{labels[k]} {sizes[k]}" for k in np.flatnonzero(group_of_cell == group))
        for group in range(len(groups))
    ]
    return group_of_cell, groups


def _judged(rows: pd.DataFrame, group: np.ndarray, contenders: np.ndarray) -> pd.DataFrame:
    """Return a row for each unit that a group faced: whether any of the group's cells fooled the target.

    Args:
        group: of each row. contenders: cells of each group.
    """
    code, first = codes_of([group, rows["unit"].to_numpy()])
    robust, size = rows["robust"].to_numpy(), len(first)
    broken = np.bincount(code, weights=robust == 0, minlength=size) > 0
    held_up = np.bincount(code, weights=robust == 1, minlength=size)
    faced = np.bincount(code, minlength=size)
    complete = faced == contenders[group[first]]
    clean = np.full(size, UNKNOWN, dtype=np.int8)
    np.maximum.at(clean, code, rows["clean"].to_numpy())
    return pd.DataFrame(
        {
            "group": group[first],
            "unit": rows["unit"].to_numpy()[first],
            "item": rows["item"].to_numpy()[first],
            "clean": clean,
            "robust": np.where(broken, 0, np.where(complete & (held_up == faced), 1, UNKNOWN)),
            "complete": complete,
        }
    )


def all_units(outcomes: Outcomes, group: pd.Series, units: pd.DataFrame) -> pd.DataFrame:
    """Return every unit of one group of `worst_case_units`, those that no cell holds too.

    Args:
        group: a row of its groups. units: the rows of its units that belong to that group.

    Returns:
        name, text_index, item, clean, right (1, 0, −1: right before and after), `open` (right when clean, fooled by no
        cell and not faced by all: what a cascade must not leave).
    """
    known = outcomes.units
    absent = (known["subject"] == group["subject"]) & ~known["item"].isin(units["item"])
    absent &= known["from_clean"] | ~known.loc[known["subject"] == group["subject"], "from_clean"].any()
    rest = known[absent]
    held = known.iloc[units["unit"].to_numpy()]
    lost = np.where(rest["clean"] == 0, 0, UNKNOWN)
    table = pd.concat([held, rest])[["name", "text_index", "item"]].reset_index(drop=True)
    still_open = (units["robust"] == UNKNOWN) & ~units["complete"] & (units["clean"] != 0)
    return table.assign(
        clean=np.concatenate([units["clean"], rest["clean"]]),
        right=np.concatenate([units["robust"], lost]),
        open=np.concatenate([still_open, rest["clean"] == 1]).astype(bool),
    )


def worst_case(predictions: Predictions, over: Sequence[str] = ("recipe",)) -> pd.DataFrame:
    """Return `acc_robust` and `asr` where the attacker takes, unit by unit, whatever works.

    The attacker's choice is among the cells of one threat (norm, ε, modality); see `worst_case_units`. Exact also in a
    cascade: a unit that a cell did not face counts only where another cell had it wrong; otherwise the value is NaN.
    Figures carry `recipes`, how many units each cell faced, and `contenders`.
    """
    outcomes = Outcomes.of(predictions)
    groups, units = worst_case_units(outcomes, over)
    group, robust = units["group"].to_numpy(), units["robust"].to_numpy()
    clean, complete = units["clean"].to_numpy(), units["complete"].to_numpy()
    count = len(groups)
    items = clusters(units, outcomes.units)
    open_ = (robust == UNKNOWN) & ~complete & (clean != 0)
    skipped = np.bincount(group, weights=open_, minlength=count).astype(int)
    unanswered = np.bincount(group, weights=(robust == UNKNOWN) & complete, minlength=count).astype(int)
    missing = groups["missing"].to_numpy() + skipped
    notes = [_note(*numbers) for numbers in zip(missing, unanswered, strict=True)]
    keys = groups[list(CELL)]
    extra = {"recipes": groups["recipes"], "contenders": groups["contenders"]}
    found = shares(group, count, robust == 1, robust != UNKNOWN, items, groups["lost"].to_numpy())
    out = [figure_rows(keys, "acc_robust", only_whole(found, missing), notes).assign(**extra)]
    right = (clean == 1) & (robust != UNKNOWN)
    found = shares(group, count, right & (robust == 0), right, items)
    out.append(figure_rows(keys, "asr", only_whole(found, missing), notes).assign(**extra))
    return pd.concat(out, ignore_index=True)


def _note(open_units: int, unanswered: int) -> str:
    parts = [f"Unknown: {open_units} units were fooled by no recipe, but not faced by all."] if open_units else []
    parts += [f"{unanswered} units without a known answer are left out."] if unanswered else []
    return " ".join(parts)


def _labels(cells: pd.DataFrame, over: Sequence[str]) -> list[str]:
    """Name a group's cells by what the attacker chooses."""
    out = cells["recipe"].astype(str)
    for name, before in (("source", " from "), ("seed", " seed ")):
        if name in over:
            out = out + before + cells[name].astype(str)
    return out.tolist()
