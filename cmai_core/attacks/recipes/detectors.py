"""Recipes against a model with a detector around it: wrong and accepted, and the two mirror images."""

from __future__ import annotations

from cmai_core.attacks.specs import GRADIENTS, PIXELS, Recipe

_MAKERS = "cmai_core.attacks.recipes.makers.detector"
_IMAGE = {
    "family": GRADIENTS,
    "modality": "image",
    "knowledge": "white box",
    "norms": PIXELS,
    "needs": ("detector",),
    "counts": "steps",
    "restarts": True,
}
_PGD = {"variant_of": "pgd", "number": 10, "interactive": 20, "step_size": True}
_BRYNIARSKI = (
    "Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient Descent"
)

ROWS = (
    Recipe(
        slug="adaptive",
        title="Adaptive ensemble against a detector",
        word="adaptive ensemble",
        **_IMAGE,
        threat="pixels, so that the answer is wrong and accepted",
        make=f"{_MAKERS}:ensemble",
        paper=f"Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses; members after {_BRYNIARSKI} (2022)",
        year=2020,
        url="https://arxiv.org/abs/2002.08347",
        cited=("steps",),
        remarks={"members": "every form of awareness × task loss and margin, the plain losses first"},
        compare="pgd and autoattack, whose successes the detector may reject: count only what is accepted",
        number=20,
        objective="aware",
        own_objective=True,
        cost=24.0,
    ),
    Recipe(
        slug="detector-pgd",
        title="PGD aware of a detector",
        word="detector-aware PGD",
        **_IMAGE,
        **_PGD,
        threat="pixels, so that the answer is wrong and accepted",
        make=f"{_MAKERS}:aware",
        paper=_BRYNIARSKI,
        year=2022,
        url="https://arxiv.org/abs/2106.15023",
        cited=("form",),
        remarks={"forms": "lagrangian (ours), selective or orthogonal (theirs)"},
        compare="pgd at equal steps on the same detector",
        objective="aware",
    ),
    Recipe(
        slug="accept-false",
        title="A false caption accepted",
        word="false caption accepted",
        **_IMAGE,
        **_PGD,
        threat="pixels, so that the given texts are accepted",
        make=f"{_MAKERS}:accepting",
        remarks={"objective": "score − threshold"},
        compare="reject-true on the same detector",
        objective="accept",
    ),
    Recipe(
        slug="reject-true",
        title="A true pair rejected",
        word="true pair rejected",
        **_IMAGE,
        **_PGD,
        threat="pixels, so that the given texts are rejected",
        make=f"{_MAKERS}:rejecting",
        remarks={"objective": "threshold − score"},
        compare="accept-false on the same detector",
        objective="reject",
    ),
)
