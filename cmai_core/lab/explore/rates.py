"""Numbers of a selection: how often the attack succeeds, what a threshold on S_c finds, and the ROC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmai_core.evaluation.figures import detection
from cmai_core.evaluation.figures.histogram import Histogram
from cmai_core.evaluation.figures.intervals import share_interval
from cmai_core.lab.explore.run import ADVERSARIAL, CLEAN, FOOLED, OUTCOMES, ExploreRun

BINS = 36


@dataclass(frozen=True)
class Success:
    """How often an attack succeeded: `hits` of `total` pairs that were right when clean, with a 95 % interval.

    `right` of `pairs` were right when clean. NaN where there is nothing to count.
    """

    hits: int
    total: int
    pairs: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.hits / self.total if self.total else float("nan")


def success(run: ExploreRun, role: str, level: int, chosen: np.ndarray) -> Success:
    """Return how often the attack on a model succeeded among the chosen pairs (bool N)."""
    outcome = run.part(role).outcome(level)[chosen]
    hits = int((outcome == OUTCOMES.index(FOOLED)).sum())
    total = int((outcome <= OUTCOMES.index(FOOLED)).sum())  # held and fooled: those right when clean
    low, high = share_interval(np.array([hits]), np.array([total]))
    return Success(hits, total, int(chosen.sum()), float(low[0]), float(high[0]))


@dataclass(frozen=True)
class Confusion:
    """What "flag where S_c < τ" does to the chosen pairs.

    Attributes:
        clean_flagged, clean_passed, attacked_flagged, attacked_passed: counts. undetected: attacked pairs that fooled
            the model and passed.
    """

    clean_flagged: int
    clean_passed: int
    attacked_flagged: int
    attacked_passed: int
    undetected: int

    @property
    def false_positive_rate(self) -> float:
        return _share(self.clean_flagged, self.clean_passed)

    @property
    def true_positive_rate(self) -> float:
        return _share(self.attacked_flagged, self.attacked_passed)


def _share(flagged: int, passed: int) -> float:
    return flagged / (flagged + passed) if flagged + passed else float("nan")


def confusion(run: ExploreRun, role: str, level: int, tau: float, chosen: np.ndarray) -> Confusion:
    """Count what a threshold does to the chosen pairs (bool N)."""
    part = run.part(role)
    clean, attacked = part.clean.score[chosen] < tau, part.attacked[level].score[chosen] < tau
    fooled = part.outcome(level)[chosen] == OUTCOMES.index(FOOLED)
    return Confusion(
        int(clean.sum()), int((~clean).sum()), int(attacked.sum()), int((~attacked).sum()),
        int((fooled & ~attacked).sum()),
    )  # fmt: skip


def area(run: ExploreRun, role: str, level: int, chosen: np.ndarray) -> detection.Interval | None:
    """Return the area under the ROC with its 95 % interval, pairs drawn as one; None where nothing is chosen."""
    part = run.part(role)
    if not chosen.any():
        return None
    return detection.auroc_interval(
        part.clean.score[chosen], part.attacked[level].score[chosen],
        generator=np.random.default_rng(0), resamples=300, paired=True,
    )  # fmt: skip


def roc(run: ExploreRun, role: str, level: int, chosen: np.ndarray, most: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return (false, true positive rates), at most `most` points of the curve; empty where nothing is chosen."""
    part = run.part(role)
    if not chosen.any():
        return np.zeros(0), np.zeros(0)
    fpr, tpr = detection.roc_curve(part.clean.score[chosen], part.attacked[level].score[chosen])
    kept = np.unique(np.linspace(0, len(fpr) - 1, min(most, len(fpr))).astype(int))
    return fpr[kept], tpr[kept]


def score_range(run: ExploreRun) -> tuple[float, float]:
    """Return a range that holds all scores of all models at every ε, with a margin: charts share it."""
    scores = [r.score for part in run.parts.values() for r in (part.clean, *part.attacked)]
    low, high = min(float(s.min()) for s in scores), max(float(s.max()) for s in scores)
    margin = max(0.01, 0.02 * (high - low))
    return max(-1.0, round(low - margin, 3)), min(1.001, round(high + margin, 3))


def score_histogram(run: ExploreRun, role: str, level: int, chosen: np.ndarray) -> Histogram:
    """Count S_c of the chosen pairs, clean and attacked, over bins that are the same for every selection."""
    part = run.part(role)
    scores: Mapping[str, np.ndarray] = {CLEAN: part.clean.score, ADVERSARIAL: part.attacked[level].score}
    edges = np.linspace(*score_range(run), BINS + 1)
    counts = {side: np.histogram(values[chosen], edges)[0] for side, values in scores.items()}
    return Histogram(edges, counts)
