"""Accuracy against ε, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from cmai_core.evaluation.figures.counting import FIGURE, Predictions
from cmai_core.evaluation.figures.metrics import accuracy, clean_accuracy
from cmai_core.evaluation.figures.outcomes import SUBJECT, Outcomes
from cmai_core.evaluation.figures.worst_case import worst_case

CURVE = ["source", *SUBJECT, "modality", "recipe", "norm", "seed"]


def accuracy_curves(
    predictions: Predictions, epsilons: Mapping[str, Sequence[float]] | None = None, metric: str = "acc_robust"
) -> pd.DataFrame:
    """Return `acc_robust` (or `asr`) of every recipe, and of the worst case over recipes, at every ε; one row a point.

    Args:
        epsilons: as in `Outcomes.of`: where minimum-norm searches are read (they are known at every ε).
        metric: "acc_robust" or "asr".

    Returns:
        CURVE (what makes a line), epsilon, value, low, high, hits, total, note; by line, rising in ε. Lines of
        robust accuracy begin at ε = 0 with the clean accuracy. The worst case stands where two recipes or more share a
        threat.
    """
    outcomes = Outcomes.of(predictions, epsilons)
    worst = worst_case(outcomes)
    found = pd.concat([accuracy(outcomes), worst[worst["contenders"] > 1]], ignore_index=True)
    found = found[(found["metric"] == metric) & found["epsilon"].notna()]
    columns = [*CURVE, "epsilon", *[name for name in FIGURE if name != "metric"]]
    found = found[columns]
    if metric == "acc_robust" and len(found):
        lines = found[CURVE].drop_duplicates()
        start = clean_accuracy(outcomes)
        start = start[[*SUBJECT, "value", "low", "high", "hits", "total", "note"]].assign(epsilon=0.0)
        start = lines.merge(start, on=list(SUBJECT), how="left")
        found = pd.concat([start[columns], found], ignore_index=True)
    return found.sort_values([*CURVE, "epsilon"], ignore_index=True)
