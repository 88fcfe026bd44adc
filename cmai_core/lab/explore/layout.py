"""Where a run's pairs lie: pictures, clean and attacked at every ε, and texts of a model, projected in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from cmai_core.lab.explore.run import CLEAN, ExploreRun, ModelRun
from cmai_core.projection.result import Projection

TEXT = "text"
PCA, UMAP, UMAP3 = LAYOUTS = ("pca", "umap", "umap3")
"""PCA has three axes, of which the plane takes the first two; UMAP is fitted for the plane and for the space."""


def attacked_group(level: int) -> str:
    """Return the name of the attacked pictures at the ε of this place."""
    return f"adversarial {level}"


def vectors(part: ModelRun) -> dict[str, np.ndarray]:
    """Return group → unit vectors N×D, float32."""
    found = {CLEAN: part.clean.image, TEXT: part.text}
    found |= {attacked_group(level): reading.image for level, reading in enumerate(part.attacked)}
    return {name: rows.astype(np.float32) for name, rows in found.items()}


def with_maps(
    run: ExploreRun,
    layouts: tuple[str, ...] = LAYOUTS,
    *,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> ExploreRun:
    """Return the run with these layouts of every model; `tell` is told of each before it is made."""
    parts = {}
    for role, part in run.parts.items():
        maps, notes = dict(part.maps), dict(part.notes)
        for layout in layouts:
            if tell is not None:
                tell(f"Projecting model {role} by {layout.removesuffix('3').upper()}")
            maps[layout], notes[layout] = _layout(part, layout, seed)
        parts[role] = replace(part, maps=maps, notes=notes)
    return replace(run, parts=parts)


def _layout(part: ModelRun, layout: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    from cmai_core.projection import project

    method = layout.removesuffix("3")
    groups = vectors(part)
    pairs = [(CLEAN, name) for name in groups if name not in (CLEAN, TEXT)]
    made = project(groups, method, seed, pairs=pairs, dimensions=2 if layout == UMAP else 3)
    return {name: points.astype(np.float16) for name, points in made.points.items()}, _notes(made)


def _notes(made: Projection) -> dict[str, object]:
    """Return what keeps a map honest, as JSON values."""
    beyond = {second: int(moved.beyond_control.sum()) for (_, second), moved in made.displacements.items()}
    return {
        "variance": None if made.explained_variance is None else [round(v, 4) for v in made.explained_variance],
        "trustworthiness": None if made.trustworthiness is None else round(made.trustworthiness, 4),
        "control": round(made.control.quantile(0.95), 6),
        "control_points": len(made.control.rows),
        "control_distance": round(made.control.cosine_distance, 6),
        "beyond": beyond,
    }


def modality_gap(part: ModelRun, level: int, chosen: np.ndarray) -> Mapping[str, float]:
    """Return "clean" and "adversarial" → the gap between pictures and texts of the chosen pairs (bool N).

    It is the distance between the mean picture and the mean text on the unit sphere (Liang et al. 2022, Mind the Gap).
    NaN where nothing is chosen.
    """
    if not chosen.any():
        return {CLEAN: float("nan"), "adversarial": float("nan")}
    text = part.text[chosen].astype(np.float32).mean(axis=0)
    sides = {CLEAN: part.clean, "adversarial": part.attacked[level]}
    return {
        side: float(np.linalg.norm(reading.image[chosen].astype(np.float32).mean(axis=0) - text))
        for side, reading in sides.items()
    }


def mean_moved(part: ModelRun, level: int, chosen: np.ndarray) -> float:
    """Return how far the attack moved the chosen pictures (bool N): their mean cosine distance; NaN of none."""
    from cmai_core.projection.drift import cosine_distances

    if not chosen.any():
        return float("nan")
    return float(cosine_distances(part.clean.image[chosen], part.attacked[level].image[chosen]).mean())


def beyond_control(part: ModelRun, layout: str, level: int) -> np.ndarray:
    """Return whether each picture moved farther in a layout than 95 % of the drift control's copies: bool N."""
    start, end = (part.maps[layout][group].astype(np.float32) for group in (CLEAN, attacked_group(level)))
    return np.linalg.norm(end - start, axis=1) > float(str(part.notes[layout]["control"]))
