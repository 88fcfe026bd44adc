"""The benchmark of this process: the store's runs, the one sweep that runs, and figures counted in the background."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.access import permissions
from app.services import presence
from app.services.background_cache import BackgroundCache
from app.services.jobs import job_queue
from app.services.models import ModelCache, input_size, model_cache
from cmai_core.errors import OptionError
from cmai_core.evaluation.store.store import default_folder
from cmai_core.lab.benchmark.runs import LiveCell, RunInfo, existing, known_runs, live_cells, pace_of, signature
from cmai_core.lab.benchmark.sweep import Sweep, SweepState

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.evaluation.runs.cost import Cost
    from cmai_core.lab.benchmark.results import Results


class BenchmarkService:
    """The store's folder, the sweep that runs or ran last, and what was counted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.counted = BackgroundCache()
        self.sweep: Sweep | None = None
        self._lock = threading.Lock()
        self._rate: tuple[tuple | None, float] = (None, 0.0)

    @property
    def state(self) -> SweepState | None:
        """State of the last sweep; None before the first."""
        return None if self.sweep is None else self.sweep.state

    @property
    def busy(self) -> bool:
        """Whether a sweep is running."""
        return self.sweep is not None and not self.sweep.state.over

    def mine(self) -> bool:
        """Tell whether the last sweep is this visitor's."""
        return self.sweep is not None and self.sweep.owner.visitor == presence.owner().visitor

    def start(self, values: Mapping[str, Any]) -> None:
        """Start a grid for this visitor, or continue it.

        Raises:
            OptionError: another one is running.
        """
        cache = model_cache()
        with self._lock:
            if self.busy:
                raise OptionError(
                    "A benchmark is running already." if self.mine() else "Another visitor's benchmark is running.",
                    "There is one at a time, as they share a store: wait for it"
                    + (" or stop it. What is finished is kept." if self.mine() else "."),
                )
            work = Sweep(
                job_queue(), self.folder, values, lambda grid, tell: settled(grid, cache, tell), presence.visitor()
            )
            self.sweep = work.start()

    def cancel(self) -> None:
        """Stop the sweep; only its visitor has a button for it."""
        if self.sweep is not None:
            self.sweep.cancel()

    def runs(self) -> list[RunInfo]:
        """Return the store's runs, the latest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return known_runs(self.folder)

    def live(self, run: str) -> list[LiveCell]:
        """Return the cells of a run as far as they are measured."""
        return live_cells(self.folder, run)

    def results(self, runs: Sequence[str]) -> Future[Results]:
        """Return the future figures of runs, as far as they are stored now."""
        folder = self.folder

        def work() -> Results:
            from cmai_core.lab.benchmark.results import results

            return results(folder, runs)

        return self.counted.get(("results", *runs, signature(folder)), work)

    def rate(self) -> float:
        """Return the seconds of one pass as far as they are known, for estimates without any model.

        Raises:
            StoreError: the store cannot be read.
        """
        now = signature(self.folder)
        if self._rate[0] != now:
            self._rate = now, pace_of(self.folder)
        return self._rate[1]

    def cost(self, values: Mapping[str, Any]) -> Future[Cost]:
        """Return the future cost of a grid."""
        folder, cache = self.folder, model_cache()

        def work() -> Cost:
            from cmai_core.evaluation.runs.cost import cost
            from cmai_core.evaluation.runs.grid import Grid

            setting = settled(Grid.from_dict(values), cache)
            store = existing(folder)
            if store is None:
                return cost(setting, None)
            with store:
                return cost(setting, store)

        return self.counted.get(("cost", json.dumps(values, sort_keys=True), signature(folder)), work)


def settled(grid: Any, cache: ModelCache, tell: Callable[[Any], None] | None = None) -> Any:
    """Return a grid's setting: its models from the cache, its dataset read."""
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.progress import Progress

    models = {}
    for spec in grid.models:
        if tell is not None:
            tell(Progress(0, 0, f"Loading {permissions.display_name(spec)}"))
        models[spec] = cache.get(spec)
    if tell is not None:
        tell(Progress(0, 0, "Reading the dataset and planning the cells"))
    return Setting(grid, models=models)


@st.cache_resource(show_spinner=False)
def _service_of(folder: str) -> BenchmarkService:
    return BenchmarkService(Path(folder))


def benchmark_service() -> BenchmarkService:
    """Return the service of the store that `cmai evaluate` uses, too."""
    return _service_of(str(default_folder()))


def as_seen(spec: str, picture: np.ndarray) -> np.ndarray:
    """Return a picture as a model sees it: cut and resized to its size, uint8 H×W×3.

    The bundled models take Tabletop's pictures as they are; any other model is loaded for it.
    """
    if picture.shape[:2] == input_size(spec):
        return picture
    cache = model_cache()

    def work() -> np.ndarray:
        from cmai_core.evaluation.runs.predictor import pictures

        return pictures(cache.get(spec).preprocess([picture]))[0]

    return job_queue().call(work)
