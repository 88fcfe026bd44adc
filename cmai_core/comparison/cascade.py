"""Attacks on a system one after another, cheap ones first, each on the scenes that still stand: a worst case.

A scene is lost to a picture of 8 bits alone; how many an attack takes only between the levels is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.comparison.verdicts import RIGHT, UNASKED, WRONG
from cmai_core.progress import CancelToken, Progress, ProgressCallback

SIZE = 25
"""Scenes attacked together."""


@dataclass(frozen=True)
class Round:
    """One attack on those scenes that stand.

    Attributes:
        name: in tables. recipe: as a grid writes it. bare: made on the model without verification (transfer).
        verified: whether it attacks a system that verifies only.
    """

    name: str
    recipe: str
    bare: bool = False
    verified: bool = False


@dataclass(frozen=True)
class Cascade:
    """A system, a task, and the scenes of a dataset that it is asked about.

    Attributes:
        model: without the defence around it. system: with it (or the model itself). task: a task of choices.
        scenes: the first so many of the dataset's. epsilon: in units of 1/255. seed: of all random numbers.
    """

    model: Any
    system: Any
    task: Any
    dataset: Any
    scenes: int
    epsilon: float
    seed: int = 0

    @torch.no_grad()
    def right(self, change: Callable[..., torch.Tensor] | None = None, draws: int = 1) -> list[bool]:
        """Say which scenes are answered rightly, after every one of some changes of their pixels."""
        from cmai_core.models.evaluation_mode import evaluation_mode

        out: list[bool] = []
        with evaluation_mode(self.model):
            for rows, batch in self._batches(range(self.scenes)):
                stands, prepared = [True] * len(rows), self.task.prepare(self.system, batch.pairs, self.dataset)
                for draw in range(draws):
                    places = [row * draws + draw for row in rows]
                    pixels = batch.pixels if change is None else change(batch.pixels, places)
                    found = self._held(prepared, pixels)
                    stands = [old and new for old, new in zip(stands, found, strict=True)]
                out += stands
        return out

    def noise(self, pixels: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Add a draw of random signs times ε, rounded to 8 bits; places: which draw, one a picture."""
        generators = [torch.Generator().manual_seed(1_000_003 * self.seed + place + 1) for place in places]
        drawn = torch.stack([torch.rand(pixels.shape[1:], generator=g) for g in generators]) * 2 - 1
        moved = pixels.cpu() + self.epsilon / 255 * drawn.sign()
        return (moved.clamp(0, 1) * 255).round().div(255).to(pixels)

    def attacked(
        self,
        attack: Round,
        rows: Sequence[int],
        *,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        said: str = "",
    ) -> dict[str, Any]:
        """Attack some scenes.

        Returns:
            `recipe`; `marks` of all scenes (`verdicts`; those not attacked are unasked); `only_unrounded`: how many
            fell to the picture before rounding alone.
        """
        from cmai_core.evaluation.runs.grid import Grid

        target = self.model if attack.bare else self.system
        grid = Grid(models=[self.model.name], recipes=[attack.recipe], epsilons=[self.epsilon])
        values = 3 * self.model.image_size**2
        asked = grid.experiment(grid.entries[0], self.epsilon, task=self.task.name)
        built = asked.build(self.task, self.dataset, values)
        marks, unrounded = [UNASKED] * self.scenes, 0
        for done, (some, batch) in enumerate(self._batches(rows)):
            if progress is not None:
                taken = marks.count(WRONG)
                progress(Progress(done * SIZE, len(rows), f"{said}{attack.name}: {taken} taken"))
            result = built(target, batch, seed=self.seed, cancel=cancel)
            if cancel is not None:
                cancel.check()
            prepared = self.task.prepare(self.system, batch.pairs, self.dataset)
            shown = (self.model.preprocess(result.images()), result.pixels)
            for row, eight, exact in zip(some, *(self._held(prepared, x) for x in shown), strict=True):
                marks[row] = RIGHT if eight else WRONG
                unrounded += eight and not exact
        return {"recipe": attack.recipe, "marks": "".join(marks), "only_unrounded": unrounded}

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Any]]:
        from cmai_core.evaluation.runs.predictor import make_batch

        for start in range(0, len(rows), SIZE):
            some = list(rows[start : start + SIZE])
            yield some, make_batch(self.model, [self.dataset[k] for k in some], 1)

    @torch.no_grad()
    def _held(self, prepared: Any, pixels: torch.Tensor) -> list[bool]:
        said = self.task.predict(self.system, self.system.image_features(pixels), prepared)
        return [bool(one.correct) for one in said]


def marks_of(right: Sequence[bool]) -> str:
    """Write truth values as characters."""
    return "".join(RIGHT if r else WRONG for r in right)


def held(entry: dict[str, Any]) -> str:
    """Return the marks of the worst case over the rounds so far; entry: `clean` and `rounds`, name → `attacked`."""
    marks = list(entry["clean"])
    for attack in entry["rounds"].values():
        marks = [WRONG if new == WRONG else old for old, new in zip(marks, attack["marks"], strict=True)]
    return "".join(marks)


def standing(entry: dict[str, Any]) -> list[int]:
    """Return the scenes that are right so far."""
    return [k for k, mark in enumerate(held(entry)) if mark == RIGHT]
