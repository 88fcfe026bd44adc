"""Attacks: threat model × objective × search.

For example `pgd(-Consistency(), epsilon=4 / 255, steps=20)(model, batch, seed=0)` gives an `AttackResult`.
"""

from cmai_core.attacks.attack import Attack
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.success import Criterion, Flagged, Raised, Untargeted
from cmai_core.attacks.recipes.presets import fgsm, pgd, task_pgd
from cmai_core.attacks.result import AttackResult, Rate
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel

__all__ = [
    "Attack",
    "AttackResult",
    "Consistency",
    "Criterion",
    "Flagged",
    "GradientSearch",
    "Objective",
    "Raised",
    "Rate",
    "TaskObjective",
    "ThreatModel",
    "Untargeted",
    "fgsm",
    "pgd",
    "task_pgd",
]
