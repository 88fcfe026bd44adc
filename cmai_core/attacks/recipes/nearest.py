"""Recipes that look for the nearest adversarial example: one search serves every ε."""

from __future__ import annotations

from cmai_core.attacks.specs import LENGTHS, NEAREST, Recipe

_MAKERS = "cmai_core.attacks.recipes.makers.image"
_IMAGE = {
    "family": NEAREST,
    "modality": "image",
    "knowledge": "white box",
    "threat": "pixels",
    "minimum_norm": True,
    "objective": "margin",
    "needs": ("classes",),
}

ROWS = (
    Recipe(
        slug="fab",
        title="Fast adaptive boundary",
        word="FAB",
        **_IMAGE,
        make=f"{_MAKERS}:fab",
        paper="Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        year=2020,
        url="https://arxiv.org/abs/1907.02044",
        cited=("steps", "alpha", "eta", "beta"),
        compare="FAB of torchattacks and AutoAttack: median distance to the boundary",
        norms=LENGTHS,
        counts="steps",
        number=100,
        restarts=True,
    ),
    Recipe(
        slug="deepfool",
        title="DeepFool",
        word="DeepFool",
        **_IMAGE,
        make=f"{_MAKERS}:deepfool",
        paper="Moosavi-Dezfooli et al., DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks",
        year=2016,
        url="https://arxiv.org/abs/1511.04599",
        cited=("steps", "overshoot", "candidates"),
        compare="DeepFool of Foolbox, element by element; of torchattacks and ART: median distance",
        norms=LENGTHS,
        home="l2",
        counts="steps",
        number=50,
    ),
    Recipe(
        slug="cw",
        title="Carlini and Wagner, L2",
        word="C&W",
        **_IMAGE,
        make=f"{_MAKERS}:carlini_wagner",
        paper="Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks",
        year=2017,
        url="https://arxiv.org/abs/1608.04644",
        cited=("steps", "step_size", "searches", "initial", "confidence"),
        remarks={"objective": "f6"},
        compare="C&W of Foolbox, element by element; of torchattacks (one weight) and ART: median distance. The "
        "authors' code takes 10,000 steps",
        norms=("l2",),
        counts="steps",
        number=1000,
        interactive=50,
        cost=27.0,
    ),
)
