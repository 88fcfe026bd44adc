"""Comparing explanations before and after an attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmai_core.errors import DataError
from cmai_core.explanations.result import Explanation, rank_correlation, read_only

CORRELATION_LIMIT = 0.5
CONTROL_MARGIN = 0.2


@dataclass(frozen=True)
class ExplanationShift:
    """Whether maps moved while predictions did not, for N pairs.

    Attributes:
        correlation: N, Spearman's rank correlation of the map before with the map after (NaN: a constant map).
        control: N, the same under harmless noise of the same size; None where it was not measured.
        moved: N booleans, the map changed.
        warn: N booleans, the map changed though the prediction did not.
        messages: N sentences, empty where there is nothing to warn of.
    """

    correlation: np.ndarray
    control: np.ndarray | None
    moved: np.ndarray
    warn: np.ndarray
    messages: tuple[str, ...]


def explanation_moved_but_prediction_did_not(
    before: Explanation | np.ndarray,
    after: Explanation | np.ndarray,
    same_prediction: np.ndarray | list[bool],
    *,
    control: Explanation | np.ndarray | None = None,
    limit: float = CORRELATION_LIMIT,
    margin: float = CONTROL_MARGIN,
) -> ExplanationShift:
    """Return the warning rule for heat maps.

    An explanation that changed without the prediction changing is not to be trusted (Ghorbani, Abid and Zou 2019, arXiv
    1710.10547).

    A map counts as moved when its rank correlation with the earlier map is under `limit` and, where a control is given,
    also at least `margin` under what random noise of the same size does to it: some methods are that unstable anyway.

    Args:
        before, after: N×H×W maps of the clean and the attacked images.
        same_prediction: N booleans, the prediction did not change.
        control: N×H×W maps of the clean images under random noise of the attack's norm.

    Raises:
        DataError: maps or predictions that do not fit together.
    """
    one, other = (np.asarray(m.map if isinstance(m, Explanation) else m) for m in (before, after))
    correlation = rank_correlation(one, other)
    same = np.asarray(same_prediction, dtype=bool)
    if same.shape != correlation.shape:
        raise DataError(f"{same.shape} predictions for {len(correlation)} maps.", "Give one truth value a map.")
    moved = correlation < limit
    noise = None
    if control is not None:
        noise = rank_correlation(one, np.asarray(control.map if isinstance(control, Explanation) else control))
        moved &= ~(correlation >= noise - margin)
    warn = moved & same
    messages = tuple(
        f"The explanation moved (rank correlation {rho:.2f}) while the prediction stayed the same: "
        "do not read this map as the reason for the prediction."
        if flag
        else ""
        for rho, flag in zip(correlation, warn, strict=True)
    )
    return ExplanationShift(read_only(correlation), None if noise is None else read_only(noise), moved, warn, messages)
