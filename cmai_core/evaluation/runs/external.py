"""Outside attackers as cells: any function, and objects of Foolbox and torchattacks.

    run(Grid(recipes=["pgd", "theirs@"]), store, outside={"theirs": foolbox.attacks.LinfPGD(steps=20)})

What they return is brought into the ε-ball, rounded and judged like every other example. Foolbox and torchattacks see a
classifier (`Classifier`): the model's scores of the task's options, which is what these libraries attack.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.objective import TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.searches.external import External
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.budget import Budget
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.entries import Entry
from cmai_core.registry import imported
from cmai_core.seeds import sample_seed

# How far below the others' scores right options stand that are not the label.
_BELOW = 10.0


def find(entry: Entry, given: Mapping[str, Any]) -> Any:
    """Return the attacker that an entry of a grid means.

    Raises:
        OptionError: it cannot be imported, was not given, or cannot be called.
    """
    if entry.where == "python":
        if entry.slug not in given:
            raise OptionError(
                f"No outside attacker {entry.slug!r} was given.",
                f"Accepted: {', '.join(given) or 'names of outside={…}'}, or name@module:function.",
            )
        attacker = given[entry.slug]
    else:
        try:
            attacker = imported(entry.where)
        except (ImportError, AttributeError) as error:
            raise OptionError(
                f"The outside attacker {entry.label} cannot be imported: {error}.",
                "Accepted: name@module:function, with the module on the Python path.",
            ) from error
    if not callable(attacker):
        raise OptionError(f"The outside attacker {entry.slug} cannot be called.", "Accepted: function(model, batch).")
    return attacker


def attack_of(
    attacker: Any,
    task: Any,
    dataset: Any,
    value_count: int,
    *,
    name: str,
    norm: str = "linf",
    epsilon: float = 4.0,
    seed: int = 0,
) -> Attack:
    """Return an outside attacker as an `Attack`.

    Args:
        attacker: function(model, batch) → pixels, or an object of Foolbox or torchattacks.
        value_count: 3·H·W of the model's pixels. norm, epsilon: in the units of a grid.

    Raises:
        OptionError: the task has no class scores, which Foolbox and torchattacks need.
    """
    budget = Budget(norm, epsilon).pixels(value_count)
    kind = _library(attacker)
    if kind and not (hasattr(task, "logits") and hasattr(task, "true_classes")):
        raise OptionError(
            f"The task {task.name} has no class scores, which attacks of {kind} need.",
            "Choose a task of choices (zero-shot, retrieval, vqa, nlvr).",
        )
    function = Seeded(attacker=attacker, library=kind, task=task, dataset=dataset, epsilon=budget, seed=seed)
    return Attack(
        threat=ThreatModel(norm, budget),
        objective=TaskObjective(task, dataset=dataset),
        search=External(name=name, function=function),
        success=Untargeted(task, dataset=dataset),
        name=name,
    )


def _library(attacker: Any) -> str:
    modules = {kind.__module__.partition(".")[0] for kind in type(attacker).__mro__}
    return next((name for name in ("foolbox", "torchattacks") if name in modules), "")


@dataclass(frozen=True)
class Seeded:
    """An outside attacker as a function of (model, batch), with the global random numbers set and put back.

    Attributes:
        attacker, library: the attacker, and "foolbox", "torchattacks" or "". task, dataset: what it is judged by.
        epsilon: in [0, 1] units. seed: with the batch's ids it sets the random numbers.
    """

    attacker: Any
    library: str
    task: Any
    dataset: Any
    epsilon: float
    seed: int

    def address_content(self) -> dict[str, Any]:
        """Return what of it matters to its results (a torchattacks object also carries the model it was made for)."""
        state: Any = self.attacker
        if self.library == "torchattacks":
            state = [_settings(part) for part in (self.attacker, *self.attacker._attacks.values())]
        return {"attacker": state, "library": self.library, "epsilon": self.epsilon}

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        import numpy as np

        seed = sample_seed(self.seed, "\x1f".join(batch.ids), 0)
        devices = [batch.pixels.device] if batch.pixels.device.type == "cuda" else []
        before = np.random.get_state()
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                return self._attack(model, batch)
        finally:
            np.random.set_state(before)

    def _attack(self, model: Any, batch: Batch) -> torch.Tensor:
        if not self.library:
            return self.attacker(model, batch)
        view = Classifier(model, self.task, self.dataset, batch).eval()
        if self.library == "foolbox":
            foolbox = importlib.import_module("foolbox")  # no dependency: who brings its object has it
            shown = foolbox.PyTorchModel(view, bounds=(0, 1), device=batch.pixels.device)
            return self.attacker(shown, batch.pixels, view.labels, epsilons=self.epsilon)[1].detach()
        attacker = copy.deepcopy(self.attacker, {id(self.attacker.model): view})
        attacker.set_model(view)
        attacker.set_device(batch.pixels.device)
        for part in (attacker, *attacker._attacks.values()):
            if hasattr(part, "eps"):
                part.eps = self.epsilon
        return attacker(batch.pixels, view.labels).detach()


def _settings(attacker: Any) -> dict[str, Any]:
    """Return the plain options of a torchattacks object."""
    kept = {k: v for k, v in vars(attacker).items() if v is None or isinstance(v, (bool, int, float, str, list, tuple))}
    return {
        "type": f"{type(attacker).__module__}.{type(attacker).__qualname__}",
        **kept,
        "eps": None,
        "model_name": None,
    }


class Classifier(nn.Module):
    """A model with a task as a classifier of pixels: N×3×H×W in [0, 1] → N×C scores of the task's options.

    Several options may be right of one picture, where a classifier has one label: the likeliest right option of the
    clean picture. The other right ones stand below all scores, so that reaching them is no success.

    Called with fewer pictures than the batch has, it takes each for the batch's nearest one: libraries drop those
    that are fooled already.

    Attributes:
        labels: int64 N.
    """

    def __init__(self, model: Any, task: Any, dataset: Any, batch: Batch):
        super().__init__()
        self._model, self._task = [model], task
        self.register_buffer("clean", batch.pixels.detach().flatten(1))
        self.scale = nn.Parameter(torch.ones((), device=batch.pixels.device), requires_grad=False)
        with torch.no_grad():
            self._prepared = task.prepare(model, list(batch.pairs), dataset)
            true = task.true_classes(self._prepared)
            scores = task.logits(model, model.image_features(batch.pixels), self._prepared)
            known = torch.where(true.any(dim=1, keepdim=True), true, torch.ones_like(true))
            self.labels = scores.masked_fill(~known, float("-inf")).argmax(dim=1)
            self._others = true.clone()
            self._others[torch.arange(len(true)), self.labels] = False

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        model, prepared, others = self._model[0], self._prepared, self._others
        if len(pixels) != len(self.clean):
            rows = torch.cdist(pixels.detach().flatten(1), self.clean.to(pixels.dtype)).argmin(dim=1)
            prepared, others = prepared.select_rows(rows), others[rows]
        scores = self._task.logits(model, model.image_features(pixels), prepared) * self.scale
        floor = scores.detach().amin(dim=1, keepdim=True) - _BELOW
        return torch.where(others, floor, scores)
