"""Named attacks on a model with a detector around it: wrong and accepted, and the two mirror images.

    attack = ADAPTIVE_RECIPES["adaptive"].build(task=task, dataset=dataset, tau=0.25, epsilon=4 / 255)
    result = attack(system, batch, seed=0)

Every `build` takes `norm` and `epsilon`, `tau` or `detectors` (neither: the attacked system's own detector), and the
options of `GradientSearch`; the first two take `task` and `dataset` as image recipes do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from cmai_core.attacks.adaptive import accept_false, adaptive, detector_pgd, reject_true
from cmai_core.attacks.attack import Attack
from cmai_core.attacks.gradient import GradientSearch
from cmai_core.attacks.image_recipes import resolve_task
from cmai_core.attacks.options import one_of
from cmai_core.attacks.recipe import Builder, Recipe, option_names

NORMS = ("linf", "l2", "l0", "patch")

_DETECTOR = ("norm", "epsilon", "tau", "detectors")
_SEARCH = option_names(GradientSearch)


def _builder(slug: str, make: Callable[..., Attack], *names: str, judged: bool = True) -> Builder:
    """`judged`: whether a task decides what is wrong."""

    def build(**options: Any) -> Attack:
        if "norm" in options:
            one_of("norm", options["norm"], NORMS)
        task = (resolve_task(options.pop("task", None)),) if judged else ()
        return dataclasses.replace(make(*task, **options), name=slug)

    own = ("task", "dataset") if judged else ()
    return Builder(build, tuple(dict.fromkeys((*own, *_DETECTOR, *names, *_SEARCH))))


_LINF = {"norm": "linf", "epsilon": 4 / 255}

_RECIPES = (
    Recipe(
        "adaptive",
        "Adaptive ensemble against a detector",
        "image",
        "white box",
        "pixels, so that the answer is wrong and accepted",
        "Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses; members after Bryniarski et al., Evading "
        "Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent (2022)",
        2020,
        "https://arxiv.org/abs/2002.08347",
        {"members": "every form of awareness × task loss and margin, the plain losses first", "steps": 20},
        "pgd and autoattack, whose successes the detector may reject: count only what is accepted",
        _builder("adaptive", adaptive, "losses", "forms", "plain", "margin"),
        **_LINF,
    ),
    Recipe(
        "detector-pgd",
        "PGD aware of a detector",
        "image",
        "white box",
        "pixels, so that the answer is wrong and accepted",
        "Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent",
        2022,
        "https://arxiv.org/abs/2106.15023",
        {"form": "lagrangian (ours), selective or orthogonal (theirs)"},
        "pgd at equal steps on the same detector",
        _builder("detector-pgd", detector_pgd, "form", "loss", "margin"),
        **_LINF,
    ),
    Recipe(
        "accept-false",
        "A false caption accepted",
        "image",
        "white box",
        "pixels, so that the given texts are accepted",
        "",
        None,
        "",
        {"objective": "score − threshold"},
        "reject-true on the same detector",
        _builder("accept-false", accept_false, judged=False),
        **_LINF,
    ),
    Recipe(
        "reject-true",
        "A true pair rejected",
        "image",
        "white box",
        "pixels, so that the given texts are rejected",
        "",
        None,
        "",
        {"objective": "threshold − score"},
        "accept-false on the same detector",
        _builder("reject-true", reject_true, judged=False),
        **_LINF,
    ),
)

ADAPTIVE_RECIPES: dict[str, Recipe] = {recipe.slug: recipe for recipe in _RECIPES}
"""Recipes against a detector by slug; `recipes.RECIPES` has them all."""
