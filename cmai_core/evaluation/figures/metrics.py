"""Clean and robust accuracy, attack success rate, worst case over recipes, several seeds, float against 8 bit.

Every function takes the predictions frame (or `Outcomes` made of it) and returns one row a figure: the cell's columns,
`metric`, `value`, `low`, `high` (95 % bootstrap interval), `hits`, `total`, `note`. What is not known is NaN.

- `acc_clean` = right on the clean unit / known. `acc_robust` = right on the clean *and* the attacked unit / known.
- `asr` = wrong on the attacked unit / right on the clean one. `asr_truthful` counts a success only where the attacked
  text is known to be true still.

A figure over part of the units only, as a later stage of a cascade has it, would compare unlike things: its value is
NaN, with hits, total and a note that says how many were faced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.intervals import ratio_interval, share_interval
from cmai_core.evaluation.figures.outcomes import CELL, SUBJECT, UNKNOWN, Outcomes, codes_of

FIGURE = ("metric", "value", "low", "high", "hits", "total", "note")
WORST = "worst case"
ANY = "any"
MEAN = "mean of seeds"
Predictions = pd.DataFrame | Outcomes


def clean_accuracy(predictions: Predictions) -> pd.DataFrame:
    """`acc_clean` of each (target, dataset, split, task); recipe "clean", modality "clean"."""
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
    return _figures(keys, "acc_clean", found, notes)


def accuracy(predictions: Predictions) -> pd.DataFrame:
    """`acc_robust` and `asr` of each cell, for texts also `asr_truthful`."""
    outcomes = Outcomes.of(predictions)
    rows, cells = outcomes.rows, outcomes.cells
    cell, count = rows["cell"].to_numpy(), len(outcomes.cells)
    items = clusters(rows, outcomes.units)
    lost, missing, faced = coverage(outcomes, cell, cells["subject"].to_numpy())
    robust, fooled = rows["robust"].to_numpy(), rows["fooled"].to_numpy()
    unanswered = np.bincount(cell, weights=robust == UNKNOWN, minlength=count).astype(int)
    notes = _notes(missing, faced, unanswered)

    found = shares(cell, count, robust == 1, robust != UNKNOWN, items, lost)
    out = [_figures(cells[list(CELL)], "acc_robust", _only_whole(found, missing), notes)]
    found = shares(cell, count, fooled == 1, fooled != UNKNOWN, items)
    out.append(_figures(cells[list(CELL)], "asr", _only_whole(found, missing), notes))
    texts = cells["modality"].isin(["text", "joint"]).to_numpy()
    if texts.any():
        changed = rows["label_changed"].to_numpy()
        found = shares(cell, count, (fooled == 1) & (changed == 0), fooled != UNKNOWN, items)
        table = _figures(cells[list(CELL)], "asr_truthful", _only_whole(found, missing), notes)
        out.append(table[texts])
    return pd.concat(out, ignore_index=True)


def worst_case_units(predictions: Predictions, over: Sequence[str] = ("recipe",)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Unit by unit, whether any of a group's cells fooled the target.

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
    rows, cells = outcomes.rows, outcomes.cells
    free = (*over, "knowledge") if {"recipe", "source"} & set(over) else tuple(over)
    held = [name for name in CELL if name not in free]
    group_of_cell, first = codes_of([pd.factorize(cells[name], sort=True)[0] for name in held])
    groups = cells.loc[first, [*CELL, "subject"]].reset_index(drop=True)
    for name in free:
        groups[name] = WORST if name == "recipe" else (pd.NA if name == "seed" else ANY)
    contenders = np.bincount(group_of_cell, minlength=len(groups))
    sizes = np.bincount(rows["cell"], minlength=len(cells))
    labels = _labels(cells, over)
    groups["contenders"] = contenders
    groups["recipes"] = [
        ", ".join(f"{labels[k]} {sizes[k]}" for k in np.flatnonzero(group_of_cell == group))
        for group in range(len(groups))
    ]

    group = group_of_cell[rows["cell"].to_numpy()]
    code, first = codes_of([group, rows["unit"].to_numpy()])
    robust, size = rows["robust"].to_numpy(), len(first)
    broken = np.bincount(code, weights=robust == 0, minlength=size) > 0
    held_up = np.bincount(code, weights=robust == 1, minlength=size)
    faced = np.bincount(code, minlength=size)
    complete = faced == contenders[group[first]]
    clean = np.full(size, UNKNOWN, dtype=np.int8)
    np.maximum.at(clean, code, rows["clean"].to_numpy())
    units = pd.DataFrame(
        {
            "group": group[first],
            "unit": rows["unit"].to_numpy()[first],
            "item": rows["item"].to_numpy()[first],
            "clean": clean,
            "robust": np.where(broken, 0, np.where(complete & (held_up == faced), 1, UNKNOWN)),
            "complete": complete,
        }
    )
    lost, missing, _ = coverage(outcomes, group, groups["subject"].to_numpy())
    return groups.assign(lost=lost, missing=missing), units


def all_units(outcomes: Outcomes, group: pd.Series, units: pd.DataFrame) -> pd.DataFrame:
    """Every unit of one group of `worst_case_units`, those that no cell holds too.

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
    """`acc_robust` and `asr` where the attacker takes, unit by unit, whatever works.

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
    notes = [
        " ".join(
            part
            for part, number in (
                (f"Unknown: {short} units were fooled by no recipe, but not faced by all.", short),
                (f"{open_units} units without a known answer are left out.", open_units),
            )
            if number
        )
        for short, open_units in zip(missing, unanswered, strict=True)
    ]
    keys = groups[list(CELL)]
    extra = {"recipes": groups["recipes"], "contenders": groups["contenders"]}
    found = shares(group, count, robust == 1, robust != UNKNOWN, items, groups["lost"].to_numpy())
    out = [_figures(keys, "acc_robust", _only_whole(found, missing), notes).assign(**extra)]
    right = (clean == 1) & (robust != UNKNOWN)
    found = shares(group, count, right & (robust == 0), right, items)
    out.append(_figures(keys, "asr", _only_whole(found, missing), notes).assign(**extra))
    return pd.concat(out, ignore_index=True)


def over_seeds(predictions: Predictions) -> pd.DataFrame:
    """Cells that differ in their seed alone: the mean over seeds, and the worst case over them, unit by unit.

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
        found = _only_whole(shares(group, len(first), hits, known, items, extra), missing)
        out.append(_figures(keys, name, found, notes).assign(over=MEAN, seeds=seeds))
    # `worst_case` names what is chosen freely; here the recipe is not
    worst = worst_case(kept, over=("seed",))
    worst = worst.rename(columns={"contenders": "seeds"}).drop(columns="recipes")
    return pd.concat([*out, worst.assign(over=WORST)], ignore_index=True)


