"""The UMAP fit (McInnes, Healy and Melville 2018, arXiv 1802.03426): seeded, single-threaded, imported when needed."""

from __future__ import annotations

import threading

import numpy as np

from cmai_core.errors import OptionError

# numba's fallback threading layer aborts the process when two threads run parallel kernels at once.
_LOCK = threading.Lock()
_WARM = threading.Event()


def fit_umap(x: np.ndarray, *, n_neighbors: int, min_dist: float, seed: int, dimensions: int = 2) -> np.ndarray:
    """Return float32 N×k layout of the rows of `x` (N×D, N ≥ 4) under the cosine metric, the same for the same seed.

    It starts from the first principal components, which keeps the large structure (Kobak and Linderman 2021) and
    needs no eigenvectors of a graph that may fall apart. The global random state is left as found.
    """
    if not 0 <= seed < 2**32:
        raise OptionError(f"Seed {seed} of a UMAP layout.", "Use an integer from 0 to 2**32 − 1.")
    with _LOCK:
        import umap

        reducer = umap.UMAP(
            n_components=dimensions,
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            metric="cosine",
            init="pca",
            random_state=int(seed),
            transform_seed=int(seed),
            n_jobs=1,
        )
        layout = reducer.fit_transform(np.ascontiguousarray(x, dtype=np.float32))
    _WARM.set()
    return np.asarray(layout, dtype=np.float32)


def warm_up() -> None:
    """Import and compile UMAP (ten seconds or more the first time in a process, nothing after that)."""
    if _WARM.is_set():
        return
    x = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
    fit_umap(x, n_neighbors=5, min_dist=0.1, seed=0)
