"""The summary: one row a (target, task, recipe or worst case, ε) and metric."""

from __future__ import annotations

import pandas as pd

from cmai_core.evaluation.figures.counting import FIGURE, Predictions
from cmai_core.evaluation.figures.metrics import accuracy, clean_accuracy
from cmai_core.evaluation.figures.outcomes import CELL, VALIDATION, Outcomes
from cmai_core.evaluation.figures.scores import consistency, detection
from cmai_core.evaluation.figures.worst_case import worst_case

SUMMARY = [*CELL, *FIGURE, "recipes"]


def summary_table(predictions: Predictions, *, scores: bool = False) -> pd.DataFrame:
    """Return clean accuracy, robust accuracy and ASR of every recipe and of the worst case over recipes.

    Args:
        scores: also what flagging low S_c is worth (`scores.detection` without AUROC's intervals); column `score`.

    Returns:
        SUMMARY columns; clean rows first, then by recipe with the worst case last, rising in ε. The worst case stands
        where two recipes or more share a threat, and says in `recipes` how many units each faced. Validation's clean
        rows, which thresholds are set on, are left out. Attacks that are about no task (on texts alone) have the mean
        S_c that they reach, `consistency`, in the place of accuracies.
    """
    outcomes = Outcomes.of(predictions)
    clean = clean_accuracy(outcomes)
    clean = clean[(clean["split"] != VALIDATION) | ~(clean["split"] != VALIDATION).any()]
    clean = clean[clean["task"] != ""]  # pairs that were only scored, not asked about
    worst = worst_case(outcomes)
    worst = worst[worst["contenders"] > 1].drop(columns="contenders")
    alone = accuracy(outcomes)
    untold = outcomes.select((outcomes.cells["task"] == "").to_numpy(dtype=bool))
    reached = consistency(untold)
    reached = reached[(reached["metric"] == "consistency") & (reached["score"] == "pair")]
    parts = [(0, clean), (1, alone[alone["task"] != ""]), (1, reached), (2, worst[worst["task"] != ""])]
    if scores:
        parts.append((1, detection(outcomes, intervals=False)))
    columns = [*SUMMARY, "score"]
    parts = [(order, part[[name for name in columns if name in part]]) for order, part in parts]
    table = pd.concat([part.assign(_order=order) for order, part in parts if len(part)], ignore_index=True)
    for name in ("recipes", "score"):
        if name in table:
            table[name] = table[name].fillna("")
    if "recipes" not in table:
        table["recipes"] = ""
    by = ["target", "task", "dataset", "split", "source", "_order", "recipe", "norm", "epsilon", "seed", "metric"]
    table = table.sort_values(by, kind="stable", ignore_index=True, na_position="first")
    return table[[*SUMMARY, *(["score"] if scores else [])]]