def float_gap(predictions: Predictions) -> pd.DataFrame:
    """What rounding to 8 bits undoes: `asr_float`, and `gap_8bit` = ASR of the float example − ASR of the rounded one.

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
    out = [_figures(keys, "asr_float", found, [""] * len(used))]
    gap = as_float.astype(float) - (rows["answer"].to_numpy() == 0)
    found = paired_shares(cell, len(used), gap, rows["item"].to_numpy())
    out.append(_figures(keys, "gap_8bit", found, [""] * len(used)))
    return pd.concat(out, ignore_index=True)


# --- counting ---------------------------------------------------------------------------------------------------------


def shares(
    group: np.ndarray,
    count: int,
    hits: np.ndarray,
    counted: np.ndarray,
    items: np.ndarray | None = None,
    misses: np.ndarray | None = None,
) -> pd.DataFrame:
    """Shares of hits among what is counted, group by group: value, low, high, hits, total.

    Args:
        group: N group numbers below `count`. hits, counted: bool N.
        items: N item numbers where several rows may belong to one item: then items are resampled, not rows.
        misses: for each group, how many more units are counted that did not hit.
    """
    misses = np.zeros(count, dtype=int) if misses is None else misses
    hit = np.bincount(group, weights=hits & counted, minlength=count).astype(int)
    total = np.bincount(group, weights=counted, minlength=count).astype(int) + misses
    value = np.divide(hit, total, out=np.full(count, np.nan), where=total > 0)
    low, high = (np.array(bound) for bound in share_interval(hit, total))
    if items is not None:
        for number, above, below in _per_item(group[counted], items[counted], hits[counted].astype(float)):
            if (below > 1).any() and 0 < hit[number] < total[number]:
                above = np.concatenate([above, np.zeros(misses[number])])
                below = np.concatenate([below, np.ones(misses[number])])
                _, low[number], high[number] = ratio_interval(above, below)
    return pd.DataFrame({"value": value, "low": low, "high": high, "hits": hit, "total": total})


def paired_shares(group: np.ndarray, count: int, differences: np.ndarray, items: np.ndarray) -> pd.DataFrame:
    """Means of differences in {−1, 0, 1} group by group, resampling items; hits is their sum."""
    out = pd.DataFrame({"value": np.nan, "low": np.nan, "high": np.nan, "hits": 0, "total": 0}, index=range(count))
    for number, above, below in _per_item(group, items, differences):
        out.loc[number, ["value", "low", "high"]] = ratio_interval(above, below)
        out.loc[number, ["hits", "total"]] = int(above.sum()), int(below.sum())
    return out


def _per_item(group: np.ndarray, items: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each group that occurs: (group, sums of the values of each of its items, rows of each of them)."""
    code, first = codes_of([group, items])
    above, below = np.bincount(code, weights=values), np.bincount(code).astype(float)
    owner = group[first]
    edges = [*np.flatnonzero(np.diff(owner, prepend=-1)), len(owner)]
    for start, stop in pairwise(edges):
        yield int(owner[start]), above[start:stop], below[start:stop]


