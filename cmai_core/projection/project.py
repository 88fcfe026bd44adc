"""One joint projection of several groups of embeddings, with a drift control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmai_core.errors import DataError, OptionError
from cmai_core.projection.drift import cosine_distances, noisy_copies, unit_rows, usual_distance
from cmai_core.projection.result import Displacement, DriftControl, Projection
from cmai_core.projection.umap_fit import fit_umap

METHODS = ("umap", "pca")
CONTROL_QUANTILE = 0.95
MAX_POINTS = 20_000
MIN_UMAP = 6
_MAX_CONTROL = 64
_MAX_TRUSTWORTHINESS = 3000


def project(
    points: Mapping[str, np.ndarray],
    method: str = "umap",
    seed: int = 0,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    control_group: str | None = None,
    control_distance: float | None = None,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    dimensions: int = 2,
) -> Projection:
    """Project all groups in one batch.

    A point that is added to a finished UMAP layout moves as far as a noisy copy would, so clean and adversarial points
    are never projected apart; and up to 64 noisy copies of points go into the same batch, so that arrows no longer than
    theirs are not taken for effects. (They take part in the UMAP fit, as the adversarial points do; the PCA axes are
    fitted without them.)

    Args:
        points: group → N×D embeddings (the groups may differ in N, not in D). Lengths are ignored: rows are normalised.
        method: "umap" (cosine metric) or "pca" (linear; of the normalised rows, all groups together).
        seed: of the layout and the noise, 0 to 2**32 − 1.
        pairs: groups that correspond row by row; None: the first group with every other that has as many rows.
        control_group: whose points are copied; None: the first.
        control_distance: cosine distance between a point and its copy, in (0, 1]; None: a tenth of the median distance
            to the nearest other point of the group, at most 0.01.
        n_neighbors: UMAP's neighbourhood; lowered to the number of points minus 1 where there are fewer.
        min_dist: UMAP's smallest distance between points of the plane, in [0, 1].
        dimensions: 2 for a plane, 3 for a space.

    Raises:
        DataError: no points, shapes that do not fit, rows that are zero or not finite, too few or too many points.
        OptionError: unknown method or group, pairs of unequal length, numbers out of range.
    """
    if method not in METHODS:
        raise OptionError(f"Unknown projection {method!r}.", f"Choose from {', '.join(METHODS)}.")
    groups = {name: _checked(name, rows) for name, rows in points.items()}
    pairs = _pairs(groups, pairs)
    _check_sizes(groups, method)
    if not 2 <= n_neighbors <= 200 or not 0.0 <= min_dist <= 1.0:
        raise OptionError(
            f"n_neighbors={n_neighbors}, min_dist={min_dist}.", "n_neighbors is 2 to 200, min_dist 0 to 1."
        )
    name = control_group if control_group is not None else next(iter(groups))
    if name not in groups:
        raise OptionError(f"Unknown group {name!r} for the drift control.", f"Groups: {', '.join(groups)}.")
    if dimensions not in (2, 3):
        raise OptionError(f"A map of {dimensions} dimensions.", "A map has 2 or 3.")
    rows, copies, distance = _control(groups[name], control_distance, np.random.default_rng(seed))

    together = np.concatenate(list(groups.values()))
    explained: tuple[float, ...] | None = None
    settings: dict[str, Any] = {}
    if method == "pca":
        plane, control, explained = _pca(together, copies, dimensions)
    else:
        neighbours = min(n_neighbors, len(together) + len(copies) - 1)
        settings = {"n_neighbors": neighbours, "min_dist": float(min_dist), "metric": "cosine"}
        plane, control = _umap(together, copies, settings, seed, dimensions)
    ends = np.cumsum([len(rows_) for rows_ in groups.values()])
    placed = {key: plane[end - len(groups[key]) : end] for key, end in zip(groups, ends, strict=True)}
    drift = DriftControl(name, rows, distance, control, _distances(placed[name][rows], control))
    displacements = _displacements(groups, placed, pairs, drift.quantile(CONTROL_QUANTILE))
    trust = _trustworthiness(together, plane)
    return Projection(method, int(seed), placed, drift, displacements, explained, trust, settings)


def _umap(
    x: np.ndarray, extra: np.ndarray, settings: Mapping[str, Any], seed: int, dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of `x` and of `extra` in one layout."""
    batch = np.concatenate([x, extra])
    chosen = {"n_neighbors": settings["n_neighbors"], "min_dist": settings["min_dist"]}
    layout = fit_umap(batch, **chosen, seed=seed, dimensions=dimensions)
    return layout[: len(x)], layout[len(x) :]


