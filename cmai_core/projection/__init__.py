"""Embeddings in the plane, by UMAP or PCA, with what keeps the picture honest: one joint fit and a drift control.

`project({"clean": …, "adversarial": …, "text": …}, method="umap", seed=0)` gives a `Projection`.
"""

from cmai_core.projection.project import METHODS, project
from cmai_core.projection.result import Displacement, DriftControl, Projection
from cmai_core.projection.umap_fit import warm_up

__all__ = ["METHODS", "Displacement", "DriftControl", "Projection", "project", "warm_up"]
