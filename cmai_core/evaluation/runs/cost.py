"""What a grid will cost before it is started: what is stored already, and an estimate of the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.pace import ATTACK, CLEAN, SHOW, Pace, Timing
from cmai_core.evaluation.runs.plan import Cell, Plan, plan
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.store import Store


@dataclass(frozen=True)
class CellCost:
    """Attributes: items: asked for. stored: of them, those attacked already.

    seconds: estimated for attacking the others and for showing them to every model.
    """

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
            estimate. clean_seconds: estimated for the clean readings.
    """

    plan: Plan
    cells: tuple[CellCost, ...]
    clean: int
    measured: bool
    clean_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.clean_seconds + sum(cost.seconds for cost in self.cells)

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
    """Estimates a grid from the store's own timings (`pace.Pace`).

    A model of which nothing was timed is asked for one batch now.

    Args:
        store: None: nothing is stored yet. given: as in `runner.run`.
    """
    setting = grid if isinstance(grid, Setting) else Setting(grid, **given)
    asked = plan(setting)
    timed = [] if store is None else store.timings()
    pace = Pace(timed, cache(lambda digest: _pass_now(setting, asked, digest)))
    sides = {spec: int(model.image_size) for spec, model in setting.models.items()}
    crafted: set[str] = set()
    shown: set[tuple[str, str]] = set()
    costs = []
    for cell in asked.runnable:
        stored = set() if store is None else set(store.attacked(cell.craft)) & set(asked.items)
        missing = 0 if cell.craft in crafted else len(asked.items) - len(stored)
        crafted.add(cell.craft)
        work = Timing(ATTACK, cell.source_hash, cell.slug, cell.task, cell.units, sides[cell.source])
        seconds = pace.seconds(work, missing)
        for target in asked.targets(cell):
            reader = asked.readers[target, cell.task]
            if (cell.craft, reader) in shown or target == cell.source:
                continue
            shown.add((cell.craft, reader))
            known = set() if store is None else store.predicted_by(cell.craft, reader) & set(asked.items)
            work = Timing(SHOW, asked.hashes[target], task=cell.task, side=sides[target])
            seconds += pace.seconds(work, len(asked.items) - len(known))
        costs.append(CellCost(cell, len(asked.items), len(stored), seconds))
    clean, seconds = _clean(asked, store, pace, sides)
    return Cost(asked, tuple(costs), clean, bool(timed), seconds)


def _clean(asked: Plan, store: Store | None, pace: Pace, sides: dict[str, int]) -> tuple[int, float]:
    """Return how many (item, model, task) are still to be read clean, and how long that takes."""
    count, seconds = 0, 0.0
    for items, readers in ((asked.items, asked.readers), (asked.validation, asked.validation_readers)):
        for (spec, task), reader in readers.items():
            known = set() if store is None else store.predicted_clean(reader)
            missing = len(set(items) - known)
            count += missing
            seconds += pace.seconds(Timing(CLEAN, asked.hashes[spec], task=task, side=sides[spec]), missing)
    return count, seconds


def _pass_now(setting: Setting, asked: Plan, digest: str) -> float | None:
    """Return the seconds of one picture's pass through a model, of a batch that is read now."""
    import torch

    spec = next((spec for spec, known in asked.hashes.items() if known == digest), None)
    if spec is None or not asked.items:
        return None
    model = setting.models[spec]
    batch = setting.items.batch(model, asked.items[: min(8, setting.grid.batch_size)])
    with torch.no_grad():
        model.encode_image(batch.pixels[:1])  # what is only done once is no pace
        start = time.perf_counter()
        model.encode_image(batch.pixels)
    return (time.perf_counter() - start) / len(batch.ids)
