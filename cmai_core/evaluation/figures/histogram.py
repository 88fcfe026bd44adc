"""Counts of several sets of scores over the same bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cmai_core.errors import OptionError
from cmai_core.evaluation.figures.detection import Scores, checked


@dataclass(frozen=True)
class Histogram:
    """Counts of several sets of scores over the same bins.

    Attributes:
        edges: B+1 values, rising.
        counts: name → B counts. The last bin includes its right edge.
        outside: name → how many scores lie outside the edges (0 unless limits were given).
    """

    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    outside: Mapping[str, int] = field(default_factory=dict)


def histogram(scores: Mapping[str, Scores], bins: int = 40, limits: tuple[float, float] | None = None) -> Histogram:
    """Count each named set over shared bins.

    Args:
        scores: name → scores, e.g. {"clean": …, "adversarial": …}. A set may be empty.
        bins: number of bins, 1 to 1000.
        limits: (low, high); None: the range of all scores together (widened where they are all equal).

    Raises:
        DataError: no scores at all, or scores that are not finite.
        OptionError: a bad number of bins, limits that do not rise.
    """
    if not 1 <= bins <= 1000:
        raise OptionError(f"{bins} bins.", "Choose 1 to 1000.")
    arrays = {name: checked(v, name) if len(v) else np.zeros(0) for name, v in scores.items()}
    everything = checked(np.concatenate([*arrays.values(), np.zeros(0)]), "given")
    low, high = limits if limits is not None else (float(everything.min()), float(everything.max()))
    if limits is None and high - low < 1e-9:
        low, high = low - 0.5e-3, high + 0.5e-3
    if not low < high:
        raise OptionError(f"Limits ({low}, {high}) of a histogram.", "The first must be smaller than the second.")
    edges = np.linspace(low, high, bins + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in arrays.items()}
    outside = {name: int(len(values) - counts[name].sum()) for name, values in arrays.items()}
    return Histogram(edges, counts, outside)
