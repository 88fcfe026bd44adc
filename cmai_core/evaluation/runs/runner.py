"""Runs a grid: clean predictions once, examples of a source once, every model shown them; what is stored is not redone.

Work goes in batches, each of which is stored whole or not at all. A batch is a fixed stretch of the items asked for, so
a run that was killed and goes on computes the same numbers as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cmai_core.budget import Budget, norm_of
from cmai_core.errors import Cancelled, CmaiError, StoreError
from cmai_core.evaluation.runs.attacked import Examples, attack_batch, predict
from cmai_core.evaluation.runs.cascade import Stage, asked, stages
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.pace import ATTACK, CLEAN, READ, SHOW, Timing, attack_passes
from cmai_core.evaluation.runs.plan import Cell, Plan, plan
from cmai_core.evaluation.runs.records import example_rows, prediction_rows, restored
from cmai_core.evaluation.runs.setting import Items, Setting
from cmai_core.evaluation.store.store import Item, Store
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.versions import library_versions


@dataclass
class Report:
    """What a run did.

    Attributes:
        run: its name in the store. plan: what was asked for. cancelled: whether it was stopped before its end.
        attacked: (attack, item) pairs attacked now. shown: (example, model) pairs read now. clean: clean pairs of item
            and model read now. failed: cell → why it could not be measured. seconds: wall time.
    """

    run: str
    plan: Plan
    cancelled: bool = False
    attacked: int = 0
    shown: int = 0
    clean: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def run(
    grid: Grid | Setting,
    store: Store,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    **given: Any,
) -> Report:
    """Measures every cell of a grid that the store does not hold yet.

    Args:
        grid: or what it names, loaded already. store: open for writing.
        progress: told of thousandths of the estimated work, with data `eta` (seconds, None at first), `cell` and
            `cells` (which of how many). cancel: looked at before every step of an attack; the running batch is dropped.
        given: models, dataset, outside, device, as in `Setting`.

    Raises:
        CmaiError: a model or dataset that cannot be used; a store that cannot be written. A recipe that fails on one
            cell is reported and the others go on.
    """
    setting = grid if isinstance(grid, Setting) else Setting(grid, **given)
    return _Runner(setting, store, progress, cancel or CancelToken()).run()


class _Runner:
    def __init__(self, setting: Setting, store: Store, progress: ProgressCallback | None, cancel: CancelToken):
        self.setting, self.store, self.cancel = setting, store, cancel
        self.plan = plan(setting)
        self.report = Report("", self.plan)
        self.meter = _Meter(progress, self.plan)

    def run(self) -> Report:
        start = time.perf_counter()
        self.report.run = self.store.put_run(self.plan.to_dict())
        try:
            self._clean(self.setting.items, self.plan.readers)
            if self.setting.validation is not None:
                self._clean(self.setting.validation, self.plan.validation_readers)
            order = stages(self.plan)
            for number, stage in enumerate(order):
                self._stage(stage, f"{number + 1} of {len(order)}")
        except Cancelled:
            self.report.cancelled = True
        self.report.seconds = time.perf_counter() - start
        return self.report

    # Clean

    def _clean(self, items: Items, readers: dict[tuple[str, str], str]) -> None:
        for (spec, task), reader in readers.items():
            stored = self.store.predicted_clean(reader)
            for keys in _chunks(items.keys, self.plan.grid.batch_size):
                self.cancel.check()
                missing = [key for key in keys if key not in stored]
                if missing:
                    model = self.setting.models[spec]
                    batch = items.batch(model, missing)
                    modality = "image" if task else "text"
                    with self._timed(CLEAN, spec, len(missing), task=task):
                        rows = self._read(model, task, items, batch, Examples.clean(batch), modality)[0]
                        self.store.put_clean(reader, prediction_rows(rows, batch, missing, modality))
                    self.report.clean += len(missing)
                self.meter.add(READ * len(keys), READ * len(missing), f"clean: {task or 'consistency'} on {spec}")

    # Attacked

    def _stage(self, stage: Stage, number: str) -> None:
        cell = stage.cell
        wanted = asked(stage, self.plan, self.store)
        self.meter.skip(cell, len(self.plan.items) - len(wanted))
        size = len(wanted) if cell.universal else self.plan.grid.batch_size
        name = " ".join(filter(None, (cell.recipe, _budget(cell), "on", cell.source)))
        if cell.craft not in self._crafts:
            self._note(cell)
        attack = None
        for keys in _chunks(wanted, size):
            self.cancel.check()
            stored = self.store.attacked(cell.craft)
            missing = [key for key in keys if key not in stored]
            fresh: dict[Item, Examples] = {}
            if missing:
                attack = attack or self._attack(cell)
                known = {"recipe": cell.slug, "task": cell.task, "units": cell.units}
                try:
                    with self._timed(ATTACK, cell.source, len(missing), **known):
                        fresh = self._craft(cell, attack, missing, number, name)
                except StoreError:
                    raise
                except CmaiError as error:
                    self.report.failed[cell.address] = str(error)
                    self.meter.skip(cell, len(keys))
                    return
            self._show(cell, keys, missing, fresh)
            weight = self.meter.weight(cell)
            self.meter.add(weight * len(keys), weight * len(missing), name, cell=name, cells=number)

    def _attack(self, cell: Cell) -> Any:
        entry = next(entry for entry in self.plan.grid.entries if entry.label == cell.recipe)
        epsilon = cell.epsilon if self.plan.grid.epsilons_of(entry) != (None,) else None
        return self.setting.build(entry, epsilon, cell.task, cell.source, cell.seed)

    @property
    def _crafts(self) -> set[str]:
        return {name for (name,) in self.store.query("SELECT craft FROM crafts")}

    def _note(self, cell: Cell) -> None:
        data = {"attack": dict(cell.attack), "seed": cell.seed, "norm": cell.norm, "versions": library_versions()}
        values = {"source_hash": cell.source_hash, "recipe": cell.slug, "task": cell.task, "units": cell.units}
        self.store.put_attack(cell.craft, values | {"data": data})

    def _craft(self, cell: Cell, attack: Any, keys: list[Item], number: str, name: str) -> Any:
        """Attacks some items, stores the examples with what their source says of them, and returns them."""
        items, model = self.setting.items, self.setting.models[cell.source]
        batch = items.batch(model, keys)
        watch = self.meter.during(cell, len(keys), name, number)
        result, examples = attack_batch(
            attack, model, batch, seed=cell.seed, minimum_norm=cell.minimum, progress=watch, cancel=self.cancel
        )
        if result.cancelled or self.cancel.cancelled:
            raise Cancelled("cancelled")
        unit = 1 / norm_of(cell.norm).scale(3 * model.image_size**2) if cell.norm else 1.0
        rows = example_rows(result, examples, batch, keys, cell.modality, cell.minimum, unit)
        shown, floats = self._read(model, cell.task, items, batch, examples, cell.modality)
        if cell.minimum:
            shown = floats = [
                replace(prediction, correct=False) if row["minimum_norm"] < float("inf") else prediction
                for prediction, row in zip(shown, rows, strict=True)
            ]
        predictions = prediction_rows(shown, batch, keys, cell.modality, floats)
        self.store.put_examples(cell.craft, self.plan.readers[cell.source, cell.task], rows, predictions)
        self.report.attacked += len(keys)
        return examples

    def _show(self, cell: Cell, keys: Sequence[Item], missing: list[Item], fresh: Any) -> None:
        """Show examples to every target that has not seen them."""
        items, source = self.setting.items, self.setting.models[cell.source]
        for spec in self.plan.targets(cell):
            reader = self.plan.readers[spec, cell.task]
            seen = self.store.predicted_by(cell.craft, reader)
            unseen = [key for key in keys if key not in seen]
            if not unseen:
                continue
            self.cancel.check()
            with self._timed(SHOW, spec, len(unseen), task=cell.task):
                batch = items.batch(source, unseen)
                if unseen == missing:
                    examples = fresh
                else:
                    files = self.store.attacked(cell.craft)
                    stored = self.store.examples(cell.craft, {key: files[key] for key in unseen})
                    examples = restored(stored, unseen, batch, cell.modality)
                model = self.setting.models[spec]
                shown = self._read(model, cell.task, items, batch, replace(examples, floats=None), cell.modality)[0]
                self.store.put_predictions(cell.craft, reader, prediction_rows(shown, batch, unseen, cell.modality))
            self.report.shown += len(unseen)

    @contextmanager
    def _timed(self, kind: str, spec: str, items: int, **known: Any) -> Iterator[None]:
        """Note how long a batch takes that is finished, for the estimates of later grids."""
        start = time.perf_counter()
        yield
        side, seconds = int(self.setting.models[spec].image_size), time.perf_counter() - start
        timing = Timing(kind, self.setting.hash(spec), **known, side=side, items=items, seconds=seconds)
        self.store.put_timing(timing)

    def _read(
        self, model: Any, task: str, items: Items, batch: Any, examples: Examples, modality: str
    ) -> tuple[list, list | None]:
        """Read what a model says of examples: rounded, and before rounding where that is at hand."""
        judge = items.tasks.get(task)
        out = predict(model, judge, items.dataset, batch, [examples], modality, answers=True, floats=True)
        return out[0], out[1] if len(out) > 1 else None


def _chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), max(1, size)):
        yield list(items[start : start + size])


def _budget(cell: Cell) -> str:
    if cell.epsilon is None:
        return ""
    return f"{cell.norm} {Budget(cell.norm, cell.epsilon).words}"


class _Meter:
    """Progress in thousandths of the estimated work, with the time that is left."""

    TOTAL = 100_000

    def __init__(self, progress: ProgressCallback | None, plan: Plan):
        self._progress, self._start = progress, time.perf_counter()
        self._done = self._computed = 0.0
        count = len(plan.items)
        clean = len(plan.readers) * count + len(plan.validation_readers) * len(plan.validation)
        self._plan = plan
        self._total = READ * clean + sum(self.weight(stage.cell) * count for stage in stages(plan))

    def weight(self, cell: Cell) -> float:
        """Passes that an item of a cell costs: its attack, and its reading by the other models."""
        return attack_passes(cell.units) + READ * (len(self._plan.targets(cell)) - 1)

    def add(self, units: float, computed: float, stage: str, **data: Any) -> None:
        """Work that is done, and how much of it was not in the store already."""
        self._done += units
        self._computed += computed
        self._tell(0.0, stage, data)

    def skip(self, cell: Cell, items: int) -> None:
        """Work that need not be done."""
        self._total -= self.weight(cell) * items

    def during(self, cell: Cell, items: int, name: str, number: str) -> ProgressCallback | None:
        """Return the listener for the attack on one batch."""
        if self._progress is None:
            return None
        weight = self.weight(cell) * items

        def tell(update: Progress) -> None:
            self._tell(weight * update.fraction, name, {"cell": name, "cells": number})

        return tell

    def _tell(self, running: float, stage: str, data: dict[str, Any]) -> None:
        if self._progress is None:
            return
        done, computed = self._done + running, self._computed + running
        share = min(1.0, done / self._total) if self._total > 0 else 1.0
        spent = time.perf_counter() - self._start
        eta = spent * max(0.0, self._total - done) / computed if computed > 0 else None
        self._progress(Progress(round(self.TOTAL * share), self.TOTAL, stage, {"eta": eta, **data}))
