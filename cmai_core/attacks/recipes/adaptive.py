"""Named attacks on a model with a detector around it: wrong and accepted, and the two mirror images.

    attack = ADAPTIVE_RECIPES["adaptive"].build(task=task, dataset=dataset, tau=0.25, epsilon=4 / 255)
    result = attack(system, batch, seed=0)

Every `build` takes `norm` and `epsilon`, `tau` or `detectors` (neither: the attacked system's own detector), and the
options of `GradientSearch`; the first two take `task` and `dataset` as image recipes do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cmai_core.attacks.adaptive_attack import accept_false, adaptive, detector_pgd, reject_true
from cmai_core.attacks.attack import Attack
from cmai_core.attacks.recipes.image import USUAL, resolve_task
from cmai_core.attacks.recipes.recipe import Builder, Recipe, option_names
from cmai_core.attacks.searches.gradient import GradientSearch

NORMS = ("linf", "l2", "l0", "patch")

_DETECTOR = ("norm", "epsilon", "tau", "detectors")
_SEARCH = option_names(GradientSearch)


def _recipe(
    slug: str,
    title: str,
    goal: str,
    cited: tuple[str, int | None, str],
    constants: Mapping[str, Any],
    compare: str,
    make: Callable[..., Attack],
    *names: str,
    judged: bool = True,
) -> Recipe:
    """A recipe that moves pixels, by their gradient, past a detector.

    Args:
        goal: what for. cited: paper, year and address. make, names: the attack, and its options besides the common.
        judged: whether a task decides what is wrong.
    """

    def build(**options: Any) -> Attack:
        if options.get("epsilon") is None:
            options["epsilon"] = USUAL[options.get("norm", "linf")]
        task = (resolve_task(options.pop("task", None)),) if judged else ()
        return dataclasses.replace(make(*task, **options), name=slug)

    own = ("task", "dataset") if judged else ()
    builder = Builder(build, tuple(dict.fromkeys((*own, *_DETECTOR, *names, *_SEARCH))))
    threat = f"pixels, so that {goal}"
    return Recipe(
        slug, title, "image", "white box", threat, *cited, constants, compare, builder, "linf", 4 / 255, NORMS
    )


_BRYNIARSKI = (
    "Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent"
)
_OURS = ("", None, "")

_RECIPES = (
    _recipe(
        "adaptive",
        "Adaptive ensemble against a detector",
        "the answer is wrong and accepted",
        (
            f"Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses; members after {_BRYNIARSKI} (2022)",
            2020,
            "https://arxiv.org/abs/2002.08347",
        ),
        {"members": "every form of awareness × task loss and margin, the plain losses first", "steps": 20},
        "pgd and autoattack, whose successes the detector may reject: count only what is accepted",
        adaptive,
        "losses",
        "forms",
        "plain",
        "margin",
    ),
    _recipe(
        "detector-pgd",
        "PGD aware of a detector",
        "the answer is wrong and accepted",
        (_BRYNIARSKI, 2022, "https://arxiv.org/abs/2106.15023"),
        {"form": "lagrangian (ours), selective or orthogonal (theirs)"},
        "pgd at equal steps on the same detector",
        detector_pgd,
        "form",
        "loss",
        "margin",
    ),
    _recipe(
        "accept-false",
        "A false caption accepted",
        "the given texts are accepted",
        _OURS,
        {"objective": "score − threshold"},
        "reject-true on the same detector",
        accept_false,
        judged=False,
    ),
    _recipe(
        "reject-true",
        "A true pair rejected",
        "the given texts are rejected",
        _OURS,
        {"objective": "threshold − score"},
        "accept-false on the same detector",
        reject_true,
        judged=False,
    ),
)

ADAPTIVE_RECIPES: dict[str, Recipe] = {recipe.slug: recipe for recipe in _RECIPES}
"""Recipes against a detector by slug; `recipes.RECIPES` has them all."""
