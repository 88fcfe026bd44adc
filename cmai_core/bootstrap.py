"""Percentile bootstrap intervals (Efron 1979): the one place that draws samples anew.

A resample draws as many units (pictures, scenes, pairs) as there are, with replacement. It is written as the numbers of
the units drawn (`resampled_rows`) or as how often each was drawn (`resampled_counts`), which is quicker for sums. The
same seed gives the same draws, so figures that were published can be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cmai_core.errors import DataError, OptionError

RESAMPLES = 1000
LEVEL = 0.95
_CACHED_UNITS = 4096
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A figure over n units with the bounds of its percentile interval."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """Return the four numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Resample the rows of `values`.

    Args:
        values: n units, or n×k numbers that the statistic needs of each unit.
        statistic: function of resampled rows; None: the mean. Resamples in which it is not a number are left out.
        resamples: how many to draw. level: share of the resamples inside the interval, in (0, 1). seed: of the draws.

    Raises:
        DataError: there is no unit.
        OptionError: the level is outside (0, 1).
    """
    rows = np.asarray(values, dtype=float)
    if not len(rows):
        raise DataError("There is nothing to average.", "Give at least one sample.")
    if statistic is None:
        drawn = np.concatenate([block @ rows for block in resampled_counts(len(rows), resamples, seed)]) / len(rows)
        value = float(rows.mean())
    else:
        generator = np.random.default_rng(seed)
        drawn = np.array([statistic(rows[taken]) for taken in resampled_rows(generator, len(rows), resamples)])
        value = float(statistic(rows))
    return Interval(value, *percentiles(drawn, level), len(rows))


def resampled_rows(generator: np.random.Generator, units: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield the numbers of the units drawn (int64, `units` of them), once for each resample."""
    for _ in range(resamples):
        yield generator.integers(0, units, size=units)


def resampled_counts(units: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn: float64 blocks of shape B×units, `resamples` rows in all.

    Draws of up to 4096 units are kept and yielded read-only.
    """
    if units <= _CACHED_UNITS:
        yield _cached_counts(units, resamples, seed)
        return
    generator, step = np.random.default_rng(seed), max(1, _CHUNK_VALUES // units)
    for start in range(0, resamples, step):
        yield _counts(generator, units, min(step, resamples - start))


@lru_cache(maxsize=3)
def _cached_counts(units: int, resamples: int, seed: int) -> np.ndarray:
    drawn = _counts(np.random.default_rng(seed), units, resamples)
    drawn.flags.writeable = False
    return drawn


def _counts(generator: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    return generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(float)


def percentiles(drawn: np.ndarray, level: float = LEVEL, *, interpolate: bool = True) -> tuple[float, float]:
    """Return the bounds (low, high) that hold the middle `level` of resampled figures.

    Args:
        drawn: figures; those that are not a number are left out, and of none the bounds are not numbers either.
        interpolate: False takes the next figure that was drawn, on the outer side.

    Raises:
        OptionError: the level is outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise OptionError(f"A confidence level of {level}.", "Give a number between 0 and 1, such as 0.95.")
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return np.nan, np.nan
    if interpolate:
        methods = ["linear"] * 2 if np.isfinite(known).all() else ["closest_observation"] * 2
    else:
        methods = ["lower", "higher"]
    tails = ((1 - level) / 2, (1 + level) / 2)
    low, high = (np.quantile(known, tail, method=method) for tail, method in zip(tails, methods, strict=True))
    return float(low), float(high)
