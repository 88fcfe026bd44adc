"""95 % intervals of shares, means, ratios and medians, quick enough for thousands of cells.

All are percentile intervals of the bootstrap (`cmai_core.bootstrap`). Draws depend on (number of units, seed) alone, so
two figures over the same units are resampled alike. What is unknown is NaN.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cmai_core.bootstrap import LEVEL, percentiles, resampled_counts


def share_interval(hits: np.ndarray, total: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (low, high) of shares `hits / total` of independent units; NaN where the total is 0.

    A resampled share is binomial with the probability hits/total, so its percentiles are known without drawing. Where
    none or all of the units hit, every resample is alike and the bootstrap says nothing; there the exact interval is
    given (Clopper and Pearson 1934).
    """
    from scipy.stats import beta, binom

    hits, total = np.asarray(hits, dtype=float), np.asarray(total, dtype=float)
    tail = (1 - level) / 2
    counted = np.where(total > 0, total, np.nan)
    share = hits / counted
    low, high = binom.ppf(tail, counted, share) / counted, binom.ppf(1 - tail, counted, share) / counted
    none, every = (hits == 0) & (total > 0), (hits == total) & (total > 0)
    with np.errstate(invalid="ignore"):
        high = np.where(none, beta.ppf(1 - tail, 1, counted), high)
        low = np.where(every, beta.ppf(tail, counted, 1), low)
    return np.where(none, 0.0, low), np.where(every, 1.0, high)


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return (mean, low, high) of N finite values; NaN of none."""
    return ratio_interval(values, np.ones(len(values)), seed)


def ratio_interval(above: np.ndarray, below: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return (Σ above / Σ below, low, high), resampling units (rows), such as pictures that have several texts each.

    Args:
        above, below: N sums, one a unit. seed: of the resamples.
    """
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    if not len(above) or not below.sum():
        return np.nan, np.nan, np.nan
    columns = np.stack([above, below], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.concatenate([block @ columns for block in resampled_counts(len(above), seed=seed)])
        low, high = percentiles(sums[:, 0] / sums[:, 1])
    return float(above.sum() / below.sum()), low, high


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return (median, low, high) of N values, infinite ones allowed; NaN of none.

    How the median of a resample is distributed over the ordered values is known without drawing (Efron 1979, sec. 3).
    Of an even number of values the two middle ones are bounded each by itself, which errs on the wide side.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    if not count:
        return np.nan, np.nan, np.nan
    first, second = ordered[(count - 1) // 2], ordered[count // 2]
    low, high = _median_ranks(count)
    middle = first if first == second else (first + second) / 2
    return float(middle), float(ordered[low]), float(ordered[high])


@lru_cache(maxsize=4096)
def _median_ranks(count: int) -> tuple[int, int]:
    """Return the places of the median's bounds among `count` ordered values."""
    from scipy.stats import binom

    tail = (1 - LEVEL) / 2
    # the lower middle of a resample is at most the k-th value where (N+1)//2 draws or more are among the first k
    share = np.arange(1, count + 1) / count
    below = binom.sf((count + 1) // 2 - 1, count, share)
    above = binom.sf(count // 2, count, share)
    return int(np.argmax(below >= tail)), int(np.argmax(above >= 1 - tail))
