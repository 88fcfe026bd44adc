"""Is verified answering worth having where the attacker knows of it? Measured on validation scenes first.

    cmai compare pilot tabletop-hard-negative                  # goes on where it was stopped
    cmai compare pilot tabletop-tecoa --shortlists 5 30 --scenes 200

A model answers retrieval by its cosines alone, and with the k likeliest captions verified. Each way of answering is
attacked by all of `ROUNDS`, cheap ones first, each on the scenes that still stand, so that the figure is a worst case.
A scene is lost to a picture of 8 bits alone; how many an attack takes only between the levels is told beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.comparison.tables import markdown, percent
from cmai_core.comparison.verdicts import RIGHT, UNASKED, WRONG, rights, share
from cmai_core.errors import CmaiError, DataError
from cmai_core.files import write_json
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.tasks.verified import VerifiedAnswers

COSINE = 0
"""The shortlist's length that stands for answering by cosines alone."""
SHORTLISTS = (COSINE, 5, 10, 30)
_TASK = "retrieval"
_SIZE = 25


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


ROUNDS = (
    Round("cosine", "pgd:steps=20,objective=margin", bare=True),
    Round("V alone", "verifier-pgd:steps=20", verified=True),
    Round("both stages", "verified-pgd:steps=20", verified=True),
    Round("shortlist, then V", "shortlist-verifier:steps=20", verified=True),
    Round("APGD", "apgd:steps=100,objective=margin"),
    Round("APGD, 5 restarts", "apgd:steps=100,restarts=5,objective=task"),
    Round("both stages, 100 steps", "verified-pgd:steps=100,restarts=5", verified=True),
    Round("APGD-T", "apgd-t:steps=25"),
    Round("Square", "square:queries=1000"),
)
NOISE = 20
"""Draws of random signs times ε, a check: they must take far less than any attack."""


@dataclass(frozen=True)
class Terms:
    """What is asked.

    Attributes:
        scenes: first validation scenes. gallery: captions that are retrieved from. epsilon: in units of 1/255.
        temperature, gamma, kappa: of the rule (`VerifiedAnswers`). seed: of all random numbers.
    """

    scenes: int = 500
    gallery: int = 1000
    epsilon: float = 2.0
    temperature: float = 1e3
    gamma: float = 1.0
    kappa: float = 0.0
    seed: int = 0

    def rule(self, shortlist: int) -> VerifiedAnswers | None:
        """Return the rule for a shortlist; None where the model's cosines answer."""
        from cmai_core.tasks.verified import VerifiedAnswers

        if shortlist == COSINE:
            return None
        return VerifiedAnswers(shortlist=shortlist, temperature=self.temperature, gamma=self.gamma, kappa=self.kappa)


