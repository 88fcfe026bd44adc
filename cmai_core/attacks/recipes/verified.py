"""Recipes that know verified answering: against both of its stages, one after the other, and against V_verify alone.

Success is an answer that is wrong after verification: by the attacked system's own rule, by the one that is given, by
the one in the model's card, or by the usual one.
"""

from __future__ import annotations

from cmai_core.attacks.specs import GRADIENTS, PIXELS, Recipe

_MAKERS = "cmai_core.attacks.recipes.makers.verified"
_IMAGE = {
    "family": GRADIENTS,
    "modality": "image",
    "knowledge": "white box",
    "norms": PIXELS,
    "needs": ("classes", "heads"),
    "counts": "steps",
    "number": 20,
    "restarts": True,
    "own_objective": True,
    "paper": "Tramèr et al., On Adaptive Attacks to Adversarial Example Defenses",
    "year": 2020,
    "url": "https://arxiv.org/abs/2002.08347",
    "absent": "The lab's models answer without verification: the command line and the benchmark have it.",
}

ROWS = (
    Recipe(
        slug="verified-pgd",
        title="PGD on both stages of verified answering",
        word="verification-aware PGD",
        **_IMAGE,
        threat="pixels, so that the answer is wrong after verification",
        make=f"{_MAKERS}:together",
        cited=("steps",),
        remarks={"objective": "margin of the fused scores + weight · margin over the shortlist", "weight": 0.5},
        compare="pgd at equal steps on the same system",
    ),
    Recipe(
        slug="shortlist-verifier",
        title="Out of the shortlist, then against V_verify",
        word="shortlist, then verifier",
        **_IMAGE,
        threat="pixels, so that what is true is not verified, or else verified as false",
        make=f"{_MAKERS}:one_after_other",
        cited=("steps",),
        remarks={"members": "k false options before all that is true; V_verify; the fused scores"},
        compare="verified-pgd at three times its steps on the same system",
        cost=9.0,
    ),
    Recipe(
        slug="verifier-pgd",
        title="PGD on V_verify alone",
        word="PGD on the verifier",
        **_IMAGE,
        threat="pixels, so that V_verify prefers what is false",
        make=f"{_MAKERS}:verifier",
        cited=("steps",),
        compare="verified-pgd at equal steps on the same system: what the shortlist keeps",
    ),
)
