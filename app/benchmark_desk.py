"""Process-wide things behind the benchmark page: the one sweep that runs, and figures counted in the background.

What imports torch (figures, the cost of a grid) is worked out in a thread of its own and kept, so that the page's first
paint does not wait for it. No forward pass of a model happens in that thread: those belong to the job queue.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import owner, presence, services
from cmai_core.errors import OptionError
from cmai_core.evaluation.store.store import default_folder
from cmai_core.lab.benchmark.runs import LiveCell, RunInfo, existing, known_runs, live_cells, signature
from cmai_core.lab.benchmark.sweep import Sweep, SweepState

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.evaluation.runs.cost import Cost
    from cmai_core.lab.benchmark.results import Results

PATIENCE = 1.2
"""Seconds before anything heavy is imported for a page that has just been drawn."""


class Ahead:
    """Work done once in a background thread, its last results kept by key."""

    def __init__(self, capacity: int = 12):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, Future] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cmai-ahead")

    def ask(self, key: tuple, work: Callable[[], Any]) -> Future:
        """The result of `work` as it is, or will be; the same key is worked out once."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._pool.submit(_patiently, work)
                while len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)[1].cancel()
            self._kept.move_to_end(key)
            return self._kept[key]


def _patiently(work: Callable[[], Any]) -> Any:
    if "torch" not in sys.modules and os.environ.get("CMAI_WARM_UP", "1") != "0":
        time.sleep(PATIENCE)
    with services.quiet_thread():
        return work()


class Desk:
    """The store's folder, the sweep that runs or ran last, and what was counted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ahead = Ahead()
        self.sweep: Sweep | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> SweepState | None:
        """How the last sweep stands; None before the first."""
        return None if self.sweep is None else self.sweep.state

    @property
    def busy(self) -> bool:
        return self.sweep is not None and not self.sweep.state.over

    def mine(self) -> bool:
        """Whether the last sweep is this visitor's."""
        return self.sweep is not None and self.sweep.owner.visitor == presence.owner().visitor

    def start(self, values: Mapping[str, Any]) -> None:
        """Starts a grid for this visitor, or goes on with it.

        Raises:
            OptionError: another one is running.
        """
        shelf = services.shelf()
        with self._lock:
            if self.busy:
                raise OptionError(
                    "A benchmark is running already." if self.mine() else "Another visitor's benchmark is running.",
                    "There is one at a time, as they share a store: wait for it"
                    + (" or stop it. What is finished is kept." if self.mine() else "."),
                )
            owner = presence.visitor()
            work = Sweep(services.queue(), self.folder, values, lambda g, tell: settled(g, shelf, tell), owner)
            self.sweep = work.start()

    def cancel(self) -> None:
        """Stops the sweep; the button for it is its visitor's alone."""
        if self.sweep is not None:
            self.sweep.cancel()

    def runs(self) -> list[RunInfo]:
        """The store's runs, the latest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return known_runs(self.folder)

    def live(self, run: str) -> list[LiveCell]:
        return live_cells(self.folder, run)

    def results(self, runs: Sequence[str]) -> Future[Results]:
        """The figures of runs, as far as they are stored now."""
        folder = self.folder

        def work() -> Results:
            from cmai_core.lab.benchmark.results import results

            return results(folder, runs)

        return self.ahead.ask(("results", *runs, signature(folder)), work)

    def cost(self, values: Mapping[str, Any]) -> Future[Cost]:
        """What a grid will cost."""
        folder, shelf = self.folder, services.shelf()

        def work() -> Cost:
            from cmai_core.evaluation.runs.cost import cost
            from cmai_core.evaluation.runs.grid import Grid

            setting = settled(Grid.from_dict(values), shelf)
            store = existing(folder)
            if store is None:
                return cost(setting, None)
            with store:
                return cost(setting, store)

        return self.ahead.ask(("cost", json.dumps(values, sort_keys=True), signature(folder)), work)


def settled(grid: Any, shelf: services.ModelShelf, tell: Callable[[Any], None] | None = None) -> Any:
    """A grid with its models from the shelf and its dataset read."""
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.progress import Progress

    models = {}
    for spec in grid.models:
        if tell is not None:
            tell(Progress(0, 0, f"Loading {owner.shown(spec)}"))
        models[spec] = shelf.get(spec)
    if tell is not None:
        tell(Progress(0, 0, "Reading the dataset and planning the cells"))
    return Setting(grid, models=models)


@st.cache_resource(show_spinner=False)
def desk_of(folder: str) -> Desk:
    return Desk(Path(folder))


def desk() -> Desk:
    """The desk of the store that `cmai evaluate` uses, too."""
    return desk_of(str(default_folder()))


@st.cache_resource(show_spinner=False, max_entries=4)
def items_of(name: str, split: str) -> dict[str, int]:
    """id → place of a dataset's items."""
    from cmai_core.data import load_dataset
    from cmai_core.data.pair import item_id

    items = load_dataset(name, split=split)
    return {item_id(items, k): k for k in range(len(items))}


@st.cache_resource(show_spinner=False, max_entries=512)
def pair_of(name: str, split: str, item: str) -> Any:
    """An item of any split.

    Raises:
        CmaiError: there is no such dataset or item any more.
    """
    from cmai_core.data import load_dataset
    from cmai_core.errors import DataError

    places = items_of(name, split)
    if item not in places:
        raise DataError(f"The dataset {name} has no item {item!r} any more.", "Run the benchmark on it anew.")
    return load_dataset(name, split=split)[places[item]]


@st.cache_data(show_spinner=False)
def bundled_size(spec: str) -> tuple[int, int] | None:
    """(height, width) that a bundled model reads; None for others, which would have to be loaded to tell."""
    card = services.cards().get(spec)
    if card is None or card.path is None:
        return None
    from cmai_core.errors import ModelError
    from cmai_core.models.configuration import CONFIG_FILE, read_config

    try:
        size = read_config(card.path / CONFIG_FILE)["model_cfg"]["vision_cfg"].get("image_size", 224)
    except ModelError:  # said where it is loaded
        return None
    return (size, size) if isinstance(size, int) else tuple(size)


def as_seen(spec: str, picture: np.ndarray) -> np.ndarray:
    """A picture as a model sees it: cut and resized to its size, uint8.

    The bundled models take Tabletop's pictures as they are; of others the model is loaded for it.
    """
    if picture.shape[:2] == bundled_size(spec):
        return picture
    shelf = services.shelf()

    def work() -> np.ndarray:
        from cmai_core.evaluation.runs.predictor import pictures

        return pictures(shelf.get(spec).preprocess([picture]))[0]

    return services.queue().call(work)