def _displacements(
    groups: Mapping[str, np.ndarray],
    placed: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    bound: float,
) -> dict[tuple[str, str], Displacement]:
    """Measure how far each pair moves in the plane and in the embedding, and whether farther than noisy copies."""
    out = {}
    for a, b in pairs:
        moved = _distances(placed[a], placed[b])
        out[a, b] = Displacement(moved, cosine_distances(groups[a], groups[b]), moved > bound)
    return out


def _checked(name: str, rows: np.ndarray) -> np.ndarray:
    """Return unit rows, float64 N×D."""
    rows = np.asarray(rows)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
        raise DataError(f"Group {name!r} has the shape {rows.shape} ({rows.dtype}).", "Give numbers, N×D, N ≥ 1.")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError(f"Group {name!r} has embeddings that are not finite numbers.")
    if (np.linalg.norm(rows, axis=1) == 0).any():
        raise DataError(f"Group {name!r} has an embedding of length 0, which points nowhere.")
    return unit_rows(rows)


def _check_sizes(groups: Mapping[str, np.ndarray], method: str) -> None:
    if not groups:
        raise DataError("There is nothing to project.", "Give at least one group of embeddings.")
    widths = {name: rows.shape[1] for name, rows in groups.items()}
    if len(set(widths.values())) > 1 or min(widths.values()) < 2:
        raise DataError(
            f"Embeddings of different or too small widths: {widths}.", "Project one model's shared space at a time."
        )
    total = sum(len(rows) for rows in groups.values())
    if total > MAX_POINTS:
        raise DataError(f"{total} points are more than a map can hold.", f"Give at most {MAX_POINTS}.")
    least = MIN_UMAP if method == "umap" else 2
    if total < least:
        other = ' or use method="pca"' if method == "umap" and total >= 2 else ""
        raise DataError(f"{total} points are too few for {method.upper()}.", f"Give at least {least}{other}.")


def _pairs(groups: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    if pairs is None:
        first, *others = groups or [""]
        return [(first, other) for other in others if len(groups[other]) == len(groups[first])]
    for a, b in pairs:
        if a not in groups or b not in groups:
            raise OptionError(f"Unknown pair of groups ({a!r}, {b!r}).", f"Groups: {', '.join(groups)}.")
        if len(groups[a]) != len(groups[b]):
            raise OptionError(f"Groups {a!r} ({len(groups[a])}) and {b!r} ({len(groups[b])}) do not pair up.")
    return list(pairs)


def _control(
    rows: np.ndarray, distance: float | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (row numbers M, copies M×D, their cosine distance)."""
    if distance is None:
        distance = usual_distance(rows if len(rows) <= 2000 else rows[rng.permutation(len(rows))[:2000]])
    if not 0.0 < distance <= 1.0:
        raise OptionError(f"A drift control at the cosine distance {distance}.", "Give a number in (0, 1].")
    chosen = np.sort(rng.permutation(len(rows))[:_MAX_CONTROL])
    return chosen, noisy_copies(rows[chosen], distance, rng), float(distance)


def _pca(x: np.ndarray, extra: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Project `x` and `extra` on the first principal axes of `x`; return both and the shares of variance.

    The sign of an axis is fixed by its largest coefficient, so that the picture does not flip between machines.
    """
    mean = x.mean(axis=0)
    _, singular, axes = np.linalg.svd(x - mean, full_matrices=False)
    if (lacking := dimensions - len(axes)) > 0:
        axes = np.vstack([axes, np.zeros((lacking, x.shape[1]))])
        singular = np.append(singular, np.zeros(lacking))
    axes = axes[:dimensions]
    signs = np.sign(axes[np.arange(dimensions), np.abs(axes).argmax(axis=1)])
    axes = axes * np.where(signs == 0, 1.0, signs)[:, None]
    total = float(np.square(singular).sum())
    shares = tuple(float(s**2 / total) if total > 0 else 0.0 for s in singular[:dimensions])
    return ((x - mean) @ axes.T).astype(np.float32), ((extra - mean) @ axes.T).astype(np.float32), shares


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1)


def _trustworthiness(x: np.ndarray, plane: np.ndarray) -> float | None:
    """Measure trustworthiness of at most 3,000 evenly spaced rows, over neighbourhoods of up to 15."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MAX_TRUSTWORTHINESS)).astype(int))
    neighbours = min(15, (len(rows) - 1) // 2)
    if neighbours < 2:
        return None
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(x[rows], plane[rows], n_neighbors=neighbours, metric="cosine"))
