"""Makers of the recipes that know verified answering.

    attack = get_recipe("verified-pgd").build(task=task, dataset=dataset, epsilon=Budget("linf", 2))
    result = attack(System(model, answering=VerifiedAnswers.of_card(model)), batch, seed=0)

Every maker takes `threat` (a `ThreatModel`), `task` and `dataset` as image recipes do, the options of `GradientSearch`,
and `shortlist`, `temperature`, `gamma` and `kappa` of the rule that is attacked (`VerifiedAnswers`; one of them given,
the others are the usual ones; none: the attacked system's own, that of the model's card, or the usual one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.classes import Margin, check_classes
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.recipes.makers.image import resolve_task
from cmai_core.attacks.recipes.makers.maker import Maker, option_names
from cmai_core.attacks.searches.ensemble import Cascade, Member
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.tasks.stages import answered, check_verifiable, outside, second_stage
from cmai_core.tasks.verified import VerifiedAnswers

_RULE = tuple(field.name for field in fields(VerifiedAnswers))


def _maker(make: Callable[..., tuple[Objective, Any]], *names: str) -> Maker:
    """Make a maker. `make`: (task, dataset, rule, its options and those of the search) → objective and search."""

    def build(threat: ThreatModel, **options: Any) -> Attack:
        task, dataset = resolve_task(options.pop("task", None)), options.pop("dataset", None)
        check_classes(task)
        check_verifiable(task)
        given = {name: options.pop(name) for name in _RULE if name in options}
        rule = VerifiedAnswers(**given) if given else None
        objective, search = make(task, dataset, rule, **options)
        success = Untargeted(answered(task, rule), dataset=dataset)
        return Attack(threat=threat, objective=objective, search=search, success=success)

    own = dict.fromkeys(("task", "dataset", *_RULE, *names, *option_names(GradientSearch)))
    return Maker(build, tuple(own), (make, GradientSearch))


def _together(task: Any, dataset: Any, rule: Any, weight: float = 0.5, **options: Any) -> tuple[Objective, Any]:
    objective = Margin(answered(task, rule), dataset=dataset) + weight * Margin(outside(task, rule), dataset=dataset)
    return objective, GradientSearch(**options)


def _one_after_other(task: Any, dataset: Any, rule: Any, **options: Any) -> tuple[Objective, Any]:
    search = GradientSearch(**options)
    goals = {"outside": outside(task, rule), "verifier": second_stage(task, rule), "answer": answered(task, rule)}
    members = [
        Member(name=name, search=search, objective=Margin(goal, dataset=dataset)) for name, goal in goals.items()
    ]
    return members[-1].objective, Cascade(members=tuple(members), micro_batch=search.micro_batch)


def _verifier(task: Any, dataset: Any, rule: Any, **options: Any) -> tuple[Objective, Any]:
    return Margin(second_stage(task, rule), dataset=dataset), GradientSearch(**options)


together = _maker(_together, "weight")
one_after_other = _maker(_one_after_other)
verifier = _maker(_verifier)
