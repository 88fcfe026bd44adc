"""How well a low consistency score S_c tells attacked pairs from clean ones: ROC, AUROC, thresholds.

One rule throughout: a pair is flagged when its score lies *below* the threshold, `score < τ`. "Positive" means
attacked: the false-positive rate (FPR) is the share of clean pairs flagged, the true-positive rate (TPR) the share
of attacked pairs flagged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cmai_core.bootstrap import percentiles, resampled_rows
from cmai_core.errors import DataError, OptionError

Scores = Sequence[float] | np.ndarray
GUARANTEES = ("calibration", "new")


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap percentile interval [low, high] at the confidence `level`."""

    value: float
    low: float
    high: float
    level: float


def checked(scores: Scores, what: str) -> np.ndarray:
    """Return scores as a float64 array.

    Raises:
        DataError: no scores, not a list of numbers, or scores that are not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"No {what} scores (an array of the shape {values.shape}).", "Give at least one number.")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} {what} scores are not finite numbers.")
    return values


def _labelled(clean_scores: Scores, attacked_scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, scores) as scikit-learn wants them: 1 is attacked, higher means more likely attacked."""
    clean, attacked = checked(clean_scores, "clean"), checked(attacked_scores, "attacked")
    return np.repeat([0, 1], [len(clean), len(attacked)]), -np.concatenate([clean, attacked])


def auroc(clean_scores: Scores, attacked_scores: Scores) -> float:
    """Return the area under the ROC: the chance that an attacked pair scores lower than a clean one (ties count half).

    0.5 is guessing, 1 perfect (Hanley and McNeil 1982).

    Raises:
        DataError: no scores, or scores that are not finite.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(clean_scores, attacked_scores)))


def roc_curve(clean_scores: Scores, attacked_scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return (FPR, TPR) of all thresholds: (0, 0), then one point for each distinct score, up to (1, 1).

    Raises:
        DataError: no scores, or scores that are not finite.
    """
    from sklearn import metrics

    fpr, tpr, _ = metrics.roc_curve(*_labelled(clean_scores, attacked_scores), drop_intermediate=False)
    return fpr, tpr


def rates_at(clean_scores: Scores, attacked_scores: Scores, tau: float) -> tuple[float, float]:
    """Return (FPR, TPR) of flagging what scores below `tau`."""
    clean, attacked = checked(clean_scores, "clean"), checked(attacked_scores, "attacked")
    return float((clean < tau).mean()), float((attacked < tau).mean())


def threshold_at_fpr(clean_scores: Scores, fpr: float, guarantee: str = "calibration") -> float:
    """Return the largest τ (among the scores) that keeps the false-positive rate at or under `fpr`.

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
    values = np.sort(checked(clean_scores, "clean"))
    if not 0.0 <= fpr <= 1.0:
        raise OptionError(f"A false-positive rate of {fpr} does not exist.", "Give a number from 0 to 1.")
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


def auroc_interval(
    clean_scores: Scores,
    attacked_scores: Scores,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
) -> Interval:
    """Return `auroc` with its bootstrap interval.

    Args:
        generator: source of the resamples. resamples: how many, at least 100. level: confidence, in (0, 1).
        paired: row k of both sets is the same pair before and after the attack, and is drawn as one.

    Raises:
        DataError: no scores, scores that are not finite, or paired sets of different lengths.
        OptionError: too few resamples, a level outside (0, 1).
    """
    clean, attacked = checked(clean_scores, "clean"), checked(attacked_scores, "attacked")
    if paired and len(clean) != len(attacked):
        raise DataError(f"{len(clean)} clean and {len(attacked)} attacked scores are not pairs.", "Use paired=False.")
    if resamples < 100:
        raise OptionError(f"{resamples} bootstrap resamples.", "Use at least 100.")
    blocks = _drawn(generator, len(clean), len(attacked), int(resamples), paired)
    low, high = percentiles(resampled_areas(clean, attacked, blocks), level, interpolate=False)
    return Interval(auroc(clean, attacked), low, high, level)


def _drawn(
    generator: np.random.Generator, clean: int, attacked: int, resamples: int, paired: bool
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield for each resample how often each clean and each attacked score is taken (1×N and 1×M)."""
    for _ in range(resamples):
        (first,) = resampled_rows(generator, clean, 1)
        second = first if paired else next(resampled_rows(generator, attacked, 1))
        yield np.bincount(first, minlength=clean)[None], np.bincount(second, minlength=attacked)[None]


def resampled_areas(
    clean: np.ndarray, attacked: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the AUROC of many resamples, for which scikit-learn, called one by one, takes many seconds.

    Args:
        clean, attacked: N and M scores.
        blocks: how often each score is taken: B×N and B×M of the next B resamples.

    Returns:
        One area for each resample, NaN where it has no clean or no attacked score.
    """
    order = np.argsort(clean, kind="stable")
    below = np.searchsorted(clean[order], attacked, side="left")
    up_to = np.searchsorted(clean[order], attacked, side="right")
    areas = []
    for taken_clean, taken_attacked in blocks:
        up = np.cumsum(taken_clean[:, order], axis=1, dtype=float)
        up = np.concatenate([np.zeros((len(up), 1)), up], axis=1)
        # clean scores above each attacked one, equal ones counting half
        above = up[:, -1:] - (up[:, below] + up[:, up_to]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            areas.append((above * taken_attacked).sum(axis=1) / (up[:, -1] * taken_attacked.sum(axis=1)))
    return np.concatenate(areas)
