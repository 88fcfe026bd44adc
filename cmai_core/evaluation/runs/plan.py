"""A grid as an ordered list of cells, each with its addresses or the reason why it is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cmai_core.budget import Budget
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.entries import Entry
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.address import digest
from cmai_core.models.scoring import has_heads

CLEAN = "clean"
# What an attack costs an item where its description does not tell: about PGD-20's passes.
UNKNOWN_COST = 60.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (source model, task, recipe, ε, seed).

    Attributes:
        source, source_hash, task, recipe, modality, knowledge, norm, seed: as in the predictions frame. A recipe stands
            as it was written, with its options. Text attacks leave pictures alone, on which all tasks rest: task "".
        epsilon: in the units of the predictions frame; None where there is none, and for minimum-norm recipes, of which
            one search serves every ε.
        slug: the recipe's name. craft: address of its examples; cells may share them. address: of the cell.
        minimum, universal: whether the search is a minimum-norm one; whether all items get one perturbation.
        units: what an item costs, about, in forward passes.
        skipped: "" or the reason why the cell cannot be measured.
    """

    source: str
    source_hash: str
    task: str
    recipe: str
    slug: str
    modality: str
    knowledge: str
    norm: str
    epsilon: float | None
    seed: int
    craft: str = ""
    address: str = ""
    minimum: bool = False
    universal: bool = False
    units: float = UNKNOWN_COST
    skipped: str = ""
    attack: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a grid asks for, in plain values: with it and a store the predictions can be had without any model.

    Attributes:
        grid: the grid's values. cells: in the order of models, tasks, recipes, ε, seeds.
        hashes: model → hash. items, validation: (id, version) of each. dataset, split: as the predictions name them.
        readers: (model, task) → address, for the items; validation_readers: for those of the split "validation".
        unasked: (model, task) → why this model cannot be asked this task.
    """

    grid: Grid
    cells: tuple[Cell, ...]
    hashes: Mapping[str, str]
    dataset: str
    split: str
    items: tuple[tuple[str, str], ...]
    validation: tuple[tuple[str, str], ...]
    readers: Mapping[tuple[str, str], str]
    validation_readers: Mapping[tuple[str, str], str]
    unasked: Mapping[tuple[str, str], str]

    def targets(self, cell: Cell) -> tuple[str, ...]:
        """Who is shown a cell's examples: the source, and with transfer all that can be asked the task."""
        names = [cell.source, *(m for m in self.hashes if m != cell.source)] if self.grid.transfer else [cell.source]
        return tuple(name for name in names if (name, cell.task) in self.readers)

    @property
    def runnable(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if not cell.skipped)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        pairs = ("readers", "validation_readers", "unasked")
        return {
            "grid": self.grid.to_dict(),
            "cells": [asdict(cell) for cell in self.cells],
            "hashes": dict(self.hashes),
            "dataset": self.dataset,
            "split": self.split,
            "items": [list(item) for item in self.items],
            "validation": [list(item) for item in self.validation],
            **{name: [[*key, value] for key, value in getattr(self, name).items()] for name in pairs},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Plan:
        """From what `to_dict` gave."""
        pairs = ("readers", "validation_readers", "unasked")
        return Plan(
            grid=Grid.from_dict(values["grid"]),
            cells=tuple(Cell(**cell) for cell in values["cells"]),
            hashes=values["hashes"],
            dataset=values["dataset"],
            split=values["split"],
            items=tuple((a, b) for a, b in values["items"]),
            validation=tuple((a, b) for a, b in values["validation"]),
            **{name: {(a, b): value for a, b, value in values[name]} for name in pairs},
        )


def plan(setting: Setting) -> Plan:
    """Return the cells of a loaded grid.

    Cells that cannot be measured (a task the model cannot be asked, a recipe that does not go with the task) are there
    with the reason in `skipped`.
    """
    grid, items = setting.grid, setting.items
    unasked = {
        (spec, task): reason
        for spec, model in setting.models.items()
        for task in grid.tasks
        if (reason := items.tasks[task].applies_to(items.dataset, model))
    }
    cells = [
        cell
        for spec in grid.sources or grid.models
        for entry in grid.entries
        for task in _tasks(grid, entry)
        for epsilon in ((None,) if entry.minimum_norm else grid.epsilons_of(entry))
        for seed in grid.seeds
        for cell in [_cell(setting, entry, spec, task, epsilon, seed, unasked)]
    ]
    paired = any(entry.modality != "image" for entry in grid.entries)
    tasks = (*grid.tasks, "") if paired else grid.tasks
    asked = [(spec, task) for spec in grid.models for task in tasks if (spec, task) not in unasked]
    held_out = setting.validation
    return Plan(
        grid=grid,
        cells=tuple(cells),
        hashes={spec: setting.hash(spec) for spec in grid.models},
        dataset=setting.dataset.name,
        split=setting.dataset.split,
        items=items.keys,
        validation=held_out.keys if held_out else (),
        readers={key: setting.reader(*key, items) for key in asked},
        validation_readers={key: setting.reader(*key, held_out) for key in asked} if held_out else {},
        unasked=unasked,
    )


def _tasks(grid: Grid, entry: Entry) -> tuple[str, ...]:
    return ("",) if entry.modality == "text" else grid.tasks


def _cell(
    setting: Setting, entry: Entry, spec: str, task: str, epsilon: float | None, seed: int, unasked: Mapping
) -> Cell:
    modality, minimum = entry.modality, entry.minimum_norm
    known: dict[str, Any] = {
        "source": spec,
        "source_hash": setting.hash(spec),
        "task": task,
        "recipe": entry.label,
        "slug": entry.slug,
        "modality": modality,
        "knowledge": entry.recipe.knowledge if entry.recipe else "outside",
        "norm": entry.norm or "",
        "epsilon": epsilon,
        "seed": seed,
    }
    reason = unasked.get((spec, task), "")
    if not reason and _needs_detector(entry) and not getattr(setting.models[spec], "rejects", False):
        reason = f"{entry.slug} attacks a detector, and {spec} has none: give tau, or attack a defended system."
    if not reason and entry.recipe and "heads" in entry.recipe.needs and not has_heads(setting.models[spec]):
        reason = f"{entry.slug} attacks verified answering, and {spec} has no consistency heads."
    if reason:
        return Cell(**known, skipped=reason)
    try:
        attack = setting.build(entry, epsilon, task, spec, seed)
    except OptionError as error:
        return Cell(**known, skipped=str(error))
    if epsilon is None and not minimum:
        known["epsilon"] = _own_budget(attack, known["norm"], 3 * setting.models[spec].image_size ** 2)
    universal = bool(getattr(getattr(attack, "search", None), "universal", False))
    # Only attacks on pictures depend on the task: what the others raise is S_c of the pair.
    craft = setting.craft(attack, spec, task if modality == "image" else "", seed, universal)
    description = attack.describe()
    return Cell(
        **known,
        craft=craft,
        address=digest([craft, task, known["epsilon"]]),
        minimum=minimum,
        universal=universal,
        units=units(description),
        attack=_json(description),
    )


def _needs_detector(entry: Entry) -> bool:
    return bool(entry.recipe) and entry.experiment().spec.needs_detector


def _own_budget(attack: Any, norm: str, values: int) -> float | None:
    """Return the budget of an attack in the units of the predictions frame."""
    threat = getattr(attack, "threat", None)
    epsilon = getattr(threat, "epsilon", None)
    if not norm or epsilon is None:
        return None
    return Budget.of_pixels(norm, float(epsilon), values).amount


def units(description: Mapping[str, Any]) -> float:
    """Estimate what an attack costs an item in forward passes; a step with a gradient counts as three."""
    if "members" in description:
        return sum(units(member) for member in description["members"])
    if "queries" in description:
        return float(description["queries"])
    if "steps" not in description and "text_search" in description:
        return units(description["text_search"])
    if "steps" not in description:
        rounds = description.get("rounds")
        return 20.0 * rounds if isinstance(rounds, int) else UNKNOWN_COST
    total = 3.0 * description["steps"]
    for name in ("restarts", "searches", "each_target", "eot"):
        factor = description.get(name)
        total *= factor if isinstance(factor, int) and factor > 0 else 1
    return total


def _json(value: Any) -> Any:
    """Return a description as JSON can hold it."""
    from cmai_core.evaluation.store.address import plain

    return plain(value)
