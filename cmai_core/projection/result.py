"""What a projection gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class DriftControl:
    """How far the layout alone carries a point: noisy copies of M points, projected in the same batch.

    Attributes:
        group: the group whose points were copied.
        rows: M row numbers in that group.
        cosine_distance: between each point and its copy, in the full space; the same for all by construction.
        points: M×k, the copies in the plane (k = 2) or the space (k = 3).
        displacement: M distances in the plane between each point and its copy.
    """

    group: str
    rows: np.ndarray
    cosine_distance: float
    points: np.ndarray
    displacement: np.ndarray

    def quantile(self, q: float) -> float:
        """Return quantile of `displacement`, q in [0, 1]."""
        return float(np.quantile(self.displacement, q))


@dataclass(frozen=True)
class Displacement:
    """How far each of N points of one group lies from its partner in another.

    Attributes:
        plane: N distances in the plane; only comparable with those of the drift control of the same projection.
        cosine: N cosine distances (1 − cosine) in the full space: what really moved.
        beyond_control: N booleans, True where `plane` exceeds the drift control's 95 % quantile. An arrow where it
            is False is no longer than those of points that hardly moved, and means nothing.
    """

    plane: np.ndarray
    cosine: np.ndarray
    beyond_control: np.ndarray


@dataclass(frozen=True)
class Projection:
    """Groups of points in the plane, fitted together.

    Attributes:
        method: "umap" or "pca".
        seed: of the layout and of the drift control.
        points: group → float32 N×k, k = 2 or 3. The unit of the axes means nothing for UMAP; for PCA it is that of the
            space.
        control: the drift control.
        displacements: (group, group) → `Displacement` of the pairs of groups that correspond row by row.
        explained_variance: PCA: shares of the variance along the axes; None for UMAP, which has no such number.
        trustworthiness: in [0, 1], how many neighbours in the plane are neighbours in the full space (Venna and Kaski
            2001); about 0.5 is what a random layout gets. None where there are too few points for it.
        settings: method-specific settings used (n_neighbors, min_dist, …).
    """

    method: str
    seed: int
    points: Mapping[str, np.ndarray]
    control: DriftControl
    displacements: Mapping[tuple[str, str], Displacement]
    explained_variance: tuple[float, ...] | None = None
    trustworthiness: float | None = None
    settings: Mapping[str, float | int | str] = field(default_factory=dict)
