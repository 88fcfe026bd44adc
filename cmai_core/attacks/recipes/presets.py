"""Named attacks: a few lines that name the parts and the paper they come from."""

from __future__ import annotations

from typing import Any

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.success import Criterion, Raised, Untargeted
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel


def pgd(
    objective: Objective,
    *,
    norm: str = "linf",
    epsilon: Any = None,
    success: Criterion | None = None,
    **options: Any,
) -> Attack:
    """PGD (Madry et al. 2018, arXiv 1706.06083): projected gradient ascent from a random start.

    Args:
        objective: what is raised.
        norm, epsilon: as in `ThreatModel`; epsilon None: the norm's usual budget.
        success: when a sample is fooled (default: its objective rose).
        options: of `GradientSearch`: steps, step_size, restarts, random_start, momentum, keep, stop_on_success.

    Raises:
        OptionError: an option that is not known or not accepted.
    """
    search = GradientSearch(**options)
    return Attack(
        threat=ThreatModel(norm, epsilon), objective=objective, search=search, success=success or Raised(), name="pgd"
    )


def fgsm(objective: Objective, *, epsilon: Any = None, success: Criterion | None = None) -> Attack:
    """FGSM (Goodfellow et al. 2015, arXiv 1412.6572): one step of length ε by the gradient's sign; exact if linear."""
    search = GradientSearch(steps=1, step_scale=1.0, random_start=False, keep="last")
    threat = ThreatModel("linf", epsilon)
    return Attack(threat=threat, objective=objective, search=search, success=success or Raised(), name="fgsm")


def task_pgd(task: Any, *, dataset: Any = None, alpha: float = 1.0, beta: float = 0.0, **options: Any) -> Attack:
    """PGD on `alpha · task loss − beta · S_c` (the inner problem of MBAT); success: the task's prediction is wrong.

    Args:
        task: a task of `cmai_core.tasks`; dataset: handed to its `prepare`.
        alpha, beta: weights of the two parts.
        options: as in `pgd`.
    """
    objective = alpha * TaskObjective(task, dataset=dataset) - beta * Consistency()
    return pgd(objective, success=Untargeted(task, dataset=dataset), **options)
