"""Checks from the predictions of a finished evaluation alone: no model, no new attack.

Rows with known outcomes are compared item by item. A cell need not hold every item (a cascade asks a recipe only for
survivors), so comparisons use the items that both sides have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import pandas as pd

from cmai_core.evaluation.checks import compared, coverage, tried
from cmai_core.evaluation.checks.check import Check, skipped
from cmai_core.evaluation.checks.rows import Rows
from cmai_core.registry import Registry

CHECKS: Registry[Callable[[Rows], Check]] = Registry(
    "self-check",
    "cmai.checks",
    {
        coverage.FACED: coverage.faced,
        coverage.SAME_CLEAN: coverage.same_clean,
        tried.WITHIN: tried.within,
        tried.USES: tried.uses,
        tried.RAISES: tried.raises,
        tried.EARLY_STOP: tried.early,
        tried.FINITE: tried.finite,
        tried.HELPS: tried.helps,
        compared.GROWS: compared.grows,
        compared.LARGE: compared.large,
        compared.SCORES: compared.black_box,
        compared.TRANSFER: compared.transfer,
        compared.SEEDS: compared.seeds,
        compared.ROUNDED: compared.rounded,
    },
)
"""What ought to hold → function of the predictions that gives a `Check`."""


def check_predictions(frame: pd.DataFrame, excused: Collection[tuple[str, str, str]] = ()) -> list[Check]:
    """Make all checks that a predictions table allows; the worst case of each is named in its evidence.

    Args:
        frame: from `evaluation.runs.predictions`. excused: (model, task, recipe) that need not be there, such as the
            cells a plan has skipped with a reason.

    Raises:
        DataError: a column is missing, or there is no row.
    """
    rows = Rows.of(frame, excused)
    if not len(rows.attacked):
        return [skipped(name, "No attack was run.") for name in CHECKS]
    return [check(rows) for check in CHECKS.values()]
