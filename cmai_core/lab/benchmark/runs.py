"""What an evaluation store knows of its runs, read by SQL alone: for lists and for a table that fills while it is read.

No model, no torch and no pandas are imported; the figures themselves are those of `bench_results`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.errors import EmptyStoreError
from cmai_core.evaluation.runs.pace import SECONDS_A_PASS, Pace
from cmai_core.evaluation.store.store import DATABASE, Store

MOST_RUNS = 40


@dataclass(frozen=True)
class RunInfo:
    """A run as a list shows it.

    Attributes:
        run: its name. updated: when it was started last (ISO, UTC). grid: values of its `Grid`. cells: that can be
            measured. done: cells whose pairs are all attacked; None in a cascade, where not all are to be.
    """

    run: str
    updated: str
    grid: dict[str, Any]
    cells: int
    done: int | None

    @property
    def complete(self) -> bool:
        return self.done is None or self.done >= self.cells

    @property
    def title(self) -> str:
        """In a line: models, tasks, number of attacks, ε, pairs."""
        grid = self.grid
        names = ", ".join(recipe.partition(":")[0].partition("@")[0] for recipe in grid["recipes"])
        epsilons = ", ".join(f"{epsilon:g}" for epsilon in grid["epsilons"])
        pairs = "all" if grid["limit"] is None else grid["limit"]
        kind = " · cascade" if grid["cascade"] else ""
        parts = [" + ".join(grid["models"]), ", ".join(grid["tasks"]), names or "clean only", f"ε {epsilons}/255"]
        return " · ".join([*parts, f"{pairs} pairs of {grid['dataset']}"]) + kind


@dataclass(frozen=True)
class LiveCell:
    """A cell as it fills.

    Attributes:
        source, task, recipe, modality, norm, epsilon: as in the predictions frame. items: asked for. done: attacked.
        right, known: of them, right clean and attacked, and how many it is known of; None where only the whole cell
            tells (searches for the nearest example). consistency: mean S_c of what is attacked, None for nothing.
    """

    source: str
    task: str
    recipe: str
    modality: str
    norm: str
    epsilon: float | None
    items: int
    done: int
    right: int | None
    known: int
    consistency: float | None


def signature(folder: str | Path) -> tuple:
    """Return a value that changes whenever something is stored; () while there is no store."""
    found = []
    for name in (DATABASE, f"{DATABASE}-wal"):
        try:
            status = (Path(folder) / name).stat()
        except OSError:
            continue
        found.append((name, status.st_size, status.st_mtime_ns))
    return tuple(found)


def existing(folder: str | Path) -> Store | None:
    """Return a store opened for reading; None where there is none, or one that is just being made.

    Raises:
        StoreError: there is one that cannot be read.
    """
    if not (Path(folder) / DATABASE).is_file():
        return None
    try:
        return Store.read(folder)
    except EmptyStoreError:
        return None


def pace_of(folder: str | Path) -> float:
    """Return the seconds of one pass that a store has learned; the usual ones where it has not.

    Raises:
        StoreError: the store cannot be read.
    """
    store = existing(folder)
    if store is None:
        return SECONDS_A_PASS
    with store:
        return Pace(store.timings()).rate


def known_runs(folder: str | Path) -> list[RunInfo]:
    """Return the last runs of a store, the latest first; [] where there is no store.

    Raises:
        StoreError: there is one that cannot be read.
    """
    store = existing(folder)
    if store is None:
        return []
    with store:
        rows = store.query("SELECT run, updated, plan FROM runs ORDER BY updated DESC, run LIMIT ?", (MOST_RUNS,))
        if not rows:
            return []
        counts = {
            (craft, reader): count
            for craft, reader, count in store.query(
                "SELECT craft, reader, count(*) FROM readings WHERE text_index = 0 GROUP BY craft, reader"
            )
        }
    return [_info(run, updated, json.loads(plan), counts) for run, updated, plan in rows]


def _info(run: str, updated: str, plan: dict[str, Any], counts: dict[tuple[str, str], int]) -> RunInfo:
    readers = {(spec, task): reader for spec, task, reader in plan["readers"]}
    cells = [cell for cell in plan["cells"] if not cell["skipped"]]
    size = len(plan["items"])
    full = sum(counts.get((c["craft"], readers.get((c["source"], c["task"]), "")), 0) >= size for c in cells)
    return RunInfo(run, updated, plan["grid"], len(cells), None if plan["grid"]["cascade"] else full)


def live_cells(folder: str | Path, run: str) -> list[LiveCell]:
    """Return the cells of a run, each on its own source, as far as they have come; [] where the run is not known yet.

    Raises:
        StoreError: the store cannot be read.
    """
    store = existing(folder)
    if store is None:
        return []
    with store:
        found = store.query("SELECT plan FROM runs WHERE run = ?", (run,))
        if not found:
            return []
        plan = json.loads(found[0][0])
        readers = {(spec, task): reader for spec, task, reader in plan["readers"]}
        return [
            _live(store, cell, readers[cell["source"], cell["task"]], len(plan["items"]))
            for cell in plan["cells"]
            if not cell["skipped"]
        ]


def _live(store: Store, cell: dict[str, Any], reader: str, items: int) -> LiveCell:
    done, right, known, consistency = store.query(
        "SELECT count(*), sum(c.correct = 1 AND r.correct = 1), sum(c.correct IS NOT NULL AND r.correct IS NOT NULL), "
        "avg(r.consistency) FROM readings r LEFT JOIN clean c ON c.reader = r.reader AND c.item = r.item "
        "AND c.version = r.version AND c.text_index = r.text_index "
        "WHERE r.craft = ? AND r.reader = ? AND r.text_index = 0",
        (cell["craft"], reader),
    )[0]
    names = ("source", "task", "recipe", "modality", "norm", "epsilon")
    right = None if cell["minimum"] else int(right or 0)
    return LiveCell(*(cell[name] for name in names), items, min(done, items), right, int(known or 0), consistency)
