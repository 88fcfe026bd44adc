"""Noisy copies of points at an exactly stated cosine distance."""

from __future__ import annotations

import numpy as np

from cmai_core.errors import OptionError


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Return rows of N×D divided by their lengths, float64; rows of length 0 must have been ruled out."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosine_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return 1 − cosine of row k of `a` and row k of `b`, N values in [0, 2].

    Computed from the chord, ‖a−b‖²/2 of unit vectors, which keeps its precision for tiny distances.
    """
    return 0.5 * np.square(unit_rows(a) - unit_rows(b)).sum(axis=1)


def noisy_copies(x: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Return copies of the rows of `x` (N×D) turned by the same angle, each in a random direction.

    Isotropic noise, projected so that every copy has exactly the cosine distance `distance` from its original.
    """
    if x.shape[1] < 2:
        raise OptionError("Points of one dimension cannot be turned.", "Project embeddings of at least 2 dimensions.")
    unit = unit_rows(x)
    noise = rng.standard_normal(unit.shape)
    noise -= (noise * unit).sum(axis=1, keepdims=True) * unit
    noise = unit_rows(noise)
    cosine = 1.0 - distance
    turned = cosine * unit + np.sqrt(1.0 - cosine**2) * noise
    return turned * np.linalg.norm(np.asarray(x, dtype=np.float64), axis=1, keepdims=True)


def usual_distance(x: np.ndarray) -> float:
    """Return a cosine distance that is small among these points: a tenth of the median to the nearest other point.

    Clipped to [1e-6, 0.01]; 0.01 where there is only one point.
    """
    unit = unit_rows(x)
    if len(unit) < 2:
        return 0.01
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return float(np.clip(0.1 * np.median(1.0 - cosines.max(axis=1)), 1e-6, 0.01))
