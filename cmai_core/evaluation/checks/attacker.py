"""The attack under test, at any budget and effort; and the searches it is compared with."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.attacks.objectives.objective import TaskObjective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.searches.external import External
from cmai_core.attacks.specs import LENGTHS, Recipe
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.budget import Budget, norm_of
from cmai_core.errors import OptionError
from cmai_core.options import one_of, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import sample_generators

# Half of the range a pixel has: any picture can be turned into mid-grey (Carlini et al. 2019, sanity tests).
LARGE = 128 / 255


@dataclass(frozen=True)
class Attacker:
    """An attack that can be rebuilt with other settings.

    Attributes:
        base: as it was given. rebuild: ε → the attack at it; None where its budget cannot be set from outside.
    """

    base: Attack
    rebuild: Callable[[float], Attack] | None

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def norm(self) -> str:
        return self.base.threat.norm

    @property
    def effort(self) -> str | None:
        """The search's option that says how long it searches; None where there is none."""
        return next((name for name in ("steps", "queries") if hasattr(self.base.search, name)), None)

    @property
    def external(self) -> bool:
        return isinstance(self.base.search, External)

    @property
    def averaged(self) -> int:
        """Most gradients that are averaged in one step, over the members of an ensemble."""
        return max(found for found in _values(self.base.describe(), "eot") or [1])

    def at(self, epsilon: float | None = None, **settings: Any) -> Attack:
        """Return the attack with another ε, or other options of its search."""
        attack = self.base if epsilon is None else self.rebuild(epsilon)
        return (
            dataclasses.replace(attack, search=dataclasses.replace(attack.search, **settings)) if settings else attack
        )

    def with_search(self, search: Any, objective: Any = None) -> Attack:
        """Return another search for the same threat and the same success."""
        return dataclasses.replace(
            self.base, search=search, objective=self.base.objective if objective is None else objective
        )


def _values(plain: Any, name: str) -> list[int]:
    """Return values of a key anywhere in a description."""
    if isinstance(plain, Mapping):
        own = [plain[name]] if isinstance(plain.get(name), int) else []
        return own + [v for value in plain.values() for v in _values(value, name)]
    if isinstance(plain, (list, tuple)):
        return [v for value in plain for v in _values(value, name)]
    return []


def attacker_of(
    attack: Any, model: Any, task: Any, dataset: Any, norm: str, epsilon: float | None, values: int, seed: int
) -> Attacker:
    """Make an `Attacker` of whatever may be tested.

    Args:
        attack: an `Attack`; a `Recipe`; a recipe as a grid writes it ("pgd", "apgd:steps=50"); an object of Foolbox or
            torchattacks; a function (model, batch) → pixels, which is given `epsilon=` where it takes that.
        norm, epsilon: of recipes and functions, in the units of `ThreatModel`; None: the attack's own ε, or its usual
            budget.
        values: 3·H·W.

    Raises:
        OptionError: something else, or a recipe that changes no picture.
    """
    if isinstance(attack, Attack):
        base = dataclasses.replace(attack, threat=attack.threat.sized(values))
        base = base if epsilon is None else _budget(base, epsilon)
        return Attacker(base, None if isinstance(base.search, External) else functools.partial(_budget, base))
    one_of("norm", norm, LENGTHS)
    if isinstance(attack, (str, Recipe)):
        base = _recipe(attack, task, dataset, norm, epsilon, values)
        if getattr(model, "rejects", False) and hasattr(model, "fooled"):
            base = dataclasses.replace(base, success=model.fooled(task, dataset))
        return Attacker(base, functools.partial(_budget, base))
    if not callable(attack):
        raise OptionError(
            f"attack={attack!r} is not accepted.", "Accepted: an Attack, a recipe, or a function (model, batch)."
        )
    epsilon = Budget.usual(norm).pixels(values) if epsilon is None else epsilon
    return _outside(attack, task, dataset, norm, epsilon, values, seed)