class Pilot:
    """The pilot of one model in a file.

    Args:
        path: JSON, made where there is none. model: with consistency heads. dataset: of which the first scenes are
            attacked. terms: what is asked.

    Raises:
        CmaiError: the file is of other weights or terms.
    """

    def __init__(self, path: Path, model: Any, dataset: Any, terms: Terms):
        self.path, self.model, self.dataset, self.terms = path, model, dataset, terms
        own = {"model": model.name, "hash": model.hash, "terms": asdict(terms)}
        self.found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else own | {"shortlists": {}}
        if {name: self.found.get(name) for name in own} != own:
            raise CmaiError(f"{path} holds a pilot of other weights or terms.", "Give another --folder.")

    def answer(self, shortlist: int) -> Any:
        """Return the model as it answers with a shortlist."""
        from cmai_core.defenses.system import System

        rule = self.terms.rule(shortlist)
        return self.model if rule is None else System(self.model, answering={_TASK: rule})

    def measure(
        self, shortlist: int, *, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
    ) -> dict[str, Any]:
        """Run the rounds that are not there yet for one way of answering; each is kept when it is done.

        Raises:
            Cancelled: the rounds before are kept.
        """
        entry = self.found["shortlists"].setdefault(str(shortlist), {"rounds": {}})
        if "clean" not in entry:
            right = self._right(shortlist, lambda pixels, rows: pixels)
            noisy = self._right(shortlist, self._noise, NOISE)
            entry |= {"clean": _marks(right), "noise": _marks([a and b for a, b in zip(right, noisy, strict=True)])}
            self._keep()
        for attack in ROUNDS:
            if attack.name in entry["rounds"] or (attack.verified and shortlist == COSINE):
                continue
            entry["rounds"][attack.name] = self._round(attack, shortlist, standing(entry), progress, cancel)
            self._keep()
        return entry

    def _keep(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.found)

    def _task(self) -> Any:
        from cmai_core.tasks.retrieval import Retrieval

        return Retrieval(max(self.terms.gallery, self.terms.scenes))

    def _batches(self, rows: Sequence[int]) -> Any:
        from cmai_core.evaluation.runs.predictor import make_batch

        for start in range(0, len(rows), _SIZE):
            some = list(rows[start : start + _SIZE])
            yield some, make_batch(self.model, [self.dataset[k] for k in some], 1)

    def _noise(self, pixels: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(1_000_003 * self.terms.seed + row + 1) for row in rows]
        drawn = torch.stack([torch.rand(pixels.shape[1:], generator=g) for g in generators]) * 2 - 1
        moved = pixels.cpu() + self.terms.epsilon / 255 * drawn.sign()
        return (moved.clamp(0, 1) * 255).round().div(255).to(pixels)

    @torch.no_grad()
    def _right(self, shortlist: int, change: Callable[..., torch.Tensor], draws: int = 1) -> list[bool]:
        """Say which scenes are answered rightly, after every one of some changes of their pixels."""
        from cmai_core.models.evaluation_mode import evaluation_mode

        system, task, out = self.answer(shortlist), self._task(), []
        with evaluation_mode(self.model):
            for rows, batch in self._batches(range(self.terms.scenes)):
                stands, prepared = [True] * len(rows), task.prepare(system, batch.pairs, self.dataset)
                for draw in range(draws):
                    pixels = change(batch.pixels, [row * draws + draw for row in rows])
                    found = _held(system, task, prepared, pixels)
                    stands = [old and new for old, new in zip(stands, found, strict=True)]
                out += stands
        return out

    def _round(
        self,
        attack: Round,
        shortlist: int,
        rows: Sequence[int],
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
    ) -> dict[str, Any]:
        """Attack the scenes that stand: marks of all scenes, and how many fell to the picture before rounding alone."""
        from cmai_core.evaluation.runs.grid import Grid

        system, task = self.answer(shortlist), self._task()
        target = self.model if attack.bare else system
        grid = Grid(models=[self.model.name], recipes=[attack.recipe], epsilons=[self.terms.epsilon])
        values = 3 * self.model.image_size**2
        built = grid.experiment(grid.entries[0], self.terms.epsilon, task=_TASK).build(task, self.dataset, values)
        marks, unrounded = [UNASKED] * self.terms.scenes, 0
        for done, (some, batch) in enumerate(self._batches(rows)):
            if progress is not None:
                taken = marks.count(WRONG)
                progress(Progress(done * _SIZE, len(rows), f"k={shortlist}, {attack.name}: {taken} taken"))
            result = built(target, batch, seed=self.terms.seed, cancel=cancel)
            if cancel is not None:
                cancel.check()
            prepared = task.prepare(system, batch.pairs, self.dataset)
            shown = (self.model.preprocess(result.images()), result.pixels)
            for row, eight, exact in zip(some, *(_held(system, task, prepared, x) for x in shown), strict=True):
                marks[row] = RIGHT if eight else WRONG
                unrounded += eight and not exact
        return {"recipe": attack.recipe, "marks": "".join(marks), "only_unrounded": unrounded}


@torch.no_grad()
def _held(system: Any, task: Any, prepared: Any, pixels: torch.Tensor) -> list[bool]:
    return [bool(said.correct) for said in task.predict(system, system.image_features(pixels), prepared)]


def _marks(right: Sequence[bool]) -> str:
    return "".join(RIGHT if r else WRONG for r in right)


def held(entry: dict[str, Any]) -> str:
    """Return the marks of the worst case over the rounds so far."""
    marks = list(entry["clean"])
    for attack in entry["rounds"].values():
        marks = [WRONG if new == WRONG else old for old, new in zip(marks, attack["marks"], strict=True)]
    return "".join(marks)


def standing(entry: dict[str, Any]) -> list[int]:
    """Return the scenes that are right so far."""
    return [k for k, mark in enumerate(held(entry)) if mark == RIGHT]


def table(folder: Path) -> str:
    """Tabulate the pilots of a folder.

    Raises:
        DataError: there is none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"No pilot lies in {folder}.", "Run `cmai compare pilot MODEL`.")
    names = [attack.name for attack in ROUNDS]
    head = [
        "model",
        "ε",
        "answered by",
        "scenes",
        "clean",
        "noise",
        *names,
        "worst case",
        "taken only between the levels",
    ]
    rows = []
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        for shortlist, entry in sorted(found["shortlists"].items(), key=lambda item: int(item[0])):
            how = "cosine" if int(shortlist) == COSINE else f"V of {shortlist}"
            row = [f"`{found['model']}`", f"{found['terms']['epsilon']:g}/255", how, str(len(entry["clean"]))]
            row += [percent(share(entry["clean"])), percent(share(entry["noise"]))]
            for name in names:
                done = entry["rounds"].get(name)
                asked = done and rights(done["marks"])
                row.append("–" if done is None else f"{int((~asked).sum())} of {len(asked)}")
            between = sum(done["only_unrounded"] for done in entry["rounds"].values())
            rows.append([*row, percent(share(held(entry))), str(between)])
    return markdown(head, rows)
