"""How little is enough: each pair at the smallest ε that turned it wrong, and accuracy against ε that follows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.evaluation.figures.outcomes import CLEAN, VALIDATION

MOST_POINTS = 60
UNIT = ["item", "text_index"]


def smallest_epsilons(frame: pd.DataFrame, target: str, task: str, modality: str, norm: str) -> pd.DataFrame:
    """Return the smallest ε of each pair under a model's own attacks.

    A search for the nearest example gives it exactly, an attack at a fixed ε from above: what is returned is the least
    that any attack needed, so accuracy read off it is never too low, and never above that of the single attacks.

    Args:
        frame: `Results.frame`.

    Returns:
        UNIT and `smallest` in the units of ε: 0 where the model is wrong when clean, ∞ where no attack was enough.
    """
    rows = frame[(frame["target"] == target) & (frame["task"] == task) & (frame["split"] != VALIDATION)]
    rows = rows[rows["correct_clean"].notna()]
    clean = rows[rows["recipe"] == CLEAN].drop_duplicates(UNIT)
    right = clean["correct_clean"].astype(bool).to_numpy()
    start = clean[UNIT].assign(smallest=np.where(right, np.inf, 0.0))
    own = rows[(rows["source"] == target) & (rows["recipe"] != CLEAN) & rows["correct"].notna()]
    own = own[(own["modality"] == modality) & (own["norm"] == norm) & own["correct_clean"].astype(bool)]
    searched = own["minimum_norm"].notna() & own["epsilon"].isna()
    fooled = ~own["correct"].astype(bool)
    needed = own["minimum_norm"].where(searched, own["epsilon"]).astype(float)
    needed = needed.where(fooled, np.inf)
    found = pd.concat([start, own[UNIT].assign(smallest=needed)], ignore_index=True)
    return found.groupby(UNIT, sort=False, dropna=False, as_index=False)["smallest"].min()


def smallest_curve(smallest: pd.DataFrame, largest: float) -> pd.DataFrame:
    """Return accuracy against ε, with its 95 % intervals: the share of pairs that need more than ε.

    Args:
        smallest: from `smallest_epsilons`. largest: ε up to which the attacks looked (read at the grid's largest).

    Returns:
        epsilon, value, low, high, hits, total, rising in ε; a step at each ε that turned a pair wrong, at most
        MOST_POINTS of them.
    """
    needed = smallest["smallest"].to_numpy(dtype=float)
    steps = np.unique(np.concatenate([[0.0], needed[(needed > 0) & (needed <= largest)], [largest]]))
    if len(steps) > MOST_POINTS:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int))]
    hits = np.array([(needed > step * (1 + 1e-9)).sum() for step in steps], dtype=float)
    total = np.full(len(steps), float(len(needed)))
    low, high = share_interval(hits, total)
    value = hits / np.maximum(total, 1)
    columns = {"epsilon": steps, "value": value, "low": low, "high": high, "hits": hits, "total": total}
    return pd.DataFrame(columns)
