"""How well a low consistency score S_c tells attacked pairs from clean ones: ROC, AUROC, thresholds, intervals.

One rule throughout: a pair is flagged when its score lies *below* the threshold, `score < τ`. "Positive" means
attacked: the false-positive rate (FPR) is the share of clean pairs flagged, the true-positive rate (TPR) the share
of attacked pairs flagged. Only NumPy; random numbers come from the generator that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cmai_core.errors import DataError, OptionError

Scores = Sequence[float] | np.ndarray
GUARANTEES = ("calibration", "new")


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from (0, 0) to (1, 1).

    Attributes:
        fpr, tpr: K values in [0, 1], neither ever falling.
        thresholds: K values of τ that give them (`score < τ`); the first is −inf (nothing flagged).
        area: the area under the curve, as `auroc`.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    area: float


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap percentile interval [low, high] at the confidence `level`."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Threshold:
    """A threshold τ calibrated on clean pairs.

    Attributes:
        tau: pairs with a score below it are flagged.
        stated_fpr: the rate that was asked for.
        realised_fpr: the share of the calibration pairs below τ; never more than `stated_fpr`.
        count: calibration pairs.
        guarantee: see `threshold_at_fpr`.
        interval: τ over bootstrap samples of the calibration pairs; None where none was asked for.
    """

    tau: float
    stated_fpr: float
    realised_fpr: float
    count: int
    guarantee: str = "calibration"
    interval: Interval | None = None


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


@dataclass(frozen=True)
class Summary:
    """A set of scores in numbers; `quantiles` at 5, 25, 50, 75 and 95 %, `sd` divides by N−1 (0 for N = 1)."""

    count: int
    mean: float
    sd: float
    low: float
    high: float
    quantiles: tuple[float, float, float, float, float]


def _checked(scores: Scores, what: str) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"No {what} scores (an array of the shape {values.shape}).", "Give at least one number.")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} {what} scores are not finite numbers.")
    return values


def _rate(value: float, name: str = "false-positive rate") -> float:
    if not 0.0 <= value <= 1.0:
        raise OptionError(f"A {name} of {value} does not exist.", "Give a number from 0 to 1.")
    return float(value)


def auroc(clean_scores: Scores, attacked_scores: Scores) -> float:
    """Area under the ROC: the chance that an attacked pair scores lower than a clean one, ties counting half.

    0.5 is guessing, 1 perfect. Computed from ranks (Mann–Whitney U; Hanley and McNeil 1982), so it is exact.

    Raises:
        DataError: no scores, or scores that are not finite.
    """
    clean, attacked = np.sort(_checked(clean_scores, "clean")), _checked(attacked_scores, "attacked")
    below = np.searchsorted(clean, attacked, side="left")
    up_to = np.searchsorted(clean, attacked, side="right")
    greater = len(clean) - up_to
    return float((greater + 0.5 * (up_to - below)).mean() / len(clean))


def roc(clean_scores: Scores, attacked_scores: Scores) -> Roc:
    """The whole curve; one point for each distinct score, and (0, 0).

    Raises:
        DataError: no scores, or scores that are not finite.
    """
    clean, attacked = np.sort(_checked(clean_scores, "clean")), np.sort(_checked(attacked_scores, "attacked"))
    distinct = np.unique(np.concatenate([clean, attacked]))
    fpr = np.searchsorted(clean, distinct, side="right") / len(clean)
    tpr = np.searchsorted(attacked, distinct, side="right") / len(attacked)
    return Roc(
        np.concatenate([[0.0], fpr]),
        np.concatenate([[0.0], tpr]),
        np.concatenate([[-np.inf], np.nextafter(distinct, np.inf)]),
        auroc(clean, attacked),
    )


def roc_curve(clean_scores: Scores, attacked_scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr) of `roc`, for drawing."""
    curve = roc(clean_scores, attacked_scores)
    return curve.fpr, curve.tpr


def rates_at(clean_scores: Scores, attacked_scores: Scores, tau: float) -> tuple[float, float]:
    """(FPR, TPR) of flagging what scores below `tau`."""
    clean, attacked = _checked(clean_scores, "clean"), _checked(attacked_scores, "attacked")
    return float((clean < tau).mean()), float((attacked < tau).mean())


def threshold_at_fpr(clean_scores: Scores, fpr: float, guarantee: str = "calibration") -> float:
    """The largest τ (among the scores) that keeps the false-positive rate at or under `fpr`.

    Args:
        clean_scores: N scores of clean pairs, not those that will be reported on.
        fpr: the rate allowed, in [0, 1].
        guarantee: "calibration": at most `fpr` of these N pairs lie below τ. "new": the *expected* rate on further
            pairs of the same kind is at most `fpr` (split conformal prediction: Vovk et al. 2005), slightly stricter;
            −inf, flagging nothing, where N is too small for it (N + 1 < 1/fpr).

    Raises:
        DataError: no scores, or scores that are not finite.
        OptionError: a rate outside [0, 1], an unknown guarantee.
    """
    values, fpr = np.sort(_checked(clean_scores, "clean")), _rate(fpr)
    if guarantee not in GUARANTEES:
        raise OptionError(f"Unknown guarantee {guarantee!r}.", f"Choose from {', '.join(GUARANTEES)}.")
    total = len(values) if guarantee == "calibration" else len(values) + 1
    allowed = math.floor(fpr * total + 1e-9)  # 0.29 * 100 is 28.999…96
    position = allowed if guarantee == "calibration" else allowed - 1
    if position < 0:
        return -math.inf
    if position >= len(values):
        return float(np.nextafter(values[-1], np.inf))
    return float(values[position])


