"""How long work takes, learned from what was timed before; plain data, no torch.

Work is counted in forward passes, so that what was timed with few steps tells of many, and one recipe of another. A
timing is of whole batches: the search, the reading of its examples, and their way into the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

ATTACK, SHOW, CLEAN = "attack", "show", "clean"
SECONDS_A_PASS = 0.005
"""Of a bundled model on one core, as long as nothing was timed."""
SIDE = 128
"""Of the pictures that it reads, in pixels."""
OVERHEAD, READ = 8.0, 4.0
"""Passes that an attacked item costs besides its search, and those of a read example."""


@dataclass(frozen=True)
class Timing:
    """Batches of one kind of work that were timed, or one that is asked about.

    Attributes:
        kind: ATTACK, SHOW (a stored example to another model) or CLEAN. model: its hash. recipe, task: "" for none.
        units: of the search, in passes an item. side: of the model's pictures, 0 where that is not known.
    """

    kind: str
    model: str
    recipe: str = ""
    task: str = ""
    units: float = 0.0
    side: int = 0
    items: float = 0.0
    seconds: float = 0.0

    @property
    def passes(self) -> float:
        """What an item costs."""
        return attack_passes(self.units) if self.kind == ATTACK else READ


def attack_passes(units: float) -> float:
    """Return the passes of an attacked item whose search costs `units`."""
    return units + OVERHEAD


class Pace:
    """Seconds of work, from the timings that are nearest to it.

    Args:
        timed: what was timed. measured: model → seconds of one pass now, asked for where nothing of it was timed.
    """

    def __init__(self, timed: Iterable[Timing], measured: Callable[[str], float | None] = lambda model: None):
        self._timed = [timing for timing in timed if timing.items > 0]
        self._measured = measured

    def seconds(self, wanted: Timing, items: int) -> float:
        """Return how long `items` of a kind of work take; its own items and seconds are not read."""
        return items * wanted.passes * self._rate(wanted)

    @property
    def rate(self) -> float:
        """Seconds of one pass over everything that was timed; the usual ones where nothing was."""
        return _rate(self._timed) or SECONDS_A_PASS

    def _rate(self, wanted: Timing) -> float:
        """Return seconds a pass of the nearest timings."""
        same = [t for t in self._timed if t.kind == wanted.kind and t.model == wanted.model]
        recipe = [t for t in same if t.recipe == wanted.recipe]
        task = [t for t in recipe if t.task == wanted.task]
        for near in ([t for t in task if t.units == wanted.units], task, recipe):
            if found := _rate(near):
                return found
        return self._of_model(wanted, same) * self._of_recipe(wanted)

    def _of_model(self, wanted: Timing, same: Sequence[Timing]) -> float:
        """Return seconds a pass of a model, whatever it was asked."""
        found = _rate(same) or _rate([t for t in self._timed if t.model == wanted.model])
        if found:
            return found
        if measured := self._measured(wanted.model):
            return measured
        known = [t for t in self._timed if t.side]
        scaled = [_resized(t, wanted.side) for t in known] if wanted.side else known
        return _rate(scaled) or SECONDS_A_PASS * ((wanted.side or SIDE) / SIDE) ** 2

    def _of_recipe(self, wanted: Timing) -> float:
        """Return how much slower a recipe's passes are than others' on the same models; 1 where that is not known."""
        own = expected = 0.0
        for timing in self._timed:
            if timing.kind == wanted.kind and timing.recipe == wanted.recipe:
                usual = _rate([t for t in self._timed if t.model == timing.model and t.kind == timing.kind])
                own += timing.seconds
                expected += (usual or 0.0) * timing.items * timing.passes
        return own / expected if expected > 0 else 1.0


def _resized(timing: Timing, side: int) -> Timing:
    """Return a timing as if its pictures had another size: passes cost as their pixels."""
    values = {**timing.__dict__, "seconds": timing.seconds * (side / timing.side) ** 2}
    return Timing(**values)


def _rate(timed: Sequence[Timing]) -> float | None:
    work = sum(timing.items * timing.passes for timing in timed)
    return sum(timing.seconds for timing in timed) / work if work else None
