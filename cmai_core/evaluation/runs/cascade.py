"""Worst case over recipes without running all of them on everything: cheap recipes first, only survivors go on.

An item that one recipe has turned wrong is lost in the worst case, whatever the others would do; an item the model gets
wrong unattacked is lost already. So the worst case over recipes that a cascade finds is that of the full grid, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmai_core.evaluation.runs.plan import Cell, Plan
from cmai_core.evaluation.store.store import Item, Store


@dataclass(frozen=True)
class Stage:
    """A cell's place in a cascade: whom it follows, and at which ε its examples count (None: the cell's own)."""

    cell: Cell
    before: tuple[Cell, ...] = ()
    epsilon: float | None = None


def stages(plan: Plan) -> list[Stage]:
    """Return the order in which the cells run; without `cascade` as they stand, each on all items.

    Cells compete where they attack the same source and task by the same modality under the same norm and ε. Searches
    that find the nearest example take part at every ε of their norm. The order is by estimated passes, which do not
    change from run to run.
    """
    cells = plan.runnable
    if not plan.grid.cascade:
        return [Stage(cell) for cell in cells]
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        if not cell.minimum:
            groups.setdefault((*_contest(cell), cell.epsilon), []).append(cell)
    for cell in cells:
        if cell.minimum:
            joined = [group for key, group in groups.items() if key[:-1] == _contest(cell)]
            for group in joined or [groups.setdefault((*_contest(cell), None), [])]:
                group.append(cell)
    out = []
    for key, group in groups.items():
        ordered = sorted(group, key=lambda cell: cell.units)  # stable: equals stay as they stand
        out += [Stage(cell, tuple(ordered[:place]), key[-1]) for place, cell in enumerate(ordered)]
    return out


def _contest(cell: Cell) -> tuple:
    return cell.source, cell.task, cell.modality, cell.norm


def asked(stage: Stage, plan: Plan, store: Store) -> tuple[Item, ...]:
    """Return the items a stage is asked for: all, or in a cascade those that the model gets right so far.

    A universal perturbation is made for all items together, so it is asked for all. Where the truth is unknown, an item
    goes on.
    """
    cell = stage.cell
    if not plan.grid.cascade or cell.universal or cell.modality == "text":
        return plan.items
    reader = plan.readers[cell.source, cell.task]
    lost = {item for item, correct in store.verdicts(reader).items() if correct is False}
    for other in stage.before:
        lost |= _fooled(other, stage.epsilon, reader, store)
    return tuple(item for item in plan.items if item not in lost)


def _fooled(cell: Cell, epsilon: float | None, reader: str, store: Store) -> set[Item]:
    wrong = {item for item, correct in store.verdicts(reader, cell.craft).items() if correct is False}
    if not cell.minimum:
        return wrong
    if epsilon is None:
        return set()  # each distance counts by itself: one search does not spare another
    near = store.minimum_norms(cell.craft)
    return {item for item in wrong if near.get(item, float("inf")) <= epsilon * (1 + 1e-9)}
