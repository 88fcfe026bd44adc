"""Makers of the recipes against a model with a detector around it: wrong and accepted, and the two mirror images.

    attack = get_recipe("adaptive").build(task=task, dataset=dataset, tau=0.25, epsilon=Budget("linf", 4))
    result = attack(system, batch, seed=0)

Every maker takes `threat` (a `ThreatModel`), `tau` or `detectors` (neither: the attacked system's own detector), and
the options of `GradientSearch`; the first two take `task` and `dataset` as image recipes do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from cmai_core.attacks.adaptive_attack import accept_false, adaptive, detector_pgd, reject_true
from cmai_core.attacks.attack import Attack
from cmai_core.attacks.recipes.makers.image import resolve_task
from cmai_core.attacks.recipes.makers.maker import Maker, option_names
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.threats.image import ThreatModel


def _maker(make: Callable[..., Attack], *names: str, judged: bool = True) -> Maker:
    """Make the maker of an attack past a detector.

    Args:
        make: the attack as a function. names: its options besides the common. judged: whether a task decides what is
            wrong.
    """

    def build(threat: ThreatModel, **options: Any) -> Attack:
        task = (resolve_task(options.pop("task", None)),) if judged else ()
        return dataclasses.replace(make(*task, norm=threat.norm, epsilon=threat.epsilon, **options), threat=threat)

    own = ("task", "dataset") if judged else ()
    accepted = dict.fromkeys((*own, "tau", "detectors", *names, *option_names(GradientSearch)))
    return Maker(build, tuple(accepted), (make, GradientSearch))


ensemble = _maker(adaptive, "losses", "forms", "plain", "margin")
aware = _maker(detector_pgd, "form", "loss", "margin")
accepting = _maker(accept_false, judged=False)
rejecting = _maker(reject_true, judged=False)
