"""Attacks: threat model × objective × search.

For example `pgd(-Consistency(), epsilon=4 / 255, steps=20)(model, batch, seed=0)` gives an `AttackResult`. Names are
imported when they are first asked for, so that descriptions of attacks can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily

if TYPE_CHECKING:
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

_HOMES = {
    "attack": ("Attack",),
    "objectives.objective": ("Consistency", "Objective", "TaskObjective"),
    "objectives.success": ("Criterion", "Flagged", "Raised", "Untargeted"),
    "recipes.presets": ("fgsm", "pgd", "task_pgd"),
    "result": ("AttackResult", "Rate"),
    "searches.gradient": ("GradientSearch",),
    "threats.image": ("ThreatModel",),
}

__getattr__ = lazily(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