def clusters(rows: pd.DataFrame, units: pd.DataFrame) -> np.ndarray | None:
    """The rows' items where an item may have several texts, else None (rows are independent)."""
    several = units["text_index"].to_numpy()[rows["unit"].to_numpy()].any()
    return rows["item"].to_numpy() if several else None


def coverage(
    outcomes: Outcomes, group: np.ndarray, subject: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """What groups of attacked rows lack of their subjects' items.

    Args:
        group: the group of each row of `outcomes.rows`. subject: the subject of each group.

    Returns:
        lost: units of absent items that are wrong when clean. missing: absent items that are right when clean, at
        least with one text. faced: (items present, items in all) of each group.
    """
    units, item = outcomes.units, outcomes.units["item"].to_numpy()
    _, first = np.unique(item, return_index=True)  # items are numbered from 0
    size = len(first)
    owner = units["subject"].to_numpy()[first]
    is_right = np.bincount(item, weights=units["clean"] == 1, minlength=size) > 0
    wrong = np.where(is_right, 0, np.bincount(item, weights=units["clean"] == 0, minlength=size))
    number = len(outcomes.subjects)
    all_right, all_wrong, everything = (
        np.bincount(owner, weights=values, minlength=number)[subject] for values in (is_right, wrong, np.ones(size))
    )
    row_item = item[outcomes.rows["unit"].to_numpy()]
    _, first = codes_of([group, row_item])
    present_item, present_group = row_item[first], group[first]
    here_right, here_wrong, here = (
        np.bincount(present_group, weights=values[present_item], minlength=len(subject))
        for values in (is_right, wrong, np.ones(size))
    )
    faced = list(zip(here.astype(int).tolist(), everything.astype(int).tolist(), strict=True))
    return (all_wrong - here_wrong).astype(int), (all_right - here_right).astype(int), faced


def _only_whole(found: pd.DataFrame, missing: np.ndarray) -> pd.DataFrame:
    found.loc[missing > 0, ["value", "low", "high"]] = np.nan
    return found


def _notes(missing: np.ndarray, faced: Sequence[tuple[int, int]], unanswered: np.ndarray) -> list[str]:
    out = []
    for short, (here, everything), silent in zip(missing, faced, unanswered, strict=True):
        parts = [f"Faced {here} of {everything} items only; see the worst case."] if short else []
        parts += [f"{silent} units without a known answer are left out."] if silent else []
        out.append(" ".join(parts))
    return out


def _labels(cells: pd.DataFrame, over: Sequence[str]) -> list[str]:
    """Names of a group's cells by what the attacker chooses."""
    out = cells["recipe"].astype(str)
    for name, before in (("source", " from "), ("seed", " seed ")):
        if name in over:
            out = out + before + cells[name].astype(str)
    return out.tolist()


def _figures(keys: pd.DataFrame, metric: str, found: pd.DataFrame, notes: Sequence[str]) -> pd.DataFrame:
    table = pd.concat([keys.reset_index(drop=True), found.reset_index(drop=True)], axis=1)
    return table.assign(metric=metric, note=list(notes))[[*keys.columns, *FIGURE]]


__all__ = [
    "ANY", "CELL", "FIGURE", "MEAN", "SUBJECT", "WORST", "accuracy", "clean_accuracy", "float_gap", "over_seeds",
    "paired_shares", "shares", "worst_case", "worst_case_units",
]  # fmt: skip
