"""Checks of whether attacks tried: within their budget, using it, raising their objective."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cmai_core.evaluation.checks.check import BARELY, LAZY_SHARE, SOME_SHARE, Check, lead, share, skipped
from cmai_core.evaluation.checks.rows import Rows, cell_name, cells_of, column, finite_rows, fraction, gravest

# What a search that has stopped early has spent, as a share of the median of its cell.
EARLY = 0.5

WITHIN = "every example lies within its budget"
USES = "attacks use their budget on what they do not fool"
RAISES = "attacks raise their objective"
EARLY_STOP = "attacks spend the same effort on all they do not fool"
FINITE = "objectives and gradients were finite"
HELPS = "attacks do not make a model more often right"


def within(given: Rows) -> Check:
    """Check that no pixel value changes by more than ε, after rounding to 8 bits half a level more."""
    rows = given.own[(given.own["norm"] == "linf").to_numpy() & finite_rows(given.own, "linf", "epsilon")]
    cells = []
    for key, group in cells_of(rows):
        epsilon = column(group, "epsilon")
        room = np.where(epsilon == np.round(epsilon), 1e-3, 0.5 + 1e-3)
        cells.append((key, column(group, "linf") * 255 > epsilon + room))
    none = "No perturbation of pixel values was recorded."
    return fraction(WITHIN, cells, "of the examples lie outside", 0.0, 0.0, none)


def uses(given: Rows) -> Check:
    """Check that what was not fooled lies at the edge of the budget; budgets below one level are left to rounding."""
    rows = given.bounded[(given.bounded["norm"] == "linf").to_numpy() & (given.bounded["fooled"] == 0).to_numpy()]
    rows = rows[finite_rows(rows, "linf", "epsilon")]
    rows = rows[column(rows, "epsilon") >= 1]
    cells = [(key, column(g, "linf") * 255 < BARELY * column(g, "epsilon")) for key, g in cells_of(rows)]
    none = "No item was left unfooled at a budget of one level or more."
    return fraction(USES, cells, "of the unfooled examples use less than half of it", SOME_SHARE, LAZY_SHARE, none)


def raises(given: Rows) -> Check:
    """Check that the objective of what was not fooled is higher than on the clean item."""
    rows = given.bounded[(given.bounded["fooled"] == 0).to_numpy()]
    rows = rows[finite_rows(rows, "objective", "objective_clean")]
    cells = [(key, column(g, "objective") <= column(g, "objective_clean")) for key, g in cells_of(rows)]
    none = "No item was left unfooled whose objective is known."
    return fraction(RAISES, cells, "of the unfooled examples raise it not at all", SOME_SHARE, LAZY_SHARE, none)


def early(given: Rows) -> Check:
    """Check that an attack on pictures spends no less on one item than on another that it does not fool either.

    Attacks on texts have: a short text has fewer candidates.
    """
    rows = given.bounded[((given.bounded["fooled"] == 0) & (given.bounded["modality"] == "image")).to_numpy()]
    rows = rows[finite_rows(rows, "forwards")]
    cells = [(k, column(g, "forwards") < EARLY * np.median(column(g, "forwards"))) for k, g in cells_of(rows)]
    none = "No item was left unfooled whose passes were counted."
    what = "of the unfooled items got less than half of the median passes"
    return fraction(EARLY_STOP, cells, what, 0.0, SOME_SHARE, none)


def finite(given: Rows) -> Check:
    """Check that no note speaks of values that are not numbers."""
    rows = given.attacked
    notes = rows["note"].fillna("").astype(str) if "note" in rows else pd.Series("", index=rows.index)
    bad = notes.str.contains("not finite|not a number").to_numpy()
    hits, total = int(bad.sum()), len(rows)
    evidence = f"{share(hits, total)} of the rows have a note of gradients or objectives that are not finite"
    if hits:
        evidence += f", such as {cell_name(rows[bad].iloc[0].to_dict())}"
    status = "fail" if hits > SOME_SHARE * total else "warn" if hits else "pass"
    return Check(FINITE, status, evidence + ".", {"hits": hits, "total": total})


def helps(given: Rows) -> Check:
    """Check that attacked accuracy is not above clean accuracy ("label leaking", Kurakin et al. 2017, 1611.01236)."""
    found = []
    known = given.own["correct_known"].notna() & given.own["correct_clean_known"].notna()
    for key, rows in cells_of(given.own[known]):
        gained = lead(rows["correct_known"] == 1, rows["correct_clean_known"] == 1)
        numbers = {"clean": int(rows["correct_clean_known"].sum()), "attacked": int(rows["correct_known"].sum())}
        evidence = (
            f"{cell_name(key)}: {share(numbers['attacked'], len(rows))} are right attacked, "
            f"{share(numbers['clean'], len(rows))} clean."
        )
        found.append(Check(HELPS, gained.status, evidence, numbers | {"p": gained.p}))
    found.sort(key=lambda check: check.numbers["clean"] - check.numbers["attacked"])
    return gravest(found, HELPS, skipped(HELPS, "No attacked answer is known."))
