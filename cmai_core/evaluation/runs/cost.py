"""What a grid will cost before it is started: what is stored already, and an estimate of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.plan import Cell, Plan, plan
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.store import Store

# Seconds of one forward pass where nothing was measured yet: about a bundled model's on one core.
SECONDS_A_PASS = 0.004


@dataclass(frozen=True)
class CellCost:
    """Attributes: items: asked for. stored: of them, those attacked already. seconds: estimated for the others."""

    cell: Cell
    items: int
    stored: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a plan would still take; examples that cells share are counted once.

    In a cascade the seconds are an upper bound: who survives is not known beforehand.

    Attributes:
        plan: what is asked for. cells: one entry a cell that can be measured.
        clean: (item, model, task) still to be read clean. measured: whether timings of this store went into the
            estimate.
    """

    plan: Plan
    cells: tuple[CellCost, ...]
    clean: int
    measured: bool

    @property
    def seconds(self) -> float:
        return sum(cost.seconds for cost in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("source", "task", "recipe", "norm", "epsilon", "seed")
        cells = [
            {name: getattr(c.cell, name) for name in names}
            | {"items": c.items, "stored": c.stored, "seconds": round(c.seconds, 3)}
            for c in self.cells
        ]
        skipped = [
            {name: getattr(cell, name) for name in names} | {"reason": cell.skipped}
            for cell in self.plan.cells
            if cell.skipped
        ]
        totals = {"seconds": round(self.seconds, 3), "clean": self.clean, "measured": self.measured}
        return {"grid": self.plan.grid.to_dict(), "cells": cells, "skipped": skipped, **totals}


def cost(grid: Grid | Setting, store: Store | None, **given: Any) -> Cost:
    """Estimates a grid from the store's own timings: of the same attack on the same model, else of any.

    Args:
        store: None: nothing is stored yet. given: as in `runner.run`.
    """
    asked = plan(grid if isinstance(grid, Setting) else Setting(grid, **given))
    own, general = _timings(store)
    seen: set[str] = set()
    costs = []
    for cell in asked.runnable:
        stored = set() if store is None else set(store.attacked(cell.craft)) & set(asked.items)
        missing = 0 if cell.craft in seen else len(asked.items) - len(stored)
        seen.add(cell.craft)
        rate = own.get((cell.source_hash, cell.slug, cell.task if cell.modality == "image" else ""), general)
        costs.append(CellCost(cell, len(asked.items), len(stored), missing * cell.units * rate))
    pairs = [(asked.items, asked.readers), (asked.validation, asked.validation_readers)]
    known = (
        set() if store is None else {(r, i, v) for r, i, v in store.query("SELECT reader, item, version FROM clean")}
    )
    clean = sum(
        (reader, *item) not in known for items, readers in pairs for reader in readers.values() for item in items
    )
    return Cost(asked, tuple(costs), clean, store is not None and bool(own))


def _timings(store: Store | None) -> tuple[dict[tuple[str, str, str], float], float]:
    """Seconds a unit: by (source, recipe, task), and in general."""
    if store is None:
        return {}, SECONDS_A_PASS
    rows = store.query(
        "SELECT c.source_hash, c.recipe, c.task, sum(e.seconds), sum(c.units) FROM crafts c JOIN examples e "
        "USING (craft) WHERE e.text_index = 0 GROUP BY c.source_hash, c.recipe, c.task"
    )
    own = {(source, recipe, task): seconds / units for source, recipe, task, seconds, units in rows if units}
    total, units = sum(row[3] for row in rows), sum(row[4] for row in rows)
    return own, total / units if units else SECONDS_A_PASS
