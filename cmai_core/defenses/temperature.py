"""A score as a calibrated probability: log odds divided by a temperature that is fitted on held-out pairs.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599, sec. 4.2) has one parameter and keeps the order of the pairs. A
score that is no log odds, such as a cosine, needs an offset as well (Platt 1999); so do unequal numbers of the two
kinds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cmai_core.errors import DataError

_STEPS = 100
_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Scaling:
    """P(consistent) = σ(slope · score + offset).

    Attributes:
        score: which: "S_c" or "V" (its log odds).
        slope: 1 / temperature, at least 0. offset: 0 for pure temperature scaling.
        positives, negatives: pairs that it was fitted on.
        nll, ece: mean negative log likelihood and expected calibration error (15 bins) on them.
        nll_plain, ece_plain: the same of σ(score).
    """

    score: str
    slope: float
    offset: float
    positives: int
    negatives: int
    nll: float
    ece: float
    nll_plain: float
    ece_plain: float

    @property
    def temperature(self) -> float:
        """Infinite where the score says nothing."""
        return 1 / self.slope if self.slope else float("inf")

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities in [0, 1], float64."""
        return np.exp(-_cost(self.slope * np.asarray(scores, dtype=np.float64) + self.offset))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_scaling(score: str, aligned: np.ndarray, misaligned: np.ndarray, *, offset: bool) -> Scaling:
    """Fit the scaling of highest likelihood, by Newton's method.

    Args:
        score: its name. aligned, misaligned: scores of consistent and of inconsistent pairs.
        offset: fit an offset too; else it is 0.

    Raises:
        DataError: no pairs of a kind, or scores that are not finite.
    """
    aligned, misaligned = (np.asarray(x, dtype=np.float64) for x in (aligned, misaligned))
    if not len(aligned) or not len(misaligned):
        raise DataError(
            f"A temperature needs consistent and inconsistent pairs, not {len(aligned)} and {len(misaligned)}.",
            "Give some of both.",
        )
    z = np.concatenate([aligned, misaligned])
    if not np.isfinite(z).all():
        raise DataError(f"{int((~np.isfinite(z)).sum())} scores are not finite numbers.")
    true = np.arange(len(z)) < len(aligned)
    # Platt's targets: kinds that a threshold separates would otherwise ask for an infinite slope.
    target = np.where(true, (len(aligned) + 1) / (len(aligned) + 2), 1 / (len(misaligned) + 2))
    slope, shift = _newton(z, target, offset)
    if slope < 0:  # the score points the wrong way: it says nothing, and the base rate is the best guess
        slope, shift = 0.0, float(np.log(len(aligned) / len(misaligned))) if offset else 0.0
    nll, ece = _quality(slope * z + shift, true)
    nll_plain, ece_plain = _quality(z, true)
    return Scaling(score, slope, shift, len(aligned), len(misaligned), nll, ece, nll_plain, ece_plain)


def _cost(x: np.ndarray) -> np.ndarray:
    """Return −log σ(x)."""
    return np.logaddexp(0.0, -x)


def _newton(z: np.ndarray, target: np.ndarray, offset: bool) -> tuple[float, float]:
    """Return (slope, offset) that minimise the mean cross entropy, a convex function, with step halving."""
    scale = float(np.abs(z).mean()) or 1.0
    columns = np.stack([z / scale, np.ones_like(z)], axis=1)[:, : 1 + offset]

    def loss(w: np.ndarray) -> float:
        x = columns @ w
        return float((target * _cost(x) + (1 - target) * _cost(-x)).mean())

    w, now = np.zeros(columns.shape[1]), np.log(2.0)
    for _ in range(_STEPS):
        p = np.exp(-_cost(columns @ w))
        gradient = columns.T @ (p - target) / len(z)
        hessian = (columns * (p * (1 - p))[:, None]).T @ columns / len(z) + 1e-12 * np.eye(len(w))
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (after := loss(w - size * step)) > now and size > 1e-10:
            size /= 2
        if now - after < 1e-14:
            break
        w, now = w - size * step, after
    return float(w[0] / scale), float(w[1]) if offset else 0.0


def _quality(x: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return negative log likelihood and expected calibration error of σ(x)."""
    nll = float(np.where(true, _cost(x), _cost(-x)).mean())
    p = np.exp(-_cost(x))
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    weight = np.bincount(bins, minlength=_BINS)
    gap = np.abs(np.bincount(bins, weights=p - true, minlength=_BINS))
    return nll, float(gap[weight > 0].sum() / len(x))