def _budget(attack: Attack, epsilon: float) -> Attack:
    """Return the attack at another ε; a step of fixed length grows with it."""
    search, old = attack.search, float(torch.as_tensor(attack.threat.epsilon, dtype=torch.float64).max())
    length = getattr(search, "step_size", None)
    if length is not None and old > 0 and dataclasses.is_dataclass(search):
        search = dataclasses.replace(search, step_size=length * epsilon / old)
    return dataclasses.replace(attack, threat=dataclasses.replace(attack.threat, epsilon=epsilon), search=search)


def _recipe(recipe: str | Recipe, task: Any, dataset: Any, norm: str, epsilon: float | None, values: int) -> Attack:
    from cmai_core.evaluation.runs.entries import parse_entry

    entry = parse_entry(recipe.slug if isinstance(recipe, Recipe) else recipe, {})
    if entry.where or entry.modality != "image":
        raise OptionError(f"{entry.label!r} is no recipe on pictures.", "Accepted: `cmai recipes`, modality image.")
    amount = None if epsilon is None else Budget.of_pixels(norm, epsilon, values).amount
    attack = entry.experiment(norm=norm, epsilon=amount).build(task, dataset, values)
    return dataclasses.replace(attack, name=entry.label)


def _outside(attack: Any, task: Any, dataset: Any, norm: str, epsilon: float, values: int, seed: int) -> Attacker:
    name = getattr(attack, "__name__", type(attack).__name__)
    kinds = {kind.__module__.partition(".")[0] for kind in type(attack).__mro__}
    if kinds & {"foolbox", "torchattacks"}:
        from cmai_core.evaluation.runs.external import attack_of

        def library(budget: float) -> Attack:
            amount = Budget.of_pixels(norm, budget, values).amount
            chosen = {"name": name, "norm": norm, "epsilon": amount, "seed": seed}
            return attack_of(attack, task, dataset, values, **chosen)

        return Attacker(library(epsilon), library)
    settable = _takes_epsilon(attack)

    def function(budget: float) -> Attack:
        return Attack(
            threat=ThreatModel(norm, budget),
            objective=TaskObjective(task, dataset=dataset),
            search=External(name=name, function=functools.partial(attack, epsilon=budget) if settable else attack),
            success=Untargeted(task, dataset=dataset),
            name=name,
        )

    return Attacker(function(epsilon), function if settable else None)


def _takes_epsilon(function: Any) -> bool:
    try:
        return "epsilon" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


@strict_options
@dataclass(frozen=True, kw_only=True)
class RandomNoise:
    """Draws of noise at the edge of the budget: corners of the linf ball (signs) and uniform points, by turns.

    Attributes:
        draws: pictures tried for each sample; the best one is kept.
    """

    draws: int = 10

    def __post_init__(self) -> None:
        whole("draws", self.draws, 1)

    def describe(self) -> dict:
        return {"search": "random noise", "draws": self.draws}

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Try every draw on every sample."""
        record, region = SearchRecord(problem, watch, self.draws), problem.region
        rows = record.rows()
        for draw in range(self.draws):
            if record.stop():
                break
            generators = sample_generators(seed, [f"{sample}/noise" for sample in problem.ids], draw)
            if draw % 2 == 0 and type(region) is LinfRegion:
                shape, like = region.centre.shape[1:], region.centre
                signs = [torch.rand(shape, generator=g, dtype=like.dtype) < 0.5 for g in generators]
                point = torch.where(torch.stack(signs).to(like.device), region.lower, region.upper)
            else:
                point = region.random_start(generators)
            record.score(point, rows, draw + 1)
            record.steps_done = draw + 1
        return record.outcome()


def large_epsilon(norm: str, pixels: Sequence[int]) -> float:
    """Return a budget under which any picture can become (nearly) any other; `pixels`: the shape 3×H×W."""
    row = norm_of(norm)
    everything = min(row.highest, pixels[-1] * pixels[-2])
    return Budget(norm, 255 * LARGE if row.in_255 else everything).pixels(math.prod(pixels))