def calibrate(
    clean_scores: Scores,
    fpr: float,
    *,
    guarantee: str = "calibration",
    generator: np.random.Generator | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Threshold:
    """`threshold_at_fpr` with what it realises; with a generator also the bootstrap interval of τ."""
    values = _checked(clean_scores, "clean")
    tau = threshold_at_fpr(values, fpr, guarantee)
    interval = None
    if generator is not None:
        samples = (
            threshold_at_fpr(values[_rows(generator, len(values))], fpr, guarantee) for _ in range(_count(resamples))
        )
        interval = _percentiles(tau, samples, level)
    return Threshold(tau, float(fpr), float((values < tau).mean()), len(values), guarantee, interval)


def tpr_at_fpr(clean_scores: Scores, attacked_scores: Scores, fpr: float) -> float:
    """Share of attacked pairs flagged at the threshold `threshold_at_fpr(clean_scores, fpr)`; conservative, no
    interpolation between points of the curve."""
    return rates_at(clean_scores, attacked_scores, threshold_at_fpr(clean_scores, fpr))[1]


def bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    clean_scores: Scores,
    attacked_scores: Scores,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of `statistic(clean, attacked)`, such as `auroc`.

    Args:
        statistic: called with two arrays.
        generator: source of the resamples.
        resamples: number of resamples, at least 100.
        level: confidence, in (0, 1).
        paired: row k of both sets is the same pair before and after the attack, and is drawn as one.

    Raises:
        DataError: no scores, scores that are not finite, or paired sets of different lengths.
        OptionError: too few resamples, a level outside (0, 1).
    """
    clean, attacked = _checked(clean_scores, "clean"), _checked(attacked_scores, "attacked")
    if paired and len(clean) != len(attacked):
        raise DataError(f"{len(clean)} clean and {len(attacked)} attacked scores are not pairs.", "Use paired=False.")

    def draw() -> float:
        rows = _rows(generator, len(clean))
        return statistic(clean[rows], attacked[rows if paired else _rows(generator, len(attacked))])

    samples = (draw() for _ in range(_count(resamples)))
    return _percentiles(float(statistic(clean, attacked)), samples, level)


def auroc_interval(
    clean_scores: Scores,
    attacked_scores: Scores,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
) -> Interval:
    """`auroc` with its bootstrap interval."""
    return bootstrap(
        auroc, clean_scores, attacked_scores, generator=generator, resamples=resamples, level=level, paired=paired
    )


def tpr_interval(
    clean_scores: Scores,
    attacked_scores: Scores,
    fpr: float,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
) -> Interval:
    """`tpr_at_fpr` with its bootstrap interval; the threshold is calibrated anew in each resample, so that its own
    uncertainty is included."""
    rate = _rate(fpr)
    return bootstrap(
        lambda clean, attacked: tpr_at_fpr(clean, attacked, rate),
        clean_scores,
        attacked_scores,
        generator=generator,
        resamples=resamples,
        level=level,
        paired=paired,
    )


def histogram(scores: Mapping[str, Scores], bins: int = 40, limits: tuple[float, float] | None = None) -> Histogram:
    """Counts of each named set over shared bins.

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
    arrays = {name: _checked(v, name) if len(v) else np.zeros(0) for name, v in scores.items()}
    everything = _checked(np.concatenate([*arrays.values(), np.zeros(0)]), "given")
    low, high = limits if limits is not None else (float(everything.min()), float(everything.max()))
    if limits is None and high - low < 1e-9:
        low, high = low - 0.5e-3, high + 0.5e-3
    if not low < high:
        raise OptionError(f"Limits ({low}, {high}) of a histogram.", "The first must be smaller than the second.")
    edges = np.linspace(low, high, bins + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in arrays.items()}
    outside = {name: int(len(values) - counts[name].sum()) for name, values in arrays.items()}
    return Histogram(edges, counts, outside)


def summary(scores: Scores) -> Summary:
    """Count, mean, standard deviation, range and quantiles."""
    values = _checked(scores, "given")
    quantiles = tuple(float(q) for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Summary(len(values), float(values.mean()), sd, float(values.min()), float(values.max()), quantiles)


def _rows(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.integers(0, count, size=count)


def _count(resamples: int) -> int:
    if resamples < 100:
        raise OptionError(f"{resamples} bootstrap resamples.", "Use at least 100.")
    return int(resamples)


def _percentiles(value: float, samples, level: float) -> Interval:
    if not 0.0 < level < 1.0:
        raise OptionError(f"A confidence level of {level}.", "Give a number between 0 and 1, such as 0.95.")
    tail = (1.0 - level) / 2
    # "lower"/"higher" instead of interpolation: τ may be −inf in some resamples
    drawn = np.sort(np.fromiter(samples, dtype=np.float64))
    low = drawn[math.floor(tail * (len(drawn) - 1))]
    high = drawn[math.ceil((1.0 - tail) * (len(drawn) - 1))]
    return Interval(value, float(low), float(high), level)
