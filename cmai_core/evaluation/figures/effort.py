"""How little an attack needs: the smallest ε that fools, and the queries it takes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cmai_core.budget import norms_in_255
from cmai_core.evaluation.figures.counting import FIGURE, Predictions, coverage
from cmai_core.evaluation.figures.intervals import median_interval
from cmai_core.evaluation.figures.outcomes import CELL, UNKNOWN, Outcomes, codes_of


def minimal_epsilon(predictions: Predictions) -> pd.DataFrame:
    """Return the median over units, right when clean, of the smallest ε that fools the source itself.

    Two ways: `median_minimum_norm` from minimum-norm searches (the nearest example's distance; float pixels), and
    `median_first_epsilon` from recipes run at two ε or more (the first ε whose example is answered wrongly).

    Units that nothing fooled are larger than the largest ε (infinitely far for a minimum-norm search): the median is
    over all units, so it is NaN, and `shown` says "> 8/255", where half of them or more were not fooled. hits: units
    fooled; total: units. `shown` has median and interval in words. Units with a gap before their first ε are left out.
    """
    outcomes = Outcomes.of(predictions)
    tables = [_from_searches(outcomes), _from_ladders(outcomes)]
    kept = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else tables[0]


def _from_searches(outcomes: Outcomes) -> pd.DataFrame:
    parts = []
    for rows, cells in ((outcomes.rows, outcomes.cells), (outcomes.nearest, outcomes.nearest_cells)):
        its = cells.iloc[rows["cell"].to_numpy()].reset_index(drop=True)
        columns = rows[["unit", "clean", "minimum_norm"]].reset_index(drop=True)
        part = pd.concat([its[list(CELL)], columns], axis=1)
        own = (part["source"] == part["target"]) & (part["clean"] == 1) & part["minimum_norm"].notna()
        parts.append(part[own.to_numpy(dtype=bool)])
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    held = [name for name in CELL if name != "epsilon"]
    found = found.drop_duplicates([*held, "unit"])  # one search stands at every ε
    out = []
    for _, group in found.groupby(held, dropna=False, sort=True):
        key = group.iloc[0][list(CELL)].to_dict() | {"epsilon": np.nan}
        values = group["minimum_norm"].to_numpy(dtype=float)
        out.append(key | _median("median_minimum_norm", values, key["norm"], np.inf, 0))
    return pd.DataFrame(out, columns=[*CELL, *FIGURE, "shown"])


def _from_ladders(outcomes: Outcomes) -> pd.DataFrame:
    rows, cells = outcomes.rows, outcomes.cells
    held = [name for name in CELL if name != "epsilon"]
    searched = np.bincount(rows["cell"], weights=rows["minimum_norm"].notna(), minlength=len(cells)) > 0
    epsilon = cells["epsilon"].to_numpy(dtype=float)
    usable = (cells["source"] == cells["target"]).to_numpy(dtype=bool) & ~np.isnan(epsilon) & ~searched
    ladder, first = codes_of([pd.factorize(cells[name], sort=True)[0] for name in held])
    steps = np.bincount(ladder, weights=usable, minlength=len(first))
    _, missing, _ = coverage(outcomes, ladder[rows["cell"].to_numpy()], cells["subject"].to_numpy()[first])
    out = []
    for number in np.flatnonzero(steps > 1):
        members = np.flatnonzero((ladder == number) & usable)
        members = members[np.argsort(epsilon[members])]
        rank = np.full(len(cells), -1)
        rank[members] = np.arange(len(members))
        own = rows[(rank[rows["cell"].to_numpy()] >= 0) & (rows["clean"] == 1).to_numpy()]
        unit, place = np.unique(own["unit"].to_numpy(), return_inverse=True)
        table = np.full((len(unit), len(members)), UNKNOWN, dtype=np.int8)
        table[place, rank[own["cell"].to_numpy()]] = own["fooled"].to_numpy()
        fooled = table == 1
        at = np.where(fooled.any(axis=1), fooled.argmax(axis=1), len(members))
        before = np.arange(len(members)) < at[:, None]
        sure = ~((table == UNKNOWN) & before).any(axis=1)
        values = np.append(epsilon[members], np.inf)[at[sure]]
        key = cells.iloc[members[0]][list(CELL)].to_dict() | {"epsilon": np.nan}
        left_out = int((~sure).sum() + missing[number])
        figure = _median("median_first_epsilon", values, key["norm"], epsilon[members[-1]], left_out)
        out.append(key | figure)
    return pd.DataFrame(out, columns=[*CELL, *FIGURE, "shown"])


def _median(metric: str, values: np.ndarray, norm: str, largest: float, left_out: int) -> dict:
    middle, low, high = median_interval(values)
    return {
        "metric": metric,
        "value": middle if np.isfinite(middle) else np.nan,
        "low": low if np.isfinite(low) else np.nan,
        "high": high if np.isfinite(high) else np.nan,
        "hits": int(np.isfinite(values).sum()),
        "total": len(values),
        "note": f"{left_out} units were not tried at every ε below their first." if left_out else "",
        "shown": "" if np.isnan(middle) else _words(middle, low, high, norm, largest),
    }


def _words(middle: float, low: float, high: float, norm: str, largest: float) -> str:
    unit = "/255" if norm in norms_in_255() else ""

    def one(value: float) -> str:
        if np.isfinite(value):
            return f"{value:.3g}{unit}"
        return f"> {largest:g}{unit}" if np.isfinite(largest) else "not found"

    return f"{one(middle)} [{one(low)}, {one(high)}]"


def queries(predictions: Predictions) -> pd.DataFrame:
    """Return `queries` and `gradients`: medians of the passes and gradients spent on each unit, over the successes.

    hits: successes counted; total: units right when clean with a known answer. An attack without a success has NaN.
    Only for a black box are passes queries in the strict sense; the search's own account is taken.
    """
    outcomes = Outcomes.of(predictions)
    rows, cells = outcomes.rows, outcomes.cells
    cell, fooled = rows["cell"].to_numpy(), rows["fooled"].to_numpy()
    total = np.bincount(cell, weights=fooled != UNKNOWN, minlength=len(cells)).astype(int)
    out = []
    for metric, column in (("queries", "forwards"), ("gradients", "backwards")):
        spent = rows[column].to_numpy()
        won = (fooled == 1) & ~np.isnan(spent)
        groups = pd.Series(spent[won]).groupby(cell[won]).apply(lambda values: values.to_numpy())
        for number, key in enumerate(cells[list(CELL)].to_dict("records")):
            values = groups.get(number, np.zeros(0))
            value, low, high = median_interval(values)
            figure = {"metric": metric, "value": value, "low": low, "high": high, "hits": len(values)}
            out.append(key | figure | {"total": int(total[number]), "note": ""})
    return pd.DataFrame(out, columns=[*CELL, *FIGURE])
