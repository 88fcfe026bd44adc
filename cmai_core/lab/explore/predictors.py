"""What predicts success? Attributes of the pairs, ranked by how much they change the attack's success rate.

An attribute's value splits the pairs that were right when clean into those that have it and those that do not; its lift
is the difference of the success rates. Many values are compared at once, so some differ by luck: the adjusted p is that
of the largest difference of all under 2,000 shuffles of the outcomes (maxT of Westfall and Young 1993), which holds for
the whole list, whatever the attributes have to do with one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cmai_core.lab.explore.attributes import values_of
from cmai_core.lab.explore.run import FOOLED, OUTCOMES, ExploreRun

SHUFFLES = 2000
LEAST = 8
"""Pairs on either side of a split below which it is not compared."""


@dataclass(frozen=True)
class Predictor:
    """One value of an attribute.

    Attributes:
        name, value: of the attribute. count: pairs that have it (and were right when clean), of which `hits` fell.
        rate, rest: success rates with and without it. lift: their difference; low, high: its 95 % interval.
        p: adjusted for all values compared.
    """

    name: str
    value: str
    count: int
    hits: int
    rate: float
    rest: float
    lift: float
    low: float
    high: float
    p: float


def predictors(
    run: ExploreRun, role: str, level: int, chosen: np.ndarray, *, generator: np.random.Generator
) -> tuple[Predictor, ...]:
    """Return every value compared among the chosen pairs (bool N), the largest |lift| / error first.

    Nothing where all of them came to the same: then there is nothing to predict.

    Args:
        generator: of the shuffles.
    """
    outcome = run.part(role).outcome(level)
    counted = chosen & (outcome <= OUTCOMES.index(FOOLED))
    fell = (outcome == OUTCOMES.index(FOOLED))[counted]
    names, columns = _columns(run, counted)
    if not names or fell.all() or not fell.any():
        return ()
    z = np.abs(_z(columns, fell[None])[0])
    shuffled = np.stack([generator.permutation(fell) for _ in range(SHUFFLES)])
    largest = np.abs(_z(columns, shuffled)).max(axis=1)
    adjusted = (1 + (largest[:, None] >= z[None] - 1e-9).sum(axis=0)) / (1 + SHUFFLES)
    found = []
    for k in np.argsort(-z, kind="stable"):
        having = columns[:, k]
        hits, count = int(fell[having].sum()), int(having.sum())
        missed, others = int(fell[~having].sum()), int((~having).sum())
        low, high = newcombe(hits, count, missed, others)
        rate, rest = hits / count, missed / others
        name, value = names[k]
        found.append(Predictor(name, value, count, hits, rate, rest, rate - rest, low, high, float(adjusted[k])))
    return tuple(found)


def _columns(run: ExploreRun, counted: np.ndarray) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return (attribute, value) of K splits and which of the M counted pairs have each: bool M×K."""
    names, columns = [], []
    for name, column in run.attributes.items():
        its = [values for values, kept in zip(column, counted, strict=True) if kept]
        for value, count in values_of(its).items():
            if LEAST <= count <= len(its) - LEAST:
                names.append((name, value))
                columns.append(np.array([value in values for values in its], bool))
    return names, np.stack(columns, axis=1) if columns else np.zeros((int(counted.sum()), 0), bool)


def _z(columns: np.ndarray, fell: np.ndarray) -> np.ndarray:
    """Return S×K: the difference of two shares over its pooled error, for S outcomes of M pairs and K splits."""
    having, total = columns.sum(axis=0), len(columns)
    hits = fell.astype(np.float32) @ columns.astype(np.float32)
    every = fell.sum(axis=1, keepdims=True)
    pooled = every / total
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / having + 1 / (total - having)))
    return np.where((every == 0) | (every == total), 0.0, (hits / having - (every - hits) / (total - having)) / error)


def newcombe(hits: int, count: int, other_hits: int, others: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two independent shares (Newcombe 1998, method 10)."""
    p, q = hits / count, other_hits / others
    (low_p, high_p), (low_q, high_q) = _wilson(p, count), _wilson(q, others)
    low = p - q - np.hypot(p - low_p, high_q - q)
    high = p - q + np.hypot(high_p - p, q - low_q)
    return float(low), float(high)


def _wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return float(middle - half), float(middle + half)
